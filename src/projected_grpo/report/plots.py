"""Figures of runs: curves with seed bands, differences with intervals, score distributions.

Pure: values in, figure out; `save` writes it. No pyplot, so no window and no global state. Colours
are those of Okabe and Ito, which the colour-blind can tell apart; `STYLES` adds dashes, since with
many arms no set of colours is enough.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from projected_grpo.report.results import RATES, Run, has_interval
from projected_grpo.report.stats import Estimate, Floats

Style = Mapping[str, Any]
Flags = NDArray[np.bool_]

BLACK, BLUE, ORANGE, GREY = "#222222", "#0072B2", "#D55E00", "#777777"
STYLES: tuple[Style, ...] = tuple(
    {"color": colour, "ls": dashes}
    for dashes in ("-", (0, (6, 2)), (0, (4, 1, 1, 1)))
    for colour in (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
)
VANILLA: Style = {"color": BLACK, "ls": "-"}
_STABLE: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}
"""No dates in the files: the same rows give the same bytes."""


def save(figure: Figure, path: Path, forms: Sequence[str] = ("png", "svg")) -> None:
    """Write the figure in these forms: `path` with the form as its suffix."""
    figure.tight_layout()
    with matplotlib.rc_context({"svg.hashsalt": "projected_grpo"}):
        for suffix in forms:
            target = path.with_name(f"{path.name}.{suffix}")
            figure.savefig(target, dpi=120, metadata=_STABLE[suffix])


def styles_of(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name; vanilla's is black."""
    others = [name for name in names if name.split(" ")[0] != "vanilla"]
    plain = [name for name in names if name not in others]
    found = {name: STYLES[i % len(STYLES)] for i, name in enumerate(others)}
    return found | {n: {**VANILLA, "ls": STYLES[6 * (i % 3)]["ls"]} for i, n in enumerate(plain)}


def stacked(runs: Sequence[Run], key: str) -> Floats:
    """A column of runs by step, NaN from where a run ends (runs, steps of the longest)."""
    longest = max(len(run.rows) for run in runs)
    curves = [run.curve(key) for run in runs]
    return np.stack([np.pad(c, (0, longest - len(c)), constant_values=np.nan) for c in curves])


def dynamics(
    title: str,
    arms: Mapping[str, Sequence[Run]],
    styles: Mapping[str, Style],
    columns: Mapping[str, str] = RATES,
    *,
    limits: tuple[float, float] | None = (-0.02, 1.02),
    band: bool = True,
) -> Figure:
    """A panel a column (key -> title) by step: mean over seeds with a band of one standard
    deviation, dotted where some of an arm's runs have no value; n counts those that have any. The
    panels share `limits`, or have their own where it is None. Many arms are clearer without
    `band`."""
    figure = Figure(figsize=(11, 3.2))
    grid = figure.subplots(1, len(columns), sharex=True, sharey=limits is not None, squeeze=False)
    axes = grid[0]
    for arm, asked in arms.items():
        runs = [r for r in asked if any(np.isfinite(r.curve(key)).any() for key in columns)]
        if not runs:
            continue
        unfinished = sum(not run.finished for run in runs)
        name = f"{arm} (n={len(runs)}" + (f", {unfinished} unfinished)" if unfinished else ")")
        steps = [row["step"] for row in max((run.rows for run in runs), key=len)]
        for axis, key in zip(axes, columns, strict=True):
            _curve(axis, steps, stacked(runs, key), styles[arm], name, band)
    for axis, text in zip(axes, columns.values(), strict=True):
        axis.set_title(text)
        axis.set_xlabel("step")
        if limits is not None:
            axis.set_ylim(*limits)
    axes[0].legend(frameon=False, fontsize=8)
    note = ", band one standard deviation" if band else ""
    figure.suptitle(f"{title}: mean over seeds{note}", fontsize=10)
    return figure


def _curve(
    axis: Axes, steps: Sequence[int], curves: Floats, style: Style, name: str, with_band: bool
) -> None:
    """Mean and band of an arm's runs (runs, steps). A value without neighbours is a point."""
    counts = np.isfinite(curves).sum(0)
    mean, deviation = _over_runs(curves)
    known, full = counts > 0, counts == len(curves)
    some = known & ~full
    end = int(np.flatnonzero(full)[-1]) + 1 if full.any() else 0
    axis.plot(steps[:end], np.where(full, mean, np.nan)[:end], label=name, **style)
    if some.any():
        beside = some | _shifted(some, 1) | _shifted(some, -1)
        axis.plot(steps, np.where(beside, mean, np.nan), **{**style, "ls": ":"})
    alone = known & ~_shifted(known, 1) & ~_shifted(known, -1)
    if alone.any():
        points = {"marker": ".", "ms": 4, "ls": "", "color": style["color"]}
        axis.plot(np.array(steps)[alone], mean[alone], **points)
    if with_band and (counts > 1).any():
        band = np.where(counts > 1, deviation, np.nan)
        axis.fill_between(steps, mean - band, mean + band, color=style["color"], alpha=0.15, lw=0)


