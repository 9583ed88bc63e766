"""The figures of a report with their captions, which say what is not drawn and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from projected_grpo.report import plots
from projected_grpo.report.experiments import Experiment, caution
from projected_grpo.report.read import StoredRun
from projected_grpo.report.results import (
    ALIGNMENT,
    RATES,
    Comparison,
    has_interval,
    over_seeds,
)
from projected_grpo.report.stats import Estimate, Floats
from projected_grpo.step_logger import RATE_WINDOW

DYNAMICS = (
    "Attempted, hack and solve rate of student rows by step: mean over seeds, band one standard "
    "deviation, dotted where some runs have no value."
)
MEASURED = (
    "Alignment of the gradient with the hack directions before projection, of student and of "
    "teacher rows (above 0 is hack-ward), and the part of the gradient or of AdamW's step that the "
    "arm removes; only what was measured. Mean over seeds, band one standard deviation, dotted "
    "where some runs have no value, a point where the steps beside it have none; n counts runs "
    "that have any."
)
SCORES = (
    "Hack scores (alignment of a row's own gradient with the hack directions) of student rows that "
    "hack, that solve and that do neither, each scaled to the same area; only rows that were "
    "scored (those with a gradient). Rows of one run are not independent."
)
DIFFERENCES = (
    "Every arm less the vanilla runs of its seeds: mean paired difference with its 95 % t interval "
    f"over seeds, the rates over the last {RATE_WINDOW} steps of the horizon, which are named. "
    "With two or three seeds these intervals are wide."
)
KINDS = ("dynamics", "alignment", "differences", "scores")
"""What the names of figures begin with, in the page's order."""


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure and what is said below it."""

    figure: plots.Figure
    caption: str


def figures_of(e: Experiment) -> dict[str, CaptionedFigure]:
    """Kind -> figure of an experiment; those without anything to draw are left out."""
    styles = plots.styles_of(list(e.arms))
    found = {}
    if any(run.rows for run in e.runs):
        drawn = plots.dynamics(e.name, e.arms, styles)
        found["dynamics"] = CaptionedFigure(plots.for_any_runs(drawn), DYNAMICS)
    if measured := measured_columns(e):
        drawn = plots.dynamics(e.name, e.arms, styles, measured, limits=None)
        found["alignment"] = CaptionedFigure(plots.for_any_runs(drawn), MEASURED)
    if lines := drawn_differences(e):
        projected = [label for label in lines if label.startswith("projected")]
        drawn = plots.forest(e.name, lines, projected, {}, most_ticks=5)
        found["differences"] = CaptionedFigure(drawn, differences_caption(e, lines))
    scores = {name: scores_by_kind(runs) for name, runs in e.arms.items()}
    scores = {name: kinds for name, kinds in scores.items() if any(map(any_score, kinds.values()))}
    if scores:
        title = f"{e.name}: hack scores of student rows, all steps and seeds, by density"
        found["scores"] = CaptionedFigure(plots.distributions(title, scores), SCORES)
    return found


def measured_columns(e: Experiment) -> dict[str, str]:
    """The columns of `ALIGNMENT` that some run of the experiment has values of."""
    return {
        key: title
        for key, title in ALIGNMENT.items()
        if any(np.isfinite(run.curve(key)).any() for run in e.runs)
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
    parts = [DIFFERENCES]
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
    return {kind: [np.array(run.sample.scores[kind]) for run in runs] for kind in plots.KINDS}


def any_score(runs: Sequence[Floats]) -> bool:
    """Has a run a score?"""
    return any(len(scores) for scores in runs)
