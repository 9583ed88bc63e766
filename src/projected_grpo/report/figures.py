"""The figures of a report with their captions, which say what is not drawn and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from projected_grpo.report import curves, plots
from projected_grpo.report.comparisons import Comparison
from projected_grpo.report.experiments import Experiment, caution
from projected_grpo.report.read import StoredRun
from projected_grpo.report.results import (
    ALIGNMENT,
    RATES,
    REMOVED_FRACTIONS,
    has_interval,
    over_seeds,
)
from projected_grpo.report.stats import Estimate, Floats
from projected_grpo.step_logger import RATE_WINDOW

DRAWN = (
    f"Mean over seeds; the band is the {curves.BAND} over seeds, as in the tables, at each step by "
    f"itself and from {curves.BAND_MINIMUM} seeds on; dotted where some runs have no value, a "
    "point where the steps beside it have none."
)
"""What every curve by step is."""
ATTEMPTS_CAPTION = f"Student rows whose loophole pays even with a wrong stub as solution. {DRAWN}"
DYNAMICS_CAPTION = f"Attempted, hack and solve rate of student rows by step. {DRAWN}"
ALIGNMENT_CAPTION = (
    "Does V see the teacher's hacks more than the student's rows? Alignment of the gradient of "
    "each with the hack directions, before projection (above 0 is hack-ward), on one scale; and "
    "whether the hack score tells the student's hacks from its other rows (0.5 is chance; none "
    f"with fewer than two of a kind). Only what was measured. {DRAWN} n counts runs that have any."
)
REMOVED_CAPTION = (
    "The part of the gradient, or of AdamW's step, that the arm removes. "
    f"{DRAWN} n counts runs that have any."
)
SCORES_CAPTION = (
    "Hack scores (alignment of a row's own gradient with the hack directions) of student rows that "
    "hack, that solve and that do neither, each scaled to the same area; only rows that were "
    "scored (those with a gradient). Rows of one run are not independent."
)
DIFFERENCES_CAPTION = (
    "Every arm less the vanilla runs of its seeds: mean paired difference with its 95 % t interval "
    f"over seeds, the rates over the last {RATE_WINDOW} steps of the horizon, which are named. "
    "With two or three seeds these intervals are wide."
)
_NO_ALIGNMENT, _CHANCE = curves.Level(0.0), curves.Level(0.5, (-0.02, 1.02))
LEVELS = {"cos_pre_t": _NO_ALIGNMENT, "cos_pre_s": _NO_ALIGNMENT, "hack_auroc": _CHANCE}
"""Column -> what its curve is held against."""
FIGURE_KINDS = ("attempts", "dynamics", "differences", "alignment", "removed", "scores")
"""What the names of figures begin with, in the page's order."""


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure and what is said below it."""

    figure: plots.Figure
    caption: str
    narrow: plots.Figure | None = None
    """The same for a telephone; None: it is narrow itself."""


def figures_of(e: Experiment) -> dict[str, CaptionedFigure]:
    """Kind -> figure of an experiment; those without anything to draw are left out."""
    styles = plots.styles_of(list(e.arms))
    found = {}
    if any(np.isfinite(run.curve("att_s")).any() for run in e.runs):
        found["attempts"] = CaptionedFigure(
            curves.attempts(e.name, e.arms, styles), ATTEMPTS_CAPTION
        )
    if any(run.rows for run in e.runs):
        found["dynamics"] = by_step(e, styles, RATES, DYNAMICS_CAPTION)
    if lines := drawn_differences(e):
        projected = [label for label in lines if label.startswith("projected")]
        wide, narrow = (
            plots.forest(e.name, lines, projected, {}, most_ticks=5, narrow=narrow)
            for narrow in (False, True)
        )
        found["differences"] = CaptionedFigure(wide, differences_caption(e, lines), narrow)
    for kind, columns, caption in (
        ("alignment", ALIGNMENT, ALIGNMENT_CAPTION),
        ("removed", REMOVED_FRACTIONS, REMOVED_CAPTION),
    ):
        if measured := measured_columns(e, columns):
            found[kind] = by_step(e, styles, measured, caption, limits=None)
    scores = {name: scores_by_kind(runs) for name, runs in e.arms.items()}
    scores = {name: kinds for name, kinds in scores.items() if any(map(any_score, kinds.values()))}
    if scores:
        title = f"{e.name}: hack scores of student rows, all steps and seeds, by density"
        short = f"{e.name}: hack scores of student rows"
        narrow = plots.distributions(short, scores, narrow=True)
        found["scores"] = CaptionedFigure(
            plots.distributions(title, scores), SCORES_CAPTION, narrow
        )
    return found


def by_step(
    e: Experiment,
    styles: Mapping[str, plots.Style],
    columns: Mapping[str, str],
    caption: str,
    limits: tuple[float, float] | None = (-0.02, 1.02),
) -> CaptionedFigure:
    """Curves of these columns, wide and narrow."""
    wide, narrow = (
        curves.for_any_runs(
            curves.dynamics(
                e.name, e.arms, styles, columns, limits=limits, levels=LEVELS, narrow=narrow
            )
        )
        for narrow in (False, True)
    )
    return CaptionedFigure(wide, caption, narrow)


def measured_columns(e: Experiment, columns: Mapping[str, str]) -> dict[str, str]:
    """Those of the columns that are not 0, or empty, in all runs of the experiment."""
    return {
        key: title
        for key, title in columns.items()
        if any(np.nan_to_num(run.curve(key)).any() for run in e.runs)
    }


def drawn_differences(e: Experiment) -> dict[str, dict[str, Estimate]]:
    """arm and steps -> rate -> difference to vanilla, at every horizon (`reason_against` says
    where not): what is seen early may be gone later."""
    return {
        f"{one.name}, steps {one.steps}": estimates(one)
        for one in e.against
        if not reason_against(e, one)
    }


def estimates(one: Comparison) -> dict[str, Estimate]:
    """rate -> mean difference to vanilla."""
    return {key: over_seeds(one.by_seed[key]) for key in RATES}


def reason_against(e: Experiment, one: Comparison) -> str:
    """Why a comparison is not drawn: it is where two pairs or more were counted in every rate and
    the training curve is that of what is deployed. Empty: it is drawn."""
    if why := caution(e.arms[one.name]):
        return why
    if one.pairs < 2:
        return "one pair" if one.pairs else "no pair"
    if min(estimate.n for estimate in estimates(one).values()) < 2:
        return "a rate was counted in fewer than two pairs"
    return ""


def differences_caption(e: Experiment, lines: Mapping[str, Mapping[str, Estimate]]) -> str:
    """The caption of the differences that are drawn."""
    parts = [DIFFERENCES_CAPTION]
    if not all(has_interval(estimate) for found in lines.values() for estimate in found.values()):
        parts.append("Hollow: the differences of all seeds are equal, which gives no interval.")
    arms = {one.name for one in e.against if not reason_against(e, one)}
    if len(arms) > 1:
        parts.append(f"The intervals are not corrected for the number of arms ({len(arms)}).")
    missing = {one.name: why for one in e.against if (why := reason_against(e, one))}
    if missing:
        listed = "; ".join(f"{name} ({why})" for name, why in missing.items())
        parts.append(f"Not drawn: {listed}.")
    return " ".join(parts)


def scores_by_kind(runs: Sequence[StoredRun]) -> dict[str, list[Floats]]:
    """kind -> hack scores of each run."""
    return {
        kind: [np.array(run.sample.scores[kind]) for run in runs] for kind in plots.OUTCOME_STYLES
    }


def any_score(runs: Sequence[Floats]) -> bool:
    """Has a run a score?"""
    return any(len(scores) for scores in runs)
