"""Jobs in pueue's queue (https://github.com/Nukesor/pueue), version 4."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from projected_grpo.config import ConfigError
from projected_grpo.env.errors import InputError
from projected_grpo.runs.sweep.job import (
    LaunchOptions,
    NoQueueError,
    SweepJob,
    ask,
    python_command,
)
from projected_grpo.runs.sweep.settings import PueueOptions


def add_command(job: SweepJob, after: str, options: PueueOptions) -> list[str]:
    """`pueue add` for a job, to begin once the task `after` has ended well. pueue joins words with
    spaces and gives them to a shell, so the command is one quoted word."""
    label = f"{job.name}: why: {job.why}" if job.why else job.name
    line = shlex.join(python_command(job.command))
    if options.gpus:  # pueue numbers the slots of a group; each has a GPU of its own
        gpus = shlex.join(options.gpus)
        line = f'set -- {gpus}; shift "$PUEUE_WORKER_ID"; CUDA_VISIBLE_DEVICES="$1" exec {line}'
    return [
        *("pueue", "add", "--print-task-id", "--group", options.group),
        *(("--after", after) if after else ()),
        *("--label", label, "--working-directory", str(Path.cwd())),
        *("--", line),
    ]


def run(jobs: Sequence[SweepJob], ids: Mapping[str, str], how: LaunchOptions) -> None:
    """Queue jobs, each after the one that it waits for. Raises InputError where pueue refuses,
    ConfigError where its group has more slots than there are GPUs."""
    _open_group(how.pueue)
    tasks = dict(ids)
    for job in jobs:
        added = _ask_pueue(*add_command(job, tasks.get(job.after, ""), how.pueue))
        tasks[job.name] = added.strip()
        logger.info("queued   {} as pueue task {}", job.name, tasks[job.name])
    _warn_of_paused([how.pueue.group], _groups())


def queued() -> dict[str, str]:
    """Name -> task of every task that is not done; done ones have a status {"Done": ...}."""
    status = json.loads(_ask_pueue("pueue", "status", "--json"))
    waiting = {
        number: task
        for number, task in status["tasks"].items()
        if task["label"] and not (isinstance(task["status"], dict) and "Done" in task["status"])
    }
    _warn_of_paused([task["group"] for task in waiting.values()], status["groups"])
    return {task["label"].partition(": ")[0]: number for number, task in waiting.items()}


def _open_group(options: PueueOptions) -> None:
    """Make the group, with a slot for each GPU, where it is not there."""
    group, slots, there = options.group, len(options.gpus), _groups()
    if group not in there:
        _ask_pueue("pueue", "group", "add", group, "--parallel", str(slots or 1))
        logger.info("made pueue's group {} with {} slots", group, slots or 1)
    elif slots and (had := there[group]["parallel_tasks"]) > slots:
        raise ConfigError(
            f"pueue's group {group} runs {had} tasks at once and --pueue.gpus names {slots}: set "
            f"`pueue parallel --group {shlex.quote(group)} {slots}`, or name {had} GPUs"
        )


def _groups() -> dict[str, Any]:
    return json.loads(_ask_pueue("pueue", "group", "--json"))


def _warn_of_paused(groups: Iterable[str], there: Mapping[str, Any]) -> None:
    for group in dict.fromkeys(groups):
        if there[group]["status"] == "Paused":
            logger.warning(
                "pueue's group {} is paused, as after a daemon that was killed: its tasks begin "
                "after `pueue start --group {}`",
                group,
                shlex.quote(group),
            )


def _ask_pueue(*words: str) -> str:
    try:
        return ask(words)
    except InputError as error:
        if "connecting to daemon" not in str(error):
            raise
        raise NoQueueError(
            "no pueue daemon answers: start one with `pueued --daemonize`"
        ) from error
