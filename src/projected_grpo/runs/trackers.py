"""Trackers: programs that draw a run's rows while it runs (`--track`).

steps.jsonl stays the truth. A row is written there first, and whatever a tracker then does can lose
none: one that fails is left out for the rest of the run, with a warning. A tracker that is opened
gets those rows of steps.jsonl that it lacks, so that one chosen (or broken) in the middle of a run
shows all of it, and a run that is resumed goes on where it was.

Every run of a pack is a run of the tracker. Keys are the columns' of docs/metrics.md.
"""

import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import Context
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from loguru import logger

from projected_grpo.env.errors import InputError
from projected_grpo.step_logger import Value, read_steps

PROJECT = "projected_grpo"
"""What the runs of wandb and trackio are filed under; for wandb $WANDB_PROJECT goes before it."""


@dataclass(frozen=True, slots=True)
class Tracker:
    """A tracker's run, open."""

    log: Callable[[int, Mapping[str, float]], object]
    """Takes a step above `seen` and its numbers."""
    close: Callable[[int], object]
    """Takes 0 where the run is finished, 1 where it stopped before."""
    seen: int
    """The last step that it has been given; -1: none."""
    where: str
    """Where a person finds the tracker's run."""


def _tensorboard(run: Path, name: str, settings: Mapping[str, Any]) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    # Readers drop what the folder had from step 0 on; all rows are written again.
    writer = SummaryWriter(run / "tensorboard", purge_step=0)
    writer.add_text("config", f"```\n{json.dumps(settings, indent=2)}\n```", 0)

    def log(step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)
        writer.flush()

    return Tracker(log, lambda code: writer.close(), -1, f"tensorboard --logdir={run.parent}")


def _wandb(run: Path, name: str, settings: Mapping[str, Any]) -> Tracker:
    import wandb

    # By its id a resumed run is the same one; offline each opening writes a folder of its own, with
    # all rows. train.log has what the console showed.
    opened = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=name,
        name=run.name,
        dir=run,
        config=dict(settings),
        resume="allow",
        reinit="create_new",  # the runs of a pack are open together
        settings=wandb.Settings(console="off", quiet=True),
    )
    return Tracker(
        log=lambda step, numbers: opened.log(dict(numbers), step=step, commit=True),
        close=lambda code: opened.finish(exit_code=code),
        seen=opened.step - 1,
        where=f"wandb sync {run}/wandb/offline-*"
        if opened.offline
        else opened.url or "nowhere: WANDB_MODE is disabled",
    )


def _trackio(run: Path, name: str, settings: Mapping[str, Any]) -> Tracker:
    import trackio

    def quietly(work: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        with redirect_stdout(StringIO()):  # where the run's own tables go
            return work(*args, **kwargs)

    # `init` ends the run that its context has open: each run of a pack gets a context of its own.
    opened = quietly(
        Context().run, trackio.init, PROJECT, name=name, config=dict(settings), resume="allow",
        embed=False,
    )  # fmt: skip
    return Tracker(
        log=lambda step, numbers: opened.log(dict(numbers), step=step),
        close=lambda code: quietly(opened.finish),
        # Private, but nothing else knows it of a Space or a server too, not of this disk only.
        seen=opened._next_step - 1,
        where=opened.url or f"trackio show --project={PROJECT}",
    )


TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
"""--track -> how it opens a run: its directory, a name that no other run has, its settings. Each is
the name of the package too, which is imported only then."""


def _require_account() -> None:
    import wandb

    try:
        wandb.login(verify=False)  # asks on a terminal; False where wandb is offline
    except (wandb.Error, ValueError) as error:  # no account or a bad key; a bad $WANDB_ setting
        said = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"--track=wandb: {said}, or set WANDB_MODE=offline") from error


CHECKS: dict[str, Callable[[], None]] = {"wandb": _require_account}
"""What else can be refused before a model is loaded."""


def numbers(row: Mapping[str, Value]) -> dict[str, float]:
    """A row as trackers take it: fractions (n, d) as shares n / d, counts by name as `key/name`,
    numbers as they are; nothing where there was nothing to measure, and the step is their axis."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, tuple):
            if value[1]:
                found[key] = value[0] / value[1]
        elif isinstance(value, Mapping):
            found |= {f"{key}/{name}": count for name, count in value.items()}
        elif value is not None and key != "step":
            found[key] = value
    return found


def require_package(name: str) -> None:
    """Raises InputError where the package of a tracker is not installed."""
    if importlib.util.find_spec(name) is None:
        raise InputError(
            f"--track={name} needs the package {name}: install projected_grpo[track], or leave "
            "--track out"
        )


class Trackers:
    """One tracker for all runs of a pack, or none. Raises InputError where it cannot be used."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._opened: dict[Path, Tracker] = {}
        if name == "none":
            return
        require_package(name)
        if name in CHECKS:
            CHECKS[name]()

    def open(self, runs: Sequence[Path]) -> None:
        """Open a tracker's run for each run directory, and give it the rows that it lacks."""
        if self._name == "none":
            return
        opened_by = TRACKERS[self._name]
        for run in runs:
            name, settings = _about(run)
            rows = [(row["step"], numbers(row)) for row in read_steps(run / "steps.jsonl")]
            with self._at_its_own_risk(run):
                self._opened[run] = tracker = opened_by(run, name, settings)
                for step, values in rows:
                    _pass_on(tracker, step, values)
        for where in dict.fromkeys(tracker.where for tracker in self._opened.values()):
            logger.info("track    {}", where)

    def step(self, rows: Mapping[Path, Mapping[str, Any]]) -> None:
        """Pass on a step's row of each run directory; steps.jsonl has it already."""
        for run, tracker in list(self._opened.items()):
            step, values = rows[run]["step"], numbers(rows[run])
            with self._at_its_own_risk(run):
                _pass_on(tracker, step, values)

    def close(self, status: str) -> None:
        """End the tracker's runs, as `status` in run.json says."""
        for run, tracker in list(self._opened.items()):
            with self._at_its_own_risk(run):
                tracker.close(0 if status == "finished" else 1)

    @contextmanager
    def _at_its_own_risk(self, run: Path) -> Iterator[None]:
        """For calls of the tracker alone: a fault of ours must not pass for one of its own."""
        try:
            yield
        except Exception as error:  # whatever another's program raises: hours of training go on
            self._opened.pop(run, None)
            logger.warning(
                "{} failed ({}: {}): {} goes on without it, its rows are in steps.jsonl",
                self._name, type(error).__name__, error, run.name,
            )  # fmt: skip


def _pass_on(tracker: Tracker, step: int, values: Mapping[str, float]) -> None:
    if step > tracker.seen:  # a step after the last checkpoint runs again, with the same row
        tracker.log(step, values)


def _about(run: Path) -> tuple[str, dict[str, Any]]:
    """A name that no other run has, be it of another folder or machine, and the settings."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
    return f"{run.name}-{record.get('id', 0)}", settings  # 0: a run of an earlier version
