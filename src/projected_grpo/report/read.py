"""The runs that a report is of, read from their directories. One that is damaged is a sentence, not
the end of the report."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from projected_grpo.arms.arms import ARMS
from projected_grpo.config import PRESETS
from projected_grpo.env.errors import InputError
from projected_grpo.report.results import MEASURED, RATES, Run, run_record
from projected_grpo.report.rollouts import RolloutSample, Types, fault, sample_rollouts
from projected_grpo.step_logger import read_steps

FILES = ("config.json", "run.json", "steps.jsonl", "rollouts.jsonl")
"""What a run directory must have to be reported."""
_TEXT = (str, type(None))
ABOUT: Mapping[str, tuple[Types, Types]] = {
    "config.json": ({"preset": (str,), "arm": (str,), "seed": (int,), "steps": (int,)},
                    {"model": (str,)}),
    "run.json": ({"git_sha": _TEXT, "gpu": _TEXT, "device": (str,), "argv": (list,)},
                 {"status": _TEXT, "started": _TEXT}),
}  # fmt: skip
"""File -> what it must have, and what must be of this type where it is there."""
DAMAGE = (AttributeError, KeyError, OSError, TypeError, ValueError)
"""What a file of anything at all can raise in those who read it."""


class StoredRun(Run):
    """A run read from its directory."""

    def __init__(self, path: Path, rollouts: int) -> None:
        """Raises ValueError, which names the file, where one is damaged or of another version."""
        about: dict[str, Any] = {}
        for name, (required, typed) in ABOUT.items():
            with _reading(name):
                stored = json.loads((path / name).read_text(encoding="utf-8"))
                if not isinstance(stored, dict):
                    raise ValueError("it is no JSON object")
                if reason := fault(stored, required, typed):
                    raise ValueError(reason)
                about |= stored
        self.started: str = _encodable(about.get("started") or "")
        """The time, as ISO 8601 has it; empty: none is recorded."""
        with _reading("config.json"):
            super().__init__(_encodable(run_record(path)), [])
            for key, known in (("arm", ARMS), ("preset", PRESETS)):
                if self.about[key] not in known:
                    raise ValueError(f"there is no {key} {self.about[key]}")
            self.key = (self.about["preset"], self.about["arm"], self.identity())
        with _reading("steps.jsonl"):
            self.rows = read_steps(path / "steps.jsonl")
            for number, row in enumerate(self.rows, 1):
                if reason := _fault_of_step(row, number):
                    raise ValueError(f"row {number}: {reason}")
        with _reading("rollouts.jsonl"):
            self.sample: RolloutSample = sample_rollouts(path / "rollouts.jsonl", rollouts)
        self.path = path
        self.cut: list[str] = list(_cut(self))
        """Which of its files lack rows, in sentences."""


def _encodable(value: Any) -> Any:
    """A value of JSON with a question mark for what UTF-8 has no bytes for (half of a surrogate
    pair), which no page and no figure could show."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """What goes wrong inside is said of the file."""
    try:
        yield
    except DAMAGE as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise ValueError(f"{name}: {reason}") from error


def _fault_of_step(row: Mapping[str, Any], number: int) -> str:
    """What is wrong with a row of steps.jsonl; empty: nothing."""
    pair = (tuple, type(None))
    required: Types = {"step": (int,), "flavours": (dict,), **dict.fromkeys(RATES, pair)}
    if reason := fault(row, required, dict.fromkeys(MEASURED, (int, float, type(None)))):
        return reason
    if row["step"] != number:
        return f"it is step {row['step']}"
    for key in RATES:
        value = row[key]
        if value is not None and not (len(value) == 2 and all(isinstance(x, int) for x in value)):
            return f"{key} is {value!r:.40}"
    for key in MEASURED:
        if math.isinf(row.get(key) or 0):
            return f"{key} is infinite"
    for name, count in row["flavours"].items():
        if not isinstance(count, int):
            return f"flavours has {count!r:.40} of {name}"
    return ""


def _cut(run: StoredRun) -> Iterator[str]:
    """What is missing in the files of a run; where it is not finished, they may differ by the step
    that was in hand."""
    path, sample, steps = run.path, run.sample, len(run.rows)
    in_hand = not run.finished
    for name in ("steps.jsonl", "rollouts.jsonl"):
        if run.about["status"] and not _ends_a_line(path / name):
            yield f"{path / name} is cut: it ends in the middle of a row, which is left out"
    asked = run.settings["steps"]
    if run.finished and steps < asked:
        yield (
            f"{path / 'steps.jsonl'} is cut: it has {steps} of the {asked} steps that the finished "
            "run took"
        )
    if sample.last_step > steps + in_hand:
        yield (
            f"{path / 'steps.jsonl'} is cut: it ends at step {steps}, rollouts.jsonl at "
            f"{sample.last_step}"
        )
    elif sample.last_step < steps - in_hand:
        yield (
            f"{path / 'rollouts.jsonl'} is cut: it ends at step {sample.last_step}, steps.jsonl at "
            f"{steps}"
        )
    elif run.finished and sample.last_rows < sample.most_rows:
        yield (
            f"{path / 'rollouts.jsonl'} is cut: its last step has {sample.last_rows} rows, others "
            f"have {sample.most_rows}"
        )


def _ends_a_line(path: Path) -> bool:
    """Does the file end with the end of a line, or is it empty?"""
    with path.open("rb") as f:
        if not f.seek(0, os.SEEK_END):
            return True
        f.seek(-1, os.SEEK_END)
        return f.read() == b"\n"


def read(roots: Iterable[Path], rollouts: int) -> tuple[list[StoredRun], list[str]]:
    """The runs of these directories and folders of them, with up to so many rollouts each; and a
    sentence for everything that was left out. Raises InputError for a folder that is not there."""
    paths: dict[Path, Path] = {}
    left_out: list[str] = []
    for root in roots:
        if not root.is_dir():
            raise InputError(f"there is no folder {root}")
        found = run_directories(root)
        paths |= {path.resolve(): path for path in found}
        if not found:
            left_out.append(f"{root} is left out: there is no run in it")
    best: dict[tuple[str, ...], StoredRun] = {}
    for path in paths.values():
        try:
            if missing := [name for name in FILES if not (path / name).is_file()]:
                left_out.append(f"{path} is left out: it has no {' and no '.join(missing)}")
                continue
            run = StoredRun(path, rollouts)
        except (OSError, ValueError) as error:
            left_out.append(f"{path} is left out: damaged or of another version ({error})")
            continue
        other = best.setdefault(run.key, run)
        if other is not run:
            kept, dropped = (run, other) if _rank(run) > _rank(other) else (other, run)
            best[run.key] = kept
            left_out.append(_same(kept, dropped))
    names = Counter(run.path.name for run in best.values())
    for run in best.values():
        if names[run.path.name] > 1:  # in two folders
            run.about["run"] = str(run.path)
    return sorted(best.values(), key=lambda run: (run.about["seed"], run.about["run"])), left_out


def run_directories(root: Path) -> list[Path]:
    """The folders in `root`, itself included, that hold a run or what is left of one; hidden ones
    are of runs that were killed at their start."""
    marks = (path for name in ("run.json", "steps.jsonl") for path in root.rglob(name))
    return sorted({path.parent for path in marks if not path.parent.name.startswith(".")})


def _rank(run: StoredRun) -> tuple[bool, int]:
    return run.finished, len(run.rows)


def _same(kept: StoredRun, dropped: StoredRun) -> str:
    """Of two runs of one experiment, why this one is left out."""
    was, is_ = (run.about["status"] or "without a recorded end" for run in (dropped, kept))
    if kept.finished != dropped.finished:
        reason = f"is {is_} where it is {was}"
    elif len(kept.rows) != len(dropped.rows):
        reason = f"has {len(kept.rows)} steps where it has {len(dropped.rows)}"
    else:
        reason = "has as many steps and was found first"
    commits = [(run.about["git_sha"] or "unknown")[:7] for run in (dropped, kept)]
    differ = f"; their commits differ: {commits[0]} and {commits[1]}"
    return (
        f"{dropped.path} is left out: it is the same experiment as {kept.path}, which {reason}"
        f"{differ if commits[0] != commits[1] else ''}"
    )
