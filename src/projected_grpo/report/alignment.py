"""The founding description's own check of V: does it see the teacher's hacks more than the
student's rows?

`cos_pre_t` and `cos_pre_s` are the alignments with V of the gradients of a step's teacher and
student rows; steps that lack one of them (without teacher rows, say) say nothing here.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from projected_grpo.report.results import Run, has_interval, mean_of, over_seeds
from projected_grpo.report.stats import Estimate, Floats
from projected_grpo.report.tables import SEEDS, Cell, Table

SEEN = ("cos_pre_t", "cos_pre_s", "cos_pre_t - cos_pre_s", "hack_auroc")


def alignment_table(arms: Mapping[str, Sequence[Run]]) -> Table:
    """One line an arm that has steps with both alignments: their means over those steps, the paired
    difference, hack_auroc over all steps that have it, and the verdict of `seen_word`."""
    body: list[list[Cell]] = []
    for arm, asked in arms.items():
        runs = [run for run in asked if both(run).any()]
        if not runs:
            continue
        teacher, student = (over(runs, key) for key in SEEN[:2])
        apart = over_seeds(teacher - student)
        auroc = over_seeds([mean_of(run.curve("hack_auroc")) for run in runs])
        steps = [int(both(run).sum()) for run in runs]
        span = str(steps[0]) if len({*steps}) == 1 else f"{min(steps)} to {max(steps)}"
        cells: list[Cell] = [arm, seen_word(apart), over_seeds(teacher), over_seeds(student)]
        body.append([*cells, apart, auroc, len(runs), span])
    headers = ["arm", "V sees teacher rows", *SEEN, SEEDS, "steps with both"]
    return Table(headers, body, dict.fromkeys(SEEN, "mean"))


def both(run: Run) -> np.ndarray:
    """Steps that have both alignments (steps,), boolean."""
    return np.isfinite(run.curve("cos_pre_t")) & np.isfinite(run.curve("cos_pre_s"))


def over(runs: Sequence[Run], key: str) -> Floats:
    """Mean of a column over the steps that have both alignments (runs,)."""
    return np.array([mean_of(run.curve(key)[both(run)]) for run in runs])


def seen_word(apart: Estimate) -> str:
    """Does V see the teacher's rows more than the student's? By the interval of the difference."""
    if not has_interval(apart):
        return "undecided"
    if apart.low <= 0 <= apart.high:
        return "no difference shown"
    return "more" if apart.low > 0 else "less"
