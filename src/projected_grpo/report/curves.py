"""Curves of runs by step: mean over seeds with a band.

The band is one thing everywhere: `BAND`, the interval that tables have.
"""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from projected_grpo.report.plots import GREY, NARROW, WIDE, Style
from projected_grpo.report.results import RATES, Run, over_seeds
from projected_grpo.report.stats import Floats

Mask = NDArray[np.bool_]
BAND = "95 % t interval"
"""What the band of a curve is: the interval that tables have, at each step by itself."""
LONG_NAME = 26
"""Characters of a name at a line's end from which on all are smaller."""
LONGEST_AT_END = 40
"""Characters of a name above which all stand below the panel, which they would squeeze."""
WIDEST_BELOW = 80
"""Characters of a line there."""
BAND_MINIMUM = 3
"""Fewer seeds have no band: with two it would cover the panel."""


class Level(NamedTuple):
    """What a column is held against, a thin line; columns of one level have one scale."""

    value: float
    limits: tuple[float, float] | None = None


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
    levels: Mapping[str, Level] | None = None,
    band: bool = True,
    narrow: bool = False,
) -> Figure:
    """A panel a column (key -> title) by step: mean over seeds with a band (`BAND`), dotted where
    some of an arm's runs have no value; n counts those that have any. The panels share `limits`;
    where it is None they have their own, but for what `levels` says of a column. Many arms are
    clearer without `band`; `narrow` has the panels below each other."""
    figure = Figure(figsize=(NARROW, 1 + 1.9 * len(columns)) if narrow else (WIDE, 3.2))
    shape = (len(columns), 1) if narrow else (1, len(columns))
    axes = list(figure.subplots(*shape, sharex=True, sharey=limits is not None, squeeze=False).flat)
    for arm, asked in arms.items():
        if runs := with_values(asked, columns):
            for axis, key in zip(axes, columns, strict=True):
                _curve(
                    axis,
                    steps_of(runs),
                    stacked(runs, key),
                    styles[arm],
                    legend_name(arm, runs),
                    band,
                )
    for axis, (key, text) in zip(axes, columns.items(), strict=True):
        axis.set_title(text, **({"fontsize": 10} if narrow else {}))
        if not narrow or axis is axes[-1]:
            axis.set_xlabel("step")
        if levels and key in levels:
            axis.axhline(levels[key].value, color=GREY, lw=0.7)
        if limits is not None:
            axis.set_ylim(*limits)
    if levels and limits is None:
        _share_scale(axes, [levels.get(key) for key in columns])
    axes[0].legend(frameon=False, fontsize=8)
    note = f", band {BAND}" if band and has_band(arms, columns) else ""
    figure.suptitle(f"{title}: mean over seeds{note}", fontsize=10)
    return figure


def with_values(runs: Sequence[Run], columns: Iterable[str]) -> list[Run]:
    """The runs that have a value of one of these columns."""
    return [r for r in runs if any(np.isfinite(r.curve(key)).any() for key in columns)]


def has_band(arms: Mapping[str, Sequence[Run]], columns: Iterable[str]) -> bool:
    """Are there as many runs of an arm as a band needs?"""
    keys = [*columns]
    return any(len(with_values(runs, keys)) >= BAND_MINIMUM for runs in arms.values())


def legend_name(arm: str, runs: Sequence[Run]) -> str:
    """An arm as legends have it: with its n, and how many of its runs are not finished."""
    unfinished = sum(not run.finished for run in runs)
    return f"{arm} (n={len(runs)}" + (f", {unfinished} unfinished)" if unfinished else ")")


def steps_of(runs: Sequence[Run]) -> list[int]:
    """The steps of the longest run."""
    return [row["step"] for row in max((run.rows for run in runs), key=len)]


def _share_scale(axes: Sequence[Axes], levels: Sequence[Level | None]) -> None:
    """Panels that are held against the same level have its limits, or else the same."""
    for level in {*levels} - {None}:
        mine = [axis for axis, own in zip(axes, levels, strict=True) if own == level]
        lows, highs = zip(*(axis.get_ylim() for axis in mine), strict=True)
        for axis in mine:
            axis.set_ylim(level.limits if level and level.limits else (min(lows), max(highs)))


