"""Where the jobs of a sweep run: here (local), in pueue's queue, or on a SLURM cluster.

A job is an ordinary console command. `local` runs n at a time and waits for them; the other two
hand all over and return. What a queue holds is asked of the queue itself, by the jobs' names, so
that nothing is queued twice. Imports submitit only when SLURM is chosen.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from loguru import logger

from projected_grpo.cells import Command, continued
from projected_grpo.config import ConfigError

POLL_S = 0.1
LAST_LINES = 5
"""Of the output of a job that failed: shown."""
STOPPED = 130
"""Exit code of `train` where it was stopped and has saved."""


class LaunchError(RuntimeError):
    """Jobs cannot be launched, or some failed; the message is one sentence."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command to run."""

    name: str
    """What it is recognised by in a queue."""
    command: Command
    why: str = ""
    """For people."""
    after: str = ""
    """Name of the job that must have ended well before."""


@dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """Of --launcher=local."""

    at_once: int = 0
    """Jobs that run at the same time; 0: as many as there are GPUs, or one."""
    gpus: tuple[str, ...] = ()
    """Ids handed out through CUDA_VISIBLE_DEVICES, one a job, in turn where more jobs run than
    there are; default all that are visible here."""

    def __post_init__(self) -> None:
        if self.at_once < 0:
            raise ConfigError(f"at_once must not be negative, it is {self.at_once}")


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Of --launcher=slurm."""

    minutes: int = 240
    """Time limit of a job. One that reaches it saves, is queued again and goes on, up to three
    times."""
    grace_s: int = 300
    """Seconds before the limit at which a job is told to save: more than a step takes."""
    gpus: int = 1
    """GPUs of a job; 0 asks for none."""
    cpus: int = 8
    """CPU cores of a job: they grade."""
    partition: str = ""
    """Default: the site's."""
    sbatch: tuple[str, ...] = ()
    """Any other options of sbatch, such as account=alignment mem=64G."""

    def __post_init__(self) -> None:
        if not 0 < self.grace_s < 60 * self.minutes:
            raise ConfigError(
                f"grace_s {self.grace_s} must lie above 0 and below the {60 * self.minutes} "
                f"seconds of minutes = {self.minutes}"
            )
        if odd := [option for option in self.sbatch if "=" not in option]:
            raise ConfigError(f"an option of sbatch is NAME=VALUE, not {odd[0]!r}")


@dataclass(frozen=True, kw_only=True)
class How:
    """All that launchers are told."""

    logs: Path
    """Folder for what jobs print."""
    local: LocalOptions = field(default_factory=LocalOptions)
    slurm: SlurmOptions = field(default_factory=SlurmOptions)


def executable(command: Command) -> list[str]:
    """The same command, run by this very interpreter and installation."""
    return [sys.executable, "-m", "projected_grpo", *command]


# --- local


def visible_gpus() -> list[str]:
    """Ids of the GPUs that a job started here would see."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [gpu for gpu in given.split(",") if gpu]
    if shutil.which("nvidia-smi") is None:
        return []
    asked = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return [str(i) for i in range(asked.stdout.count("GPU "))] if asked.returncode == 0 else []


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects Ctrl-C, SIGTERM and a closed terminal instead of ending this process."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        logger.warning("stopping: jobs end after their step in hand; again to stop them at once")

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # one that is ignored stays so: who starts this under nohup wants it to outlive the terminal
    caught = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in caught}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class _Running:
    """A job that runs here."""

    job: Job
    process: subprocess.Popen[bytes]
    told: int = 0
    """Signals that were passed on to it."""


def _run_local(jobs: Sequence[Job], ids: Mapping[str, str], how: How) -> None:
    """Run jobs here, some at a time; one that fails does not stop the others.

    Ctrl-C (or SIGTERM) begins no more and has those that run stop as `train` does: after the step
    in hand, saved. A second one ends them at once. Raises KeyboardInterrupt then, and LaunchError
    where jobs failed.
    """
    gpus = list(how.local.gpus) or visible_gpus()
    free = list(range(how.local.at_once or len(gpus) or 1))
    waiting, ended = list(jobs), dict[str, bool]()  # name -> did it end well?
    running: dict[int, _Running] = {}  # by slot
    with _signals() as received:
        while running or (waiting and not received):
            for slot, one in list(running.items()):
                if (code := one.process.poll()) is not None:
                    del running[slot]
                    free.append(slot)
                    ended[one.job.name] = code == 0
                    _report(one.job, code, how.logs)
                elif one.told < len(received):
                    # TERM, not INT: it also ends a process that is still loading, and one that
                    # has INT ignored because a shell began the sweep in the background
                    one.process.terminate()
                    one.told += 1
            for job in [j for j in waiting if ended.get(j.after) is False]:
                logger.error("not begun: {}, as {} failed", job.name, job.after)
                waiting.remove(job)
                ended[job.name] = False
            ready = [j for j in waiting if not j.after or ended.get(j.after)]
            for job in ready[: len(free) if not received else 0]:
                waiting.remove(job)
                slot = free.pop(0)
                gpu = gpus[slot % len(gpus)] if gpus else None
                running[slot] = _Running(job, _begin(job, gpu, how.logs))
            time.sleep(POLL_S)
    if received:
        raise KeyboardInterrupt
    if failed := [name for name, well in ended.items() if not well]:
        raise LaunchError(
            f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)} (output in {how.logs})"
        )


def _begin(job: Job, gpu: str | None, logs: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    logger.info("began    {}{}", job.name, "" if gpu is None else f" on GPU {gpu}")
    with (logs / f"{job.name}.log").open("ab") as log:
        return subprocess.Popen(
            executable(job.command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            # not of the terminal's group: Ctrl-C would reach it twice, and twice means at once
            start_new_session=True,
        )


def _report(job: Job, code: int, logs: Path) -> None:
    if code in (0, STOPPED):
        logger.info("{} {}", "finished" if code == 0 else "stopped ", job.name)
        return
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    text = (logs / f"{job.name}.log").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()][-LAST_LINES:]
    logger.error("ended    {} ({}):\n    {}", job.name, how, "\n    ".join(lines))


def _nothing_queued() -> dict[str, str]:
    """What runs here shows in its run directory."""
    return {}


# --- pueue


def _ask(command: Sequence[str]) -> str:
    """The output of a queue's command. Raises LaunchError where it fails or is not there."""
    if shutil.which(command[0]) is None:
        raise LaunchError(f"{command[0]} is not on the PATH: install it, or choose --launcher")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise LaunchError(f"`{shlex.join(command[:2])}` failed (exit {done.returncode}): {said}")
    return done.stdout