def _shifted(flags: Flags, by: int) -> Flags:
    """Those of the step before (1) or after (-1)."""
    moved = np.roll(flags, by)
    moved[0 if by > 0 else -1] = False
    return moved


def for_any_runs(figure: Figure) -> Figure:
    """Dynamics with ticks at whole steps only, which short runs would not have, and the legend
    beside the panels, since it may be long. The committed figures are drawn without."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    if (legend := figure.axes[0].get_legend()) is not None:
        legend.remove()
    figure.axes[-1].legend(
        handles, names, frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    for axis in figure.axes:
        axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    return figure


def forest(
    title: str,
    lines: Mapping[str, Mapping[str, Estimate]],
    emphasised: Sequence[str],
    marks: Mapping[str, Sequence[float]],
    *,
    most_ticks: int | None = None,
) -> Figure:
    """Differences to vanilla with their intervals: a line an arm (the first on top), a panel a rate
    (arm -> rate -> difference). `marks` are dotted: what a difference is held against. Hollow: the
    differences are equal, which is no interval."""
    figure = Figure(figsize=(11, 1.3 + 0.28 * len(lines)))
    axes = figure.subplots(1, len(RATES), sharey=True)
    for axis, (key, name) in zip(axes, RATES.items(), strict=True):
        for y, (label, found) in enumerate(lines.items()):
            e = found[key]
            colour = "#1b6ca8" if label in emphasised else GREY
            face = colour if has_interval(e) else "white"
            axis.plot([e.low, e.high], [y, y], color=colour, lw=1.5)
            axis.plot(e.estimate, y, "o", color=colour, mfc=face, ms=5)
        for mark in marks.get(key, ()):
            axis.axvline(mark, color="#c8801a", lw=0.8, ls=":")
        axis.axvline(0, color="black", lw=0.8)
        axis.set_title(f"{name} - vanilla's", fontsize=9)
        if most_ticks is not None:
            axis.xaxis.set_major_locator(MaxNLocator(most_ticks))
    ticks = [f"{label} (n={_counts(found)})" for label, found in lines.items()]
    axes[0].set_yticks(range(len(lines)), ticks)
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    hollow = any(not has_interval(e) for found in lines.values() for e in found.values())
    note = " (hollow: no spread, so no interval)" if hollow else ""
    figure.suptitle(f"{title}: mean paired difference, 95 % t interval{note}", fontsize=9)
    return figure


def _counts(found: Mapping[str, Estimate]) -> str:
    """The n of all panels, one by one where they differ."""
    counts = [str(e.n) for e in found.values()]
    return counts[0] if len({*counts}) == 1 else ", ".join(counts)


KINDS: Mapping[str, Style] = {
    "hack": {"color": ORANGE, "ls": "-", "lw": 1.8},
    "solve": {"color": BLUE, "ls": (0, (5, 1)), "lw": 1.3},
    "neither": {"color": GREY, "ls": (0, (1, 1)), "lw": 1.3},
}
"""What a row comes to -> how its scores are drawn."""


def distributions(title: str, arms: Mapping[str, Mapping[str, Sequence[Floats]]]) -> Figure:
    """Densities of the student rows' hack scores (arm -> kind of row -> scores of each run), a
    panel an arm, all with the same bins: from the .5th to the 99.5th percentile, what lies beyond
    in the last."""
    parts = [scores for kinds in arms.values() for runs in kinds.values() for scores in runs]
    low, high = np.percentile(np.concatenate(parts), [0.5, 99.5])
    edges = np.linspace(low, max(high, low + 1e-9), 21)
    wide = min(3, len(arms))
    rows = -(-len(arms) // wide)
    figure = Figure(figsize=(11, 0.6 + 2.4 * rows))
    axes = list(figure.subplots(rows, wide, sharex=True, squeeze=False).flat)
    for axis, (arm, kinds) in zip(axes, arms.items(), strict=False):
        for kind, style in KINDS.items():
            runs = [scores for scores in kinds[kind] if len(scores)]
            if runs:
                inside = np.clip(np.concatenate(runs), edges[0], edges[-1])
                name = f"{kind} ({_number(len(inside), 'row')}, {_number(len(runs), 'run')})"
                axis.hist(inside, edges, density=True, histtype="step", label=name, **style)
        axis.set_title(arm, fontsize=9)
        axis.set_yticks([])
        axis.set_ylim(0, 1.5 * axis.get_ylim()[1])  # room for the legend
        axis.axvline(0, color="black", lw=0.8)
        axis.legend(frameon=False, fontsize=8)
    for axis in axes[len(arms) :]:
        axis.remove()
    for axis in axes[max(0, len(arms) - wide) : len(arms)]:  # the lowest of each column
        axis.set_xlabel("hack score")
        axis.tick_params(labelbottom=True)
    figure.suptitle(title, fontsize=10)
    return figure


def _number(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)


def _over_runs(curves: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation over runs (steps,); NaN where no run has a value."""
    found = np.ma.masked_invalid(curves)
    return found.mean(0).filled(np.nan), found.std(0).filled(np.nan)
