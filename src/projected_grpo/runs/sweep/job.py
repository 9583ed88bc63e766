"""What launchers have in common: a job, what they are told, and how a queue is asked."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from projected_grpo.env.errors import InputError
from projected_grpo.runs.commands import PART_OF_A_SWEEP
from projected_grpo.runs.ranks import without_place
from projected_grpo.runs.sweep.grid import Command
from projected_grpo.runs.sweep.settings import LocalOptions, PueueOptions, SlurmOptions


class NoQueueError(InputError):
    """The command of a queue is not on this host, or its daemon does not answer."""


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """One command to run."""

    name: str
    """What it is recognised by in a queue."""
    command: Command
    why: str = ""
    """For people."""
    after: str = ""
    """Name of the job that must have ended well before."""


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """All that launchers are told."""

    logs: Path
    """Folder for what jobs print."""
    local: LocalOptions = field(default_factory=LocalOptions)
    pueue: PueueOptions = field(default_factory=PueueOptions)
    slurm: SlurmOptions = field(default_factory=SlurmOptions)


def python_command(command: Command) -> list[str]:
    """The same command, run by this very interpreter and installation; one that begins with a .py
    file is that script."""
    is_script = any(word.endswith(".py") for word in command[:1])
    return [sys.executable, *(() if is_script else ("-m", "projected_grpo")), *command]


def job_environment() -> dict[str, str]:
    """The environment of jobs: what torchrun set for this process would make each of them one of
    several processes, which waits for the others."""
    return {**without_place(os.environ), PART_OF_A_SWEEP: "1"}


def ask(command: Sequence[str]) -> str:
    """The output of a queue's command; pueue gives a job the environment of that which adds it.
    Raises InputError where it fails, NoQueueError where it is not there."""
    if shutil.which(command[0]) is None:
        raise NoQueueError(
            f"{command[0]} is not on the PATH: install it, or run jobs here with --launcher=local"
        )
    done = subprocess.run(command, capture_output=True, text=True, env=job_environment())
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise InputError(f"`{shlex.join(command[:2])}` failed (exit {done.returncode}): {said}")
    return done.stdout
