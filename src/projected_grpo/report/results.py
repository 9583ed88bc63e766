"""What runs come to: rates by step, runs named by what they differ in, means over seeds.

`report` reads run directories with it, draw_dynamics.py and headline.py the collected rows
of older ones. Rates are those of student rows in training; intervals are over seeds.
"""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from projected_grpo.config import FORMERLY, PER_RUN, PRESETS, decisive, identity, varied
from projected_grpo.report.stats import ROUNDING, Estimate, Floats, t_interval
from projected_grpo.step_logger import RATE_WINDOW

RATES = {"att_s": "attempted", "hack_s": "hack", "gt_s": "solve"}
"""Column -> what tables call it."""
ALIGNMENT = {
    "cos_pre_t": "cos_pre, teacher rows",
    "cos_pre_s": "cos_pre, student rows",
    "hack_auroc": "hack_auroc, student rows",
}
"""Column -> what figures call it: does V see the teacher's hacks more than the student's rows?"""
REMOVED_FRACTIONS = {
    "removed_frac": "removed fraction, gradient",
    "removed_frac_update": "removed fraction, update",
}
"""Column -> what figures call it."""
MEASURED = ALIGNMENT | REMOVED_FRACTIONS
ONSET = 0.5
RETIRED = ("micro_batch",)
"""Machine settings of earlier versions."""
OF_ARMS = (
    *("v_hack", "pairs", "pair_norm"),
    *(name for name in PER_RUN if name not in ("arm", "seed", "lr")),
)
"""Settings that change nothing in a vanilla run but what it measures: those of the projection, the
rivals and the remedies."""


@dataclass
class Run:
    """One run: where it comes from (`run_record`) and its rows by step."""

    about: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides the rows, seed and arm apart; what the machine has a say in does not. A
        run that is older than a setting has what runs did before it, or its default."""
        default = json.loads(PRESETS[self.about["preset"]]().to_json())
        known = {**default, **FORMERLY, **self.about["settings"]}
        return decisive(known, but=(*RETIRED, "seed", "preset", "arm"))

    def identity(self, but: Collection[str] = ()) -> str:
        """A text that two runs of one arm share if and only if they have the same seed and
        settings, those of `but` left out."""
        return identity({"seed": self.about["seed"], **self.settings}, but)

    @property
    def finished(self) -> bool:
        """Did it take all its steps? Stopped, failed and killed runs did not."""
        return self.about["status"] == "finished"

    def curve(self, key: str) -> Floats:
        """A column by step, fractions as shares, NaN where nothing was counted (steps,)."""
        return np.array([_number(row.get(key)) for row in self.rows])

    def late(self, key: str, end: int | None = None) -> float:
        """Mean of a column over the last steps before `end` (default: of the run)."""
        end = len(self.rows) if end is None else end
        return mean_of(self.curve(key)[max(0, end - RATE_WINDOW) : end])

    def area(self, end: int | None = None) -> float:
        """Mean of attempted over all steps before `end`."""
        return mean_of(self.curve("att_s")[:end])

    def onset(self, end: int | None = None) -> int | None:
        """First step with attempted at 0.5 or more."""
        reached = np.nonzero(self.curve("att_s")[:end] >= ONSET)[0]
        return int(self.rows[reached[0]]["step"]) if len(reached) else None

    def accepted(self) -> int | None:
        """First step at which a quarter of the step's student rows hack."""
        for row in self.rows:
            n, d = row["hack_s"] or (0, 0)
            if d and n >= d / 4:
                return int(row["step"])
        return None


R = TypeVar("R", bound=Run)


def run_record(path: Path) -> dict[str, Any]:
    """What tells the run of a directory from others, and where it comes from.

    Raises OSError or ValueError where its files are missing or damaged."""
    stored = json.loads((path / "config.json").read_text(encoding="utf-8"))
    about = json.loads((path / "run.json").read_text(encoding="utf-8"))
    return {
        "run": path.name,
        "preset": stored["preset"],
        "arm": stored["arm"],
        "seed": stored["seed"],
        "settings": {k: v for k, v in stored.items() if k not in ("preset", "arm", "out_dir")},
        "git_sha": about["git_sha"],
        "model_sha256": about.get("model_sha256"),
        "problems_sha256": about.get("problems_sha256"),
        "device": about["gpu"] or about["device"],
        "status": about.get("status"),
        "argv": about["argv"],
    }


# --- Names


def runs_by_name(runs: Iterable[R]) -> dict[str, list[R]]:
    """name -> runs, by seed; a name is the arm and, of the settings that vary among these runs,
    those that vary among the arm's, or are not the preset's and act in it."""
    ordered = sorted(runs, key=lambda run: run.about["seed"])
    names = varied([run.settings for run in ordered])
    of_arm: dict[str, list[R]] = defaultdict(list)
    for run in ordered:
        of_arm[run.about["arm"]].append(run)
    found: dict[str, list[R]] = defaultdict(list)
    for arm, mine in of_arm.items():
        within = varied([run.settings for run in mine])
        for run in mine:
            default = json.loads(PRESETS[run.about["preset"]]().to_json())
            idle = OF_ARMS if arm == "vanilla" and run.settings["screen"] == "none" else ()
            tags = [
                f"{name}={value}"
                for name, value in ((name, run.settings.get(name)) for name in names)
                if name in within or (name not in idle and value != default.get(name))
            ]
            found[" ".join([arm, *tags])].append(run)
    return dict(sorted(found.items()))


def shared(runs: Sequence[Run]) -> dict[str, Any]:
    """Settings that all these runs have in common and that are not today's preset's."""
    default = json.loads(PRESETS[runs[0].about["preset"]]().to_json())
    left_out = {"model", *varied([run.settings for run in runs])}  # the model is named apart
    return {
        name: value
        for name, value in runs[0].settings.items()
        if name not in left_out and value != default.get(name)
    }


# --- Over seeds


def over_seeds(values: Iterable[float]) -> Estimate:
    """Mean with its 95 % t interval over seeds; no limits (NaN) where n = 1, nothing where it is 0.
    NaN (a run in which nothing was counted) is left out, and not in n."""
    some = np.array([value for value in values if not math.isnan(value)])
    if some.size > 1:
        return t_interval(some)
    value = float(some[0]) if some.size else math.nan
    return Estimate("mean", some.size, value, math.nan, math.nan, 0.95)


def has_interval(e: Estimate) -> bool:
    """Is there an interval? That of equal values has width 0 (but for rounding), which is no
    certainty."""
    return e.high - e.low > ROUNDING


def _number(value: Any) -> float:
    if isinstance(value, tuple | list):
        return value[0] / value[1] if value[1] else math.nan
    return math.nan if value is None else float(value)


def mean_of(values: Floats) -> float:
    """Mean of what was counted, NaN where nothing was."""
    return math.nan if np.isnan(values).all() else float(np.nanmean(values))