def pueue_command(job: Job, after: str) -> list[str]:
    """`pueue add` for a job, to begin once the task `after` has ended well. pueue joins words with
    spaces and gives them to a shell, so the command is one quoted word."""
    label = f"{job.name}: why: {job.why}" if job.why else job.name
    return [
        *("pueue", "add", "--print-task-id"),
        *(("--after", after) if after else ()),
        *("--label", label, "--working-directory", str(Path.cwd())),
        *("--", shlex.join(executable(job.command))),
    ]


def _queue_pueue(jobs: Sequence[Job], ids: Mapping[str, str], how: How) -> None:
    tasks = dict(ids)
    for job in jobs:
        tasks[job.name] = _ask(pueue_command(job, tasks.get(job.after, ""))).strip()
        logger.info("queued   {} as pueue task {}", job.name, tasks[job.name])


def _queued_pueue() -> dict[str, str]:
    """Name -> task of every task that is not done; done ones have a status {"Done": ...}."""
    tasks = json.loads(_ask(["pueue", "status", "--json"]))["tasks"]
    return {
        task["label"].partition(":")[0]: number
        for number, task in tasks.items()
        if task["label"] and not (isinstance(task["status"], dict) and "Done" in task["status"])
    }


# --- SLURM


class SlurmTask:
    """What a SLURM job does, pickled by submitit: run the command. Where the time limit or a
    preemption comes first it has the command save, and submitit queues the job again."""

    def __init__(self, command: Command) -> None:
        self.command = command

    def __call__(self) -> None:
        """Run the command, or where the job was queued again (also by SLURM itself, after a node
        failed) what goes on with it. Raises LaunchError where it fails."""
        again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        command = continued(self.command) if again else self.command
        self.process = subprocess.Popen(
            executable(command),
            # SLURM warns every process of a job, and one that does not heed this signal would end
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        )
        code = self.process.wait()
        if code != 0:
            raise LaunchError(f"`{shlex.join(command)}` ended with exit code {code}")

    def checkpoint(self) -> object:
        """Called by submitit in a signal handler; what to queue again."""
        from submitit.helpers import DelayedSubmission

        self.process.terminate()
        # `wait` would wait for a lock that the interrupted `wait` of __call__ holds
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(SlurmTask(self.command))


def _queue_slurm(jobs: Sequence[Job], ids: Mapping[str, str], how: How) -> None:
    try:
        from submitit import SlurmExecutor
    except ImportError as error:
        raise LaunchError(
            "--launcher=slurm needs submitit: install projected_grpo[slurm]"
        ) from error
    asked, numbers = how.slurm, dict(ids)
    executor = SlurmExecutor(how.logs)
    for job in jobs:
        more = dict(option.split("=", 1) for option in asked.sbatch)
        if dependency := numbers.get(job.after):
            more |= {"dependency": f"afterok:{dependency}", "kill-on-invalid-dep": "yes"}
        executor.update_parameters(
            job_name=job.name,
            time=asked.minutes,
            signal_delay_s=asked.grace_s,
            gpus_per_node=asked.gpus or None,
            cpus_per_task=asked.cpus,
            partition=asked.partition or None,
            stderr_to_stdout=True,
            additional_parameters=more,
        )
        numbers[job.name] = executor.submit(SlurmTask(job.command)).job_id
        logger.info("queued   {} as SLURM job {}", job.name, numbers[job.name])


def _queued_slurm() -> dict[str, str]:
    """Name -> job of every job of this user that waits or runs."""
    lines = _ask(["squeue", "--me", "--noheader", "--format=%i %j"]).splitlines()
    return {name: number for number, _, name in (line.partition(" ") for line in lines)}


@dataclass(frozen=True)
class Launcher:
    """A place to run jobs."""

    queued: Callable[[], Mapping[str, str]]
    """What it holds already: name -> its own id."""
    launch: Callable[[Sequence[Job], Mapping[str, str], How], None]
    """Run or queue jobs; the second argument is what `queued` gave. Raises LaunchError."""


LAUNCHERS: dict[str, Launcher] = {
    "local": Launcher(_nothing_queued, _run_local),
    "pueue": Launcher(_queued_pueue, _queue_pueue),
    "slurm": Launcher(_queued_slurm, _queue_slurm),
}