def attempts(title: str, arms: Mapping[str, Sequence[Run]], styles: Mapping[str, Style]) -> Figure:
    """Attempted by step, mean over seeds with a band (`BAND`), each arm's name at its line's
    end, or below the panel."""
    found = {arm: runs for arm, asked in arms.items() if (runs := with_values(asked, ["att_s"]))}
    below = max(map(len, found), default=0) > LONGEST_AT_END
    names = 0.17 * len(found)
    figure = Figure(figsize=(5.4, 3.4 + names if below else max(3.4, 0.6 + names)))
    axis = figure.subplots()
    ends: list[tuple[float, float, str]] = []
    colours: dict[str, str] = {}
    for arm, runs in found.items():
        curves, steps = stacked(runs, "att_s"), steps_of(runs)
        _curve(axis, steps, curves, styles[arm], legend_name(arm, runs), with_band=True)
        mean = _mean_over_runs(curves)
        last = int(np.flatnonzero(np.isfinite(mean))[-1])
        ends.append((mean[last], steps[last], f"{arm} (n={len(runs)})"))
        colours[ends[-1][2]] = styles[arm]["color"]
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("step")
    axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axis.set_ylabel("attempted, student rows")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    if below:
        handles, labels = axis.get_legend_handles_labels()
        lines = [fill(label, WIDEST_BELOW) for label in labels]
        place = {"loc": "upper left", "bbox_to_anchor": (-0.15, -0.2)}
        axis.legend(handles, lines, frameon=False, fontsize=7, **place)
    else:
        ends.sort(key=lambda end: end[0])  # equals stay in the order of arms
        _name_at_ends(axis, ends, colours, inches=0.75 * figure.get_figheight())
    note = f", band {BAND}" if has_band(found, ["att_s"]) else ""
    figure.suptitle(f"{title}: mean over seeds{note}", fontsize=10)
    return figure


def _name_at_ends(
    axis: Axes,
    ends: Sequence[tuple[float, float, str]],
    colours: Mapping[str, str],
    inches: float,
) -> None:
    """Names beside the ends (y, x, name) of lines, ascending in y, with a thin line to each, in
    a panel of so many inches' height."""
    size = 8 if max((len(name) for *_, name in ends), default=0) < LONG_NAME else 7
    heights = spread_out([y for y, *_ in ends], gap=1.04 * size * 1.2 / 72 / inches)
    low, high = axis.get_xlim()
    for (y, x, name), height in zip(ends, heights, strict=True):
        line = {"arrowstyle": "-", "lw": 0.6, "color": colours[name], "relpos": (0, 0.5)}
        axis.annotate(
            name, (x, y), (high + 0.03 * (high - low), height), va="center", fontsize=size,
            color=colours[name], annotation_clip=False,
            arrowprops=line | {"shrinkA": 1, "shrinkB": 2},
        )  # fmt: skip


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved as little as possible until any two lie `gap` apart, and above 0: the
    least squares of that, by pooling those that would overlap."""
    pools: list[tuple[float, int]] = []  # mean of (place - number * gap), how many
    for number, place in enumerate(places):
        mean, size = place - number * gap, 1
        while pools and pools[-1][0] >= mean:
            before, many = pools.pop()
            mean, size = (before * many + mean * size) / (many + size), size + many
        pools.append((mean, size))
    bases = [max(mean, 0.0) for mean, size in pools for _ in range(size)]
    return [base + number * gap for number, base in enumerate(bases)]


def _curve(
    axis: Axes, steps: Sequence[int], curves: Floats, style: Style, name: str, with_band: bool
) -> None:
    """Mean and band of an arm's runs (runs, steps). A value without neighbours is a point."""
    counts = np.isfinite(curves).sum(0)
    mean = _mean_over_runs(curves)
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
    if with_band and (counts >= BAND_MINIMUM).any():
        low, high = _intervals(curves)
        axis.fill_between(steps, low, high, color=style["color"], alpha=0.15, lw=0)


def _shifted(flags: Mask, by: int) -> Mask:
    """Those of the step before (1) or after (-1)."""
    moved = np.roll(flags, by)
    moved[0 if by > 0 else -1] = False
    return moved


def for_any_runs(figure: Figure) -> Figure:
    """Dynamics with ticks at whole steps only, which short runs would not have, and the legend
    beside the panels, or below them where they are `narrow`, since it may be long. The committed
    figures are drawn without."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    if (legend := figure.axes[0].get_legend()) is not None:
        legend.remove()
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    if figure.get_figwidth() == NARROW:
        columns = 1 if any(len(name) > 30 for name in names) else 2
        place = {"loc": "upper left", "bbox_to_anchor": (0, -0.35), "ncols": columns}
        figure.set_figheight(figure.get_figheight() + 0.16 * -(-len(names) // columns))
    figure.axes[-1].legend(handles, names, frameon=False, fontsize=7, **place)
    for axis in figure.axes:
        axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    return figure


def _mean_over_runs(curves: Floats) -> Floats:
    """Mean over runs (steps,); NaN where no run has a value."""
    return np.ma.masked_invalid(curves).mean(0).filled(np.nan)


def _intervals(curves: Floats) -> tuple[Floats, Floats]:
    """The t interval over runs at every step (steps,); NaN where fewer than `BAND_MINIMUM` have a
    value."""
    found = [over_seeds(values) for values in curves.T]
    limits = [(e.low, e.high) if e.n >= BAND_MINIMUM else (np.nan, np.nan) for e in found]
    low, high = np.array(limits).T
    return low, high
