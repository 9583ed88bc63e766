"""What a report says first: one sentence a comparison, with a verdict fixed by rule.

The verdict is on hacking alone. It follows from the 95 % interval of the paired difference over
seeds, at the last steps that both runs of every pair have; `RULE` says it in words. What solving
does stands beside it, by the two one-sided tests of docs/spec.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from projected_grpo.report.comparisons import Comparison
from projected_grpo.report.results import has_interval, over_seeds
from projected_grpo.report.stats import Estimate, Floats, tost

LESS, MORE, SAME = "less hacking", "more hacking", "no difference shown"
UNDECIDED, NOTHING, APART = "undecided", "nothing to show", "not comparable"
RULE = (
    "The verdict is on hacking: less or more where the 95 % t interval of the paired difference "
    "over seeds lies wholly on one side of 0, else no difference is shown; undecided without an "
    "interval (one seed, or no spread), nothing to show where the reference itself never hacked, "
    "not comparable where an arm's training curve is not that of what is deployed. Solving is "
    "within 10 points where two one-sided 5 % tests say so. No correction is made for the number "
    "of comparisons."
)
ONE_SEED = "one seed gives no interval"
MARGIN = 0.10
"""Of docs/spec.md: a solve rate that stays within it is kept."""
FEW = 3
"""With fewer seeds a t interval is so wide that the sentence says so."""


@dataclass(frozen=True)
class Finding:
    """What one comparison says."""

    verdict: str
    sentence: str


def findings(comparisons: Iterable[Comparison], cautions: Mapping[str, str]) -> list[Finding]:
    """One for each arm and reference, in their order. `cautions`: name -> why its training curve is
    not to be compared; empty: it may be."""
    spans = groupby(comparisons, lambda one: (one.name, one.reference))
    return [finding([*mine], cautions.get(name, "")) for (name, _), mine in spans]


def finding(spans: Sequence[Comparison], caution: str) -> Finding:
    """What an arm's comparison with one reference says, from its spans of steps, the last of which
    decides; an earlier one is told where its verdict is another."""
    last = spans[-1]
    verdict, why = judged(last, caution)
    said = f"{last.name} against {last.reference}: {differences_text(last)}"
    notes = [why] if why else []
    hack = hack_difference(last)
    if has_interval(hack) and hack.n < FEW:
        notes.append("with two seeds an interval says little")
    notes += [f"at steps {one.steps} it was {earlier(one, caution)}" for one in spans[:-1]
              if judged(one, caution)[0] != verdict]  # fmt: skip
    if apart := lengths(last):
        notes.append(apart)
    return Finding(verdict, "; ".join([said, *notes]) + ".")


def judged(one: Comparison, caution: str) -> tuple[str, str]:
    """The verdict by `RULE`, and the reason where there is no interval to decide by."""
    if caution:
        return APART, f"the arm {caution}, so judge it by its evaluation"
    hack = hack_difference(one)
    if has_interval(hack) and (hack.low > 0 or hack.high < 0):
        return (MORE if hack.low > 0 else LESS), ""
    if hack.n and not np.nansum(one.of_reference("hack_s")):
        return NOTHING, f"{one.reference} itself never hacked in these steps"
    if hack.n < 2:
        return UNDECIDED, ONE_SEED if hack.n else ""
    if not has_interval(hack):
        return UNDECIDED, "no spread between the seeds, so no interval"
    return SAME, ""


def earlier(one: Comparison, caution: str) -> str:
    """An earlier span in short: its difference in hacking and its verdict."""
    return f"{points(hack_difference(one))} ({judged(one, caution)[0]})"


def hack_difference(one: Comparison) -> Estimate:
    """The paired difference in hacking over seeds."""
    return over_seeds(one.by_seed["hack_s"])


def differences_text(one: Comparison) -> str:
    """The differences of hack and solve rate, from which level, over how many seeds and which
    steps."""
    hack = hack_difference(one)
    if not hack.n:
        return nothing_paired(one)
    level = np.nanmean(one.of_reference("hack_s"))
    solve = over_seeds(one.by_seed["gt_s"])
    kept = solve_word(one.by_seed["gt_s"])
    seeds = "1\u00a0seed" if hack.n == 1 else f"{hack.n}\u00a0seeds"
    return (
        f"hack {points(hack)} from {100 * level:.1f} %, solve {points(solve)}"
        f"{f' ({kept})' if kept else ''}; n\u00a0=\u00a0{seeds}, steps {one.steps}"
    )


def nothing_paired(one: Comparison) -> str:
    """Why there is no number at all."""
    if one.pairs:
        return "no row was graded in these steps"
    if not one.others:
        return f"no {one.reference} run has its seeds and settings"
    furthest = max(len(run.rows) for run in one.others)
    return (
        f"no seed has both runs at step {one.end} ({one.name} came to "
        f"{max(len(run.rows) for run in one.runs)}, {one.reference} to {furthest})"
    )


def solve_word(differences: Floats) -> str:
    """What solving does, from its paired differences (pairs,): within the margin, less, more, or
    not settled; empty where there is no interval."""
    known = differences[np.isfinite(differences)]
    estimate = over_seeds(known)
    if known.size < 2 or not has_interval(estimate):
        return ""
    if tost(known, np.zeros_like(known), MARGIN).equivalent:
        return f"within {100 * MARGIN:.0f} points"
    if estimate.high < 0 or estimate.low > 0:
        return "less solving" if estimate.high < 0 else "more solving"
    return "not settled"


def lengths(one: Comparison) -> str:
    """That arms were not trained equally far, or that runs are left out; empty: neither."""
    parts = []
    if one.paired:
        mine, theirs = (sorted({len(pair[side].rows) for pair in one.paired}) for side in (0, 1))
        if mine != theirs or len(mine) > 1:
            parts.append(
                f"not trained equally far ({one.name} to step {range_text(mine)}, "
                f"{one.reference} to {range_text(theirs)}): compared up to step {one.end}"
            )
    if one.paired and one.left_out:
        runs = "1 run has" if one.left_out == 1 else f"{one.left_out} runs have"
        parts.append(f"{runs} no partner that came so far")
    asked = min(run.settings["steps"] for run in one.runs)
    if one.paired and one.end < asked and not parts:
        parts.append(f"the runs ended before step {asked}, which they were asked for")
    return "; ".join(parts)


def range_text(numbers: Sequence[int]) -> str:
    """Sorted numbers as one, or as a range."""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def points(e: Estimate) -> str:
    """A difference of rates in points, with its interval where it has one; a dash for none."""
    if not e.n:
        return "-"
    limits = f" [{signed(e.low)}, {signed(e.high)}]" if has_interval(e) else ""
    return f"{signed(e.estimate)} points{limits}"


def signed(rate: float) -> str:
    """A rate in points, with a sign; 0 has none."""
    text = f"{100 * rate:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")
