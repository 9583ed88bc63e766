"""Arms compared seed by seed: each with vanilla, and with each of its controls.

Which arm is a control of which stands in the table of arms (`control_of` in arms/arms.py).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from projected_grpo.arms.arms import controls_of
from projected_grpo.arms.yoked import UNLIKE as YOKED_UNLIKE
from projected_grpo.arms.yoked import may_lead
from projected_grpo.report.results import OF_ARMS, RATES, Run
from projected_grpo.report.stats import Floats
from projected_grpo.step_logger import RATE_WINDOW

HORIZON = 40
"""Steps after which arms are compared, where the runs are as long."""
Pairs = Sequence[tuple[Run, Run]]
"""Runs of an arm, each with that of the reference that has its seed and settings."""


@dataclass(frozen=True)
class Comparison:
    """An arm less the runs of its seeds and settings of another arm, the reference."""

    name: str
    reference: str
    """vanilla, or a control of the arm."""
    runs: Sequence[Run]
    """Of the arm, all of them."""
    others: Sequence[Run]
    """Of the reference, those of the same seeds and settings, however long."""
    end: int
    """The step that rates are taken up to; both runs of every pair have it."""
    paired: Pairs

    @property
    def pairs(self) -> int:
        """Pairs whose runs both came to the horizon."""
        return len(self.paired)

    @property
    def left_out(self) -> int:
        """Runs of the arm for which there is no pair whose both runs came to the horizon."""
        return len(self.runs) - len(self.paired)

    @property
    def steps(self) -> str:
        """The span that rates are taken over."""
        return f"{max(0, self.end - RATE_WINDOW) + 1}-{self.end}"

    @property
    def mixed(self) -> int:
        """Pairs whose runs are of different commits."""
        return sum(a.about["git_sha"] != b.about["git_sha"] for a, b in self.paired)

    @cached_property
    def by_seed(self) -> dict[str, Floats]:
        """rate -> differences of its mean over the span (pairs,)."""
        return {
            key: np.array([a.late(key, self.end) - b.late(key, self.end) for a, b in self.paired])
            for key in RATES
        }

    def of_reference(self, key: str) -> Floats:
        """The reference's means of a rate over the span (pairs,)."""
        return np.array([b.late(key, self.end) for _, b in self.paired])


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


def horizon_of(arms: Mapping[str, Sequence[Run]]) -> int:
    """The step at which arms are first compared: `HORIZON`, or what the runs were asked for or the
    longest came to where that is less."""
    everyone = [run for runs in arms.values() for run in runs]
    asked = [run.settings["steps"] for run in everyone]
    return min([HORIZON, *asked, max(len(run.rows) for run in everyone)])


def compare(arms: Mapping[str, Sequence[Run]]) -> list[Comparison]:
    """Every arm against the vanilla runs of the same seeds and settings.

    Over the last steps before the horizon (`horizon_of`), and once more over the last steps that
    all these pairs have, where that is more. A pair of which one has not come to the horizon is
    left out and counted.
    """
    vanilla = [run for runs in arms.values() for run in runs if is_of(run, "vanilla")]
    found = []
    for name, runs in arms.items():
        if not is_of(runs[0], "vanilla"):
            found += compared(name, "vanilla", runs, vanilla, horizon_of(arms), but=OF_ARMS)
    return found


def compare_with_controls(arms: Mapping[str, Sequence[Run]]) -> list[Comparison]:
    """Every arm against each of its controls that is there with the same settings, as `compare`
    does against vanilla; a gate also against the runs that are yoked to it. A control without any
    run of the same seed and settings is left out."""
    everyone = [run for runs in arms.values() for run in runs]
    found = []
    for name, runs in arms.items():
        for control in controls_of(runs[0].about["arm"]):
            others = [run for run in everyone if is_of(run, control)]
            mine = compared(name, control, runs, others, horizon_of(arms))
            found += [one for one in mine if one.others]
        leads = may_lead(runs[0].about["arm"], runs[0].settings)
        for other, theirs in arms.items() if leads else ():
            if theirs[0].settings.get("screen_yoked"):
                mine = compared(name, other, runs, theirs, horizon_of(arms), but=YOKED_UNLIKE)
                found += [one for one in mine if one.others]
    return found


def compared(
    name: str,
    reference: str,
    runs: Sequence[Run],
    others: Sequence[Run],
    horizon: int,
    but: Collection[str] = (),
) -> list[Comparison]:
    """One arm against a reference, at the horizon and at the last step that all pairs have.

    A partner has the same seed and settings; where there is none, the same but for those of `but`,
    which do not matter to the reference. Raises ValueError as `long_enough` does.
    """
    wanted = {run.identity(but) for run in runs}
    others = [run for run in others if run.identity(but) in wanted]
    partners = long_enough(others, horizon)
    alike = {run.identity(but): run for run in partners.values()}
    paired = []
    for key, run in long_enough(runs, horizon).items():
        partner = partners.get(key) or alike.get(run.identity(but))
        if partner is not None:
            paired.append((run, partner))
    longest = min([len(run.rows) for pair in paired for run in pair], default=horizon)
    return [
        Comparison(name, reference, runs, others, end, paired) for end in sorted({horizon, longest})
    ]


def is_of(run: Run, arm: str) -> bool:
    """Is it a run of that arm?"""
    return run.about["arm"] == arm
