"""What runs come to: rates by step, runs named by what they differ in, differences seed by seed.

`report` reads run directories with it, draw_dynamics.py and headline.py the collected rows
of older ones. Rates are those of student rows in training; intervals are over seeds.
"""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    "cos_pre_s": "cos_pre, student rows",
    "cos_pre_t": "cos_pre, teacher rows",
    "removed_frac": "removed fraction, gradient",
    "removed_frac_update": "removed fraction, update",
}
"""Column -> what figures call it."""
ONSET = 0.5
HORIZON = 40
"""Steps after which arms are compared, where the runs are as long."""
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
        return _nanmean(self.curve(key)[max(0, end - RATE_WINDOW) : end])

    def area(self, end: int | None = None) -> float:
        """Mean of attempted over all steps before `end`."""
        return _nanmean(self.curve("att_s")[:end])

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
        "device": about["gpu"] or about["device"],
        "status": about.get("status"),
        "argv": about["argv"],
    }


# --- Names


def named(runs: Iterable[R]) -> dict[str, list[R]]:
    """name -> runs, by seed; a name is the arm and the settings that vary among these runs."""
    ordered = sorted(runs, key=lambda run: run.about["seed"])
    names = varied([run.settings for run in ordered])
    arms: dict[str, list[R]] = defaultdict(list)
    for run in ordered:
        tags = [f"{name}={run.settings.get(name)}" for name in names]
        arms[" ".join([run.about["arm"], *tags])].append(run)
    return dict(sorted(arms.items()))


def shared(runs: Sequence[Run]) -> dict[str, Any]:
    """Settings that all these runs have in common and that are not today's preset's."""
    default = json.loads(PRESETS[runs[0].about["preset"]]().to_json())
    left_out = {"model", *varied([run.settings for run in runs])}  # the model is named apart
    return {
        name: value
        for name, value in runs[0].settings.items()
        if name not in left_out and value != default.get(name)
    }


# --- Seed by seed


@dataclass(frozen=True)
class Comparison:
    """An arm less the vanilla runs of its seeds and settings."""

    name: str
    pairs: int
    left_out: int
    """Runs of the arm for which there is no pair whose both runs came to the horizon."""
    steps: str
    """The span that rates are taken over."""
    by_seed: dict[str, Floats]
    """rate -> differences (pairs,)"""
    mixed: int
    """Pairs whose runs are of different commits."""


def long_enough(runs: Iterable[Run], end: int) -> dict[str, Run]:
    """The runs that have `end` steps, by seed and settings.

    Raises ValueError where two are the same experiment: seeds would be counted twice.
    """
    found: dict[str, Run] = {}
    for run in runs:
        if len(run.rows) < end:
            continue
        key = run.identity()
        if key in found:
            raise ValueError(
                f"{found[key].about['run']} and {run.about['run']} are the same experiment: "
                "collect one of them, or give them different labels"
            )
        found[key] = run
    return found


def compare(arms: Mapping[str, Sequence[Run]]) -> list[Comparison]:
    """Every arm against the vanilla runs of the same seeds and settings.

    Over the last steps of the first `HORIZON`, or of what the runs were asked for or the longest
    came to where that is less; and once more over the last steps that all these pairs have, where
    that is more. A pair of which one has not come to the horizon is left out and counted.
    """
    everyone = [run for runs in arms.values() for run in runs]
    asked = [run.settings["steps"] for run in everyone]
    horizon = min([HORIZON, *asked, max(len(run.rows) for run in everyone)])
    vanilla = long_enough([run for run in everyone if run.about["arm"] == "vanilla"], horizon)
    # What only the projection reads does not matter to a vanilla run; the same settings come first.
    alike = {run.identity(OF_ARMS): run for run in vanilla.values()}
    found = []
    for name, runs in arms.items():
        if runs[0].about["arm"] == "vanilla":
            continue
        pairs = []
        for key, run in long_enough(runs, horizon).items():
            partner = vanilla.get(key) or alike.get(run.identity(OF_ARMS))
            if partner is not None:
                pairs.append((run, partner))
        longest = min([len(run.rows) for pair in pairs for run in pair], default=horizon)
        mixed = sum(a.about["git_sha"] != b.about["git_sha"] for a, b in pairs)
        for end in sorted({horizon, longest}):
            span = f"{max(0, end - RATE_WINDOW) + 1}-{end}"
            by_seed = {key: differences(pairs, key, end) for key in RATES}
            left_out = len(runs) - len(pairs)
            found.append(Comparison(name, len(pairs), left_out, span, by_seed, mixed))
    return found


def differences(pairs: Iterable[tuple[Run, Run]], key: str, end: int) -> Floats:
    """Of a rate's mean over the last steps before `end`, pair by pair (pairs,)."""
    return np.array([a.late(key, end) - b.late(key, end) for a, b in pairs])


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


def _nanmean(values: Floats) -> float:
    return math.nan if np.isnan(values).all() else float(np.nanmean(values))
