"""Runs that many tests look at, each made once a session."""

import fcntl
import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from projected_grpo.config import Config, SmokeConfig

SHORT = SmokeConfig(
    arm="vanilla", seed=96, steps=2, max_new=110, problems="katas:validation", labels=False
)
"""A second or two. By this seed the teacher's hacks of four steps are at most so long."""
FEW_PAIRS = {"pair_flavours": ("print_only", "empty_tests")}
"""Where V is extracted again: 16 of the 72 pairs."""


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
