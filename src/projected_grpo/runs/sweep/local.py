"""Jobs on this host, some at a time, each on a GPU of its own."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from loguru import logger

from projected_grpo.env.errors import InputError
from projected_grpo.runs.sweep.job import (
    LaunchOptions,
    SweepJob,
    job_environment,
    python_command,
)

POLL_S = 0.1
LAST_LINES = 5
"""Of the output of a job that failed: shown."""
STOPPED = 130
"""Exit code of `train` where it was stopped and has saved."""


def visible_gpus() -> list[str]:
    """Ids of the GPUs that a job started here would see."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [gpu.strip() for gpu in given.split(",") if gpu.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    asked = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    # at the start of a line only: "GPU 0: NVIDIA RTX 4090 Laptop GPU (UUID: ...)" is one
    found = [line for line in asked.stdout.splitlines() if line.startswith("GPU ")]
    return [str(i) for i in range(len(found))] if asked.returncode == 0 else []


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
class _Process:
    """A job that runs here."""

    job: SweepJob
    process: subprocess.Popen[bytes]
    told: int = 0
    """Signals that were passed on to it."""


def run(jobs: Sequence[SweepJob], ids: Mapping[str, str], how: LaunchOptions) -> None:
    """Run jobs here, some at a time; one that fails does not stop the others.

    Ctrl-C (or SIGTERM) begins no more and has those that run stop as `train` does: after the step
    in hand, saved. A second one ends them at once. Raises KeyboardInterrupt then, and InputError
    where jobs failed.
    """
    gpus = list(how.local.gpus) or visible_gpus()
    free = list(range(how.local.at_once or len(gpus) or 1))
    waiting, ended = list(jobs), dict[str, bool]()  # name -> did it end well?
    running: dict[int, _Process] = {}  # by slot
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
                running[slot] = _Process(job, _begin(job, gpu, how.logs))
            time.sleep(POLL_S)
    if received:
        raise KeyboardInterrupt
    if failed := [name for name, well in ended.items() if not well]:
        raise InputError(
            f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)} (output in {how.logs})"
        )


def _begin(job: SweepJob, gpu: str | None, logs: Path) -> subprocess.Popen[bytes]:
    environment = job_environment() | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    logger.info("began    {}{}", job.name, "" if gpu is None else f" on GPU {gpu}")
    with (logs / f"{job.name}.log").open("ab") as log:
        return subprocess.Popen(
            python_command(job.command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            # not of the terminal's group: Ctrl-C would reach it twice, and twice means at once
            start_new_session=True,
        )


def _report(job: SweepJob, code: int, logs: Path) -> None:
    if code in (0, STOPPED):
        logger.info("{} {}", "finished" if code == 0 else "stopped ", job.name)
        return
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    text = (logs / f"{job.name}.log").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()][-LAST_LINES:]
    logger.error("ended    {} ({}):\n    {}", job.name, how, "\n    ".join(lines))


def queued() -> dict[str, str]:
    """Nothing: what runs here shows in its run directory."""
    return {}
