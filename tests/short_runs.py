"""Runs that many tests look at, each made once a session."""

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import projected_grpo
from projected_grpo.config import Config, SmokeConfig

BUILTIN = Path(projected_grpo.__file__).with_name("pairs") / "builtin.toml"
SHORT = SmokeConfig(
    arm="vanilla", seed=96, steps=2, max_new=110, problems="katas:validation", labels=False
)
"""A second or two. By this seed the teacher's hacks of four steps are at most so long."""


def few_pairs() -> str:
    """For `--pairs`, where V is extracted again and again: a file of 8 of the 72 built-in ones."""
    path = Path(os.environ["PROJECTED_GRPO_TESTS"]) / "pairs.toml"
    if not path.exists():
        head, *pairs = BUILTIN.read_text().split("[[pair]]")
        part = path.with_name(f"pairs.{os.getpid()}")
        part.write_text("[[pair]]".join([head, *pairs[:8]]))
        part.rename(path)
    return str(path)


def trained(cfg: Config) -> Path:
    """A finished run of these settings, to be read only; `out_dir` is not heeded. The first process
    of the session that asks makes it, the others wait."""
    from projected_grpo.train import train

    settings = replace(cfg, out_dir=Path())
    digest = hashlib.sha256(settings.to_json().encode()).hexdigest()[:16]
    folder = Path(os.environ["PROJECTED_GRPO_TESTS"]) / "runs" / digest
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "made"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            made.write_text(str(train(replace(cfg, out_dir=folder / "runs"))))
    return Path(made.read_text())


def copied(run: Path, folder: Path, *, steps: int | None = None) -> Path:
    """A copy that may be changed: whole, or as if it had been killed after so many steps."""
    shutil.copytree(run, folder)
    for checkpoint in (folder / "checkpoints").iterdir() if steps is not None else ():
        if int(checkpoint.name.removeprefix("step_")) > steps:
            shutil.rmtree(checkpoint)
    return folder


def forked(work: Callable[..., object], *args: object) -> BaseProcess:
    """A process that does this; it need not import anything anew."""
    process = get_context("fork").Process(target=work, args=args, daemon=True)
    process.start()
    return process


def run_command(said: Path, *words: str) -> None:
    """In a process of its own: `train WORDS`, with all that it says in a file."""
    from projected_grpo.cli import train_main

    sys.stdout = sys.stderr = said.open("w", buffering=1)
    train_main(list(words))
