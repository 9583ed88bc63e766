"""Jobs on a SLURM cluster, through submitit. Their folder must be on a disk that nodes share."""

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence

from loguru import logger

from projected_grpo.env.errors import InputError
from projected_grpo.runs.sweep.grid import Command, continuation
from projected_grpo.runs.sweep.job import (
    LaunchOptions,
    SweepJob,
    ask,
    job_environment,
    python_command,
)


class Task:
    """What a SLURM job does, pickled by submitit: run the command. Where the time limit or a
    preemption comes first it has the command save, and submitit queues the job again."""

    def __init__(self, command: Command) -> None:
        self.command = command

    def __call__(self) -> None:
        """Run the command, or where the job was queued again (also by SLURM itself, after a node
        failed) what goes on with it. Raises InputError where it fails."""
        again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        command = continuation(self.command) if again else self.command
        self.process = subprocess.Popen(
            python_command(command),
            env=job_environment(),
            # SLURM warns every process of a job, and one that does not heed this signal would end
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        )
        code = self.process.wait()
        if code != 0:
            raise InputError(f"`{shlex.join(command)}` ended with exit code {code}")

    def checkpoint(self) -> object:
        """What to queue again; submitit calls this in a signal handler."""
        from submitit.helpers import DelayedSubmission

        self.process.terminate()
        # `wait` would wait for a lock that the interrupted `wait` of __call__ holds
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Task(self.command))


def run(jobs: Sequence[SweepJob], ids: Mapping[str, str], how: LaunchOptions) -> None:
    """Queue jobs, each after the one that it waits for. Raises InputError without submitit."""
    try:
        from submitit import SlurmExecutor
    except ImportError as error:
        raise InputError(
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
        numbers[job.name] = executor.submit(Task(job.command)).job_id
        logger.info("queued   {} as SLURM job {}", job.name, numbers[job.name])


def queued() -> dict[str, str]:
    """Name -> job of every job of this user that waits or runs."""
    lines = ask(["squeue", "--me", "--noheader", "--format=%i %j"]).splitlines()
    return {name: number for number, _, name in (line.partition(" ") for line in lines)}
