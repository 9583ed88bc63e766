"""Figures of runs and their files: styles, differences with intervals, score distributions.

Pure: values in, figure out; `save` writes it, `as_svg` makes it text. No pyplot, so no window and
no global state. Colours are those of Okabe and Ito, which the colour-blind can tell apart; `STYLES`
adds dashes, since with many arms no set of colours is enough. curves.py draws what goes by step.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from projected_grpo.report.results import RATES, has_interval
from projected_grpo.report.stats import Estimate, Floats

Style = Mapping[str, Any]

BLACK, BLUE, ORANGE, GREY = "#222222", "#0072B2", "#D55E00", "#777777"
STYLES: tuple[Style, ...] = tuple(
    {"color": colour, "ls": dashes}
    for dashes in ("-", (0, (6, 2)), (0, (4, 1, 1, 1)))
    for colour in (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
)
VANILLA: Style = {"color": BLACK, "ls": "-"}
WIDE, NARROW = 11, 4.4
"""Inches: of figures beside a text, and of those for a telephone."""
_STABLE: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}
"""No dates in the files: the same rows give the same bytes."""


def save(figure: Figure, path: Path, forms: Sequence[str] = ("png", "svg")) -> None:
    """Write the figure in these forms: `path` with the form as its suffix."""
    figure.tight_layout()
    with matplotlib.rc_context({"svg.hashsalt": "projected_grpo"}):
        for suffix in forms:
            target = path.with_name(f"{path.name}.{suffix}")
            figure.savefig(target, dpi=120, metadata=_STABLE[suffix])


def as_svg(figure: Figure) -> str:
    """The figure as the text of an SVG file."""
    figure.tight_layout()
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "projected_grpo"}):
        figure.savefig(out, format="svg", metadata=_STABLE["svg"])
    return out.getvalue()


def styles_of(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name; vanilla's is black."""
    others = [name for name in names if name.split(" ")[0] != "vanilla"]
    plain = [name for name in names if name not in others]
    found = {name: STYLES[i % len(STYLES)] for i, name in enumerate(others)}
    return found | {n: {**VANILLA, "ls": STYLES[6 * (i % 3)]["ls"]} for i, n in enumerate(plain)}


def forest(
    title: str,
    lines: Mapping[str, Mapping[str, Estimate]],
    emphasised: Sequence[str],
    marks: Mapping[str, Sequence[float]],
    *,
    most_ticks: int | None = None,
    narrow: bool = False,
) -> Figure:
    """Differences to vanilla with their intervals: a line an arm (the first on top), a panel a rate
    (arm -> rate -> difference). `marks` are dotted: what a difference is held against. Hollow: the
    differences are equal, which is no interval. `narrow` has the panels below each other."""
    height = 1.3 + 0.28 * len(lines)
    figure = Figure(figsize=(NARROW, height * len(RATES)) if narrow else (WIDE, height))
    shape = (len(RATES), 1) if narrow else (1, len(RATES))
    axes = list(figure.subplots(*shape, sharey=True, squeeze=False).flat)
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
    if narrow:
        for axis in axes:
            axis.tick_params(axis="y", labelsize=7)
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    hollow = any(not has_interval(e) for found in lines.values() for e in found.values())
    note = " (hollow: no spread, so no interval)" if hollow else ""
    cut = "\n" if narrow else " "
    figure.suptitle(f"{title}: mean paired difference,{cut}95 % t interval{note}", fontsize=9)
    return figure


def _counts(found: Mapping[str, Estimate]) -> str:
    """The n of all panels, one by one where they differ."""
    counts = [str(e.n) for e in found.values()]
    return counts[0] if len({*counts}) == 1 else ", ".join(counts)


OUTCOME_STYLES: Mapping[str, Style] = {
    "hack": {"color": ORANGE, "ls": "-", "lw": 1.8},
    "solve": {"color": BLUE, "ls": (0, (5, 1)), "lw": 1.3},
    "neither": {"color": GREY, "ls": (0, (1, 1)), "lw": 1.3},
}
"""What a row comes to -> how its scores are drawn."""


def distributions(
    title: str, arms: Mapping[str, Mapping[str, Sequence[Floats]]], *, narrow: bool = False
) -> Figure:
    """Densities of the student rows' hack scores (arm -> kind of row -> scores of each run), a
    panel an arm (`narrow`: below each other), all with the same bins: from the .5th to the 99.5th
    percentile, what lies beyond in the last."""
    parts = [scores for kinds in arms.values() for runs in kinds.values() for scores in runs]
    low, high = np.percentile(np.concatenate(parts), [0.5, 99.5])
    edges = np.linspace(low, max(high, low + 1e-9), 21)
    wide = 1 if narrow else min(3, len(arms))
    rows = -(-len(arms) // wide)
    figure = Figure(figsize=(NARROW, 0.6 + 1.8 * rows) if narrow else (WIDE, 0.6 + 2.4 * rows))
    axes = list(figure.subplots(rows, wide, sharex=True, squeeze=False).flat)
    for axis, (arm, kinds) in zip(axes, arms.items(), strict=False):
        for kind, style in OUTCOME_STYLES.items():
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
