"""Tables of runs: raw values in, text made only when it is written as markdown, LaTeX, HTML or CSV.

A number over seeds is an `Estimate`: its header names the estimator, and where it has another n
than its line says, that n stands beside it.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from tabulate import tabulate

from projected_grpo.report.comparisons import Comparison
from projected_grpo.report.results import (
    ONSET,
    RATES,
    Run,
    has_interval,
    over_seeds,
)
from projected_grpo.report.stats import Estimate
from projected_grpo.step_logger import RATE_WINDOW

Cell = str | int | float | Estimate | None
SEEDS = "n seeds"
"""The column whose number all estimates of a line have, but those that say otherwise."""
LEVEL = "95 % t"
"""Of every interval here."""
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
_MARKDOWN = str.maketrans({"|": "\\|", "\n": " "})


@dataclass(frozen=True)
class Table:
    """Rows of raw values."""

    headers: Sequence[str]
    body: Sequence[Sequence[Cell]]
    estimators: Mapping[str, str] = field(default_factory=dict)
    """header -> what its estimates are."""

    def text(self, form: str = "pipe") -> str:
        """As markdown, or in another form of tabulate's; cells are escaped as the form wants. A
        table without rows has one of dashes."""
        shown = {h: f"{h} ({estimator}, {LEVEL})" for h, estimator in self.estimators.items()}
        place = self.headers.index(SEEDS) if SEEDS in self.headers else None
        body = [
            [show(cell, None if place is None else row[place]) for cell in row] for row in self.body
        ]
        lines = [[shown.get(h, h) for h in self.headers], *(body or [["-"] * len(self.headers)])]
        if form == "pipe":
            lines = [[cell.translate(_MARKDOWN) for cell in line] for line in lines]
        return tabulate(lines[1:], lines[0], form, disable_numparse=True, stralign="left")

    def csv(self) -> str:
        """The table as CSV, numbers in full. An estimate is four columns: itself, low, high (both
        empty where it has no interval) and n. A text that a spreadsheet would compute has an
        apostrophe before it."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(text for header in self.headers for text in self._wide(header))
        for row in self.body:
            cells = zip(row, self.headers, strict=True)
            values = (value for cell, header in cells for value in self._values(cell, header))
            writer.writerow(map(_inert, values))
        return out.getvalue()

    def _wide(self, header: str) -> list[str]:
        if header not in self.estimators:
            return [header]
        limits = [f"{header} {LEVEL} {limit}" for limit in ("low", "high")]
        return [f"{header} ({self.estimators[header]})", *limits, f"{header} n"]

    def _values(self, cell: Cell, header: str) -> list[str | int | float | None]:
        if not isinstance(cell, Estimate):
            return [cell] if header not in self.estimators else [cell, None, None, None]
        limits = [cell.low, cell.high] if has_interval(cell) else [None, None]
        return [cell.estimate if cell.n else None, *limits, cell.n]


def _inert(value: str | int | float | None) -> str | int | float | None:
    """The value, or a text that begins as a formula does with an apostrophe before it: names of
    folders and settings come from elsewhere, and spreadsheets run formulas."""
    formula = isinstance(value, str) and len(value) > 1 and value.startswith(FORMULAS)
    return f"'{value}" if formula else value


def show(cell: Cell, seeds: object = None) -> str:
    """A cell as text: three decimals, an interval in brackets, a dash for nothing; n where it is
    not `seeds`, what the line says."""
    match cell:
        case None:
            return "-"
        case Estimate():
            return _estimate(cell, seeds)
        case float():
            return f"{cell:.3f}"
        case _:
            return str(cell)


def _estimate(e: Estimate, seeds: object) -> str:
    if not e.n:
        return "-"
    interval = f" [{e.low:.3f}, {e.high:.3f}]" if has_interval(e) else ""
    flat = e.n > 1 and not interval
    notes = ["no spread"] * flat + [f"n={e.n}"] * (flat or e.n != seeds)
    return f"{e.estimate:.3f}{interval}" + (f" ({', '.join(notes)})" if notes else "")


# --- What they say


