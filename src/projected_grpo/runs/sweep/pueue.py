"""Jobs in pueue's queue (https://github.com/Nukesor/pueue)."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from loguru import logger

from projected_grpo.runs.sweep.job import LaunchOptions, SweepJob, ask, python_command


def command(job: SweepJob, after: str) -> list[str]:
    """`pueue add` for a job, to begin once the task `after` has ended well. pueue joins words with
    spaces and gives them to a shell, so the command is one quoted word."""
    label = f"{job.name}: why: {job.why}" if job.why else job.name
    return [
        *("pueue", "add", "--print-task-id"),
        *(("--after", after) if after else ()),
        *("--label", label, "--working-directory", str(Path.cwd())),
        *("--", shlex.join(python_command(job.command))),
    ]


def run(jobs: Sequence[SweepJob], ids: Mapping[str, str], how: LaunchOptions) -> None:
    """Queue jobs, each after the one that it waits for. Raises InputError where pueue refuses."""
    tasks = dict(ids)
    for job in jobs:
        tasks[job.name] = ask(command(job, tasks.get(job.after, ""))).strip()
        logger.info("queued   {} as pueue task {}", job.name, tasks[job.name])


def queued() -> dict[str, str]:
    """Name -> task of every task that is not done; done ones have a status {"Done": ...}."""
    tasks = json.loads(ask(["pueue", "status", "--json"]))["tasks"]
    return {
        task["label"].partition(": ")[0]: number
        for number, task in tasks.items()
        if task["label"] and not (isinstance(task["status"], dict) and "Done" in task["status"])
    }