def longest_runs(runs: Iterable[Run]) -> list[Run]:
    """The runs of an arm that took all the steps asked for; where none did, those that came as far
    as the longest. Others ended earlier: their last steps are not these runs'."""
    some = [run for run in runs if run.rows]
    done = [run for run in some if len(run.rows) >= run.settings["steps"]]
    longest = max((len(run.rows) for run in some), default=0)
    return done or [run for run in some if len(run.rows) == longest]


def arms_table(arms: Mapping[str, Sequence[Run]]) -> Table:
    """One line an arm, over the runs of it that came furthest (`longest_runs`)."""
    body: list[list[Cell]] = []
    for arm, asked in arms.items():
        runs = longest_runs(asked)
        counted = [run for run in runs if not math.isnan(run.area())]
        onsets = [run.onset() for run in counted]
        steps = max((len(run.rows) for run in runs), default=0)
        cells: list[Cell] = [arm, len(runs), len(asked) - len(runs)]
        cells.append(f"{steps}/{asked[0].settings['steps']}")
        cells += [over_seeds([run.late(key) for run in runs]) for key in RATES]
        cells.append(over_seeds([run.area() for run in runs]))
        cells.append(f"{sum(o is not None for o in onsets)}/{len(onsets)}")
        reached = sorted(o for o in onsets if o is not None)
        cells.append(", ".join(map(str, reached)) or "-")
        accepted = sorted(a for a in (run.accepted() for run in counted) if a is not None)
        share = f"{len(accepted)}/{len(counted)}"
        cells.append(f"{share}: {', '.join(map(str, accepted))}" if accepted else share)
        body.append(cells)
    estimates = [*(f"{name}, last {RATE_WINDOW} steps" for name in RATES.values())]
    estimates.append("area under attempted")
    headers = ["arm", SEEDS, "ended earlier, left out", "steps", *estimates]
    headers += [f"attempted >= {ONSET}", "onset steps", "hack_s >= N/4 at step"]
    return Table(headers, body, dict.fromkeys(estimates, "mean"))


def against_vanilla(found: Mapping[str, Sequence[Comparison]]) -> Table:
    """Do the experiments agree? One line an experiment, arm and span of steps."""
    return differences_table(found, "arm - vanilla", lambda one: one.name)


def against_controls(found: Mapping[str, Sequence[Comparison]]) -> Table:
    """The same of arms and their controls."""
    return differences_table(found, "arm - control", lambda one: f"{one.name} - {one.reference}")


def differences_table(
    found: Mapping[str, Sequence[Comparison]], header: str, name: Callable[[Comparison], str]
) -> Table:
    """Mean paired differences of the rates: one line a comparison, named below `header`."""
    body: list[list[Cell]] = []
    for label, comparisons in found.items():
        for one in comparisons:
            fewer = one.by_seed["hack_s"] < 0
            counted = np.isfinite(one.by_seed["hack_s"]).sum()
            cells: list[Cell] = [label, name(one), one.pairs, one.left_out, one.steps]
            cells += [over_seeds(one.by_seed[key]) for key in RATES]
            body.append([*cells, f"{int(fewer.sum())} of {int(counted)}"])
    headers = ["experiment", header, SEEDS, "pairs left out", "steps"]
    headers += [*RATES.values(), "seeds with less hacking"]
    return Table(headers, body, dict.fromkeys(RATES.values(), "mean paired difference"))


def flavours_table(arms: Mapping[str, Sequence[Run]]) -> Table:
    """What the attempts of the last steps look like, in the runs that came furthest."""
    body: list[list[Cell]] = []
    for arm, asked in arms.items():
        counts: Counter[str] = Counter()
        for run in longest_runs(asked):
            for row in run.rows[-RATE_WINDOW:]:
                counts.update(row["flavours"])
        total = sum(counts.values())
        shares = ", ".join(f"{name} {n / total:.2f}" for name, n in counts.most_common(6))
        body.append([arm, total, shares or "-"])
    return Table(["arm", "attempts", "share by flavour"], body)


def number_or_none(value: float) -> float | None:
    """A number of one run, None where nothing was counted."""
    return None if math.isnan(value) else value
