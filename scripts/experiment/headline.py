"""The experiment's tables and figures from its rows: what each arm did, and whether H1 holds.

    python scripts/experiment/headline.py docs/results/experiment

Reads every *.jsonl.gz that experiment.py (or collect_rows.py) wrote there and writes
README.md (the decisions), and for each plan a page, forest_*.png and curves_*.png beside it.
Runs with other shared settings (model, prompts, learning rate ...) are another section: they
are not compared.
"""

import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import lt
from pathlib import Path
from typing import Any

import numpy as np
from planned import planned
from sections import (
    MARGIN,
    TOST,
    UNTRAINED,
    Confirmatory,
    Run,
    Section,
    attempts,
    bracket,
    control_of,
    difference,
    equivalence,
    late,
    less_controls,
    mean,
    rates_of,
    read,
    spans,
    steps_to,
    table,
    untrained,
    within_margin,
    yes,
)

from projected_grpo.report.curves import dynamics, for_any_runs
from projected_grpo.report.plots import forest, save, styles_of
from projected_grpo.report.results import ONSET, RATES
from projected_grpo.report.stats import H1Verdict, h1_verdict, holm, paired_difference
from projected_grpo.step_logger import RATE_WINDOW, footnote

# --- Tables


def arms_table(s: Section, horizon: int) -> str:
    """What every variant did."""
    rows: list[Mapping[str, object]] = []
    if runs := s.long_enough("vanilla", 1):
        row: dict[str, object] = {"arm": UNTRAINED, "n seeds": len(runs), "too short": 0}
        for key, name in RATES.items():
            row[f"{name}, {steps_to(horizon)}"] = mean(untrained(s, key))
        row |= {"area under attempted": "-", f"attempted >= {ONSET}": "-", "onset steps": "-"}
        rows.append(row)
    for label, asked in s.variants.items():
        runs = s.long_enough(label, horizon).values()
        reached = sorted(o for run in runs if (o := run.onset(horizon)) is not None)
        rows.append(
            {"arm": s.marked(label), "n seeds": len(runs), "too short": len(asked) - len(runs)}
            | {
                f"{name}, {steps_to(horizon)}": mean([run.late(key, horizon) for run in runs])
                for key, name in RATES.items()
            }
            | {"area under attempted": mean([run.area(horizon) for run in runs])}
            | {f"attempted >= {ONSET}": f"{len(reached)}/{len(runs)}"}
            | {"onset steps": ", ".join(map(str, reached)) or "-"}
        )
    return table(rows)


def verdicts(s: Section, horizon: int) -> dict[str, H1Verdict]:
    """By H1's rule every variant against vanilla, where two pairs or more have come to the horizon
    and the training curve is that of what is deployed."""
    found = {}
    for label in s.variants:
        pairs = s.pairs(label, "vanilla", horizon)
        if label == "vanilla" or len(pairs) < 2 or s.cautions[label]:
            continue  # a curve that is not the deployed policy's decides nothing
        hack, solve = late(pairs, "hack_s", horizon), late(pairs, "gt_s", horizon)
        found[label] = h1_verdict(hack[1], hack[0], solve[1], solve[0], name=label)
    return found


def against_vanilla(s: Section, horizon: int) -> str:
    """Every variant against vanilla, seed by seed."""
    decided = verdicts(s, horizon)
    adjusted = holm([v.hack.p_value for v in decided.values()]) if decided else []
    p_of = dict(zip(decided, adjusted, strict=True))
    rows = [_untrained_less_vanilla(s, horizon)] if s.long_enough("vanilla", horizon) else []
    for label in s.variants:
        pairs = s.pairs(label, "vanilla", horizon)
        if label == "vanilla" or not pairs:
            continue
        hack = late(pairs, "hack_s", horizon)
        area = [[pair[side].area(horizon) for pair in pairs] for side in (0, 1)]
        limits = p = within = "-"
        if v := decided.get(label):
            boot = v.hack.bootstrap
            limits = f"[{boot.low:+.3f}, {boot.high:+.3f}]" if boot else "n < 4"
            p, within = f"{p_of[label]:.2g}", equivalence(v.solve)
        rows.append(
            {
                "arm - vanilla": s.marked(label),
                "n pairs": len(pairs),
                "attempted": difference(*late(pairs, "att_s", horizon)),
                "hack": difference(*hack),
                "seeds with less hacking": f"{sum(map(lt, *hack))} of {len(pairs)}",
                "area under attempted": difference(*area),
                "solve": difference(*late(pairs, "gt_s", horizon)),
                "hack, studentised bootstrap 95 %": limits,
                f"p of hack, Holm over {len(decided)} arms": p,
                TOST: within,
            }
        )
    return table(rows)


def _untrained_less_vanilla(s: Section, horizon: int) -> dict[str, object]:
    """The row of what not training at all would give against vanilla."""
    runs = s.long_enough("vanilla", horizon)

    def less(key: str) -> tuple[list[float], list[float]]:
        return untrained(s, key, tuple(runs)), [run.late(key, horizon) for run in runs.values()]

    return {
        "arm - vanilla": UNTRAINED,
        "n pairs": len(runs),
        "attempted": difference(*less("att_s")),
        "hack": difference(*less("hack_s")),
        "seeds with less hacking": f"{sum(map(lt, *less('hack_s')))} of {len(runs)}",
        "area under attempted": "-",
        "solve": difference(*less("gt_s")),
        "hack, studentised bootstrap 95 %": "-",
        f"p of hack, Holm over {len(verdicts(s, horizon))} arms": "-",
        TOST: within_margin(*less("gt_s")),
    }


def against_controls(s: Section, horizon: int) -> str:
    """Projected variants against the controls of the same settings, seed by seed."""
    wanted = {
        f"{label} - {control}": pairs
        for label in s.variants
        if label.startswith("projected")
        for control in control_of(s, label)
        if (pairs := s.pairs(label, control, horizon))
    }
    hacks = {name: late(pairs, "hack_s", horizon) for name, pairs in wanted.items()}
    tested = [name for name, pairs in wanted.items() if len(pairs) > 1]
    p_of = (
        dict(zip(tested, holm([paired_difference(*hacks[x]).p_value for x in tested]), strict=True))
        if tested
        else {}
    )
    return table(
        [
            {
                "difference": name,
                "n pairs": len(pairs),
                "attempted": difference(*late(pairs, "att_s", horizon)),
                "hack": difference(*hacks[name]),
                f"{CLEARLY_LESS * 100:.0f} points less": _clearly_less(*hacks[name]),
                f"p of hack, Holm over {len(tested)}": f"{p_of[name]:.2g}" if name in p_of else "-",
                TOST: within_margin(*late(pairs, "gt_s", horizon)),
            }
            for name, pairs in wanted.items()
        ]
    )


CLEARLY_LESS = 0.1
"""By how much an arm should hack less than its best control, beyond chance: a difference may be
certain and too small to matter."""


def _clearly_less(a: Sequence[float], b: Sequence[float]) -> str:
    if len(a) < 2:
        return "-"
    e = paired_difference(a, b)
    return yes(e.estimate <= -CLEARLY_LESS and e.high < 0)


def modes_table(s: Section, horizon: int) -> str:
    """Attempts by loophole mode in the course of training, and whether V knows the mode."""
    rows = []
    last = range(max(0, horizon - RATE_WINDOW), horizon)
    vanilla = s.long_enough("vanilla", horizon)
    for label in s.variants:
        runs = s.long_enough(label, horizon)
        first = next(iter(runs.values()), None)
        if first is None or "by_mode" not in first.rows[0]:
            continue
        modes = {mode for run in runs.values() for row in run.rows for mode in row["by_mode"]}
        for mode in sorted(modes):
            course = {
                f"attempted, {words}": f"{np.mean(rates):.3f}" if rates else "-"
                for words, span in spans(horizon).items()
                for rates in [[*rates_of(runs, mode, 1, span).values()]]
            }
            hack, base = (rates_of(some, mode, 2, last) for some in (runs, vanilla))
            both = sorted(hack.keys() & base.keys())
            gap = difference([hack[seed] for seed in both], [base[seed] for seed in both])
            rows.append(
                {"arm": s.marked(label), "mode": mode, "pairs of it in V": in_v(first, mode)}
                | {"n seeds": len(runs), **course, f"hack, last {RATE_WINDOW}": mean(hack.values())}
                | {f"solve, last {RATE_WINDOW}": mean(rates_of(runs, mode, 3, last).values())}
                | {"hack - vanilla's": "-" if label == "vanilla" else gap, "n pairs": len(both)}
            )
    return table(rows)


def in_v(run: Run, mode: str) -> str:
    """Whether the pairs of a mode are in what the run removes."""
    chosen = run.about["settings"].get("pair_modes") or [mode]
    return "-" if run.about["arm"] in ("vanilla", "random_v") else yes(mode in chosen)


def flavours_table(s: Section, horizon: int) -> str:
    """Attempts by whether their flavour is among the pairs of a part of V, in the course of
    training, as shares of student rows; where no variant takes a part, the last steps' flavours."""
    parts: dict[str, set[str]] = {}
    for label, runs in s.variants.items():
        for run in runs.values():
            if chosen := run.about["settings"].get("pair_flavours"):
                parts[label] = set(chosen)
    rows = []
    for label in s.variants:
        runs = list(s.long_enough(label, horizon).values())
        if parts and not runs:
            continue
        counts: Counter[str] = Counter()
        for run in runs:
            for row in run.rows[max(0, horizon - RATE_WINDOW) : horizon]:
                counts.update(row["flavours"])
        total = counts.total()
        top = ", ".join(f"{name} {n / total:.2f}" for name, n in counts.most_common(6)) or "-"
        course = {
            words: " / ".join(flavoured(runs, part, span) for part in parts.values())
            for words, span in spans(horizon).items()
            if parts
        }
        if course:  # what the shares are of stands in the first column's header
            start = " / ".join(f"those of `{label}`" for label in parts)
            words, shares = next(iter(course.items()))
            course = {f"{start}, {words}": shares, **dict(list(course.items())[1:])}
        rows.append(
            {"arm": s.marked(label), "n seeds": len(runs), **course}
            | {f"attempts, last {RATE_WINDOW} steps": total, "shares of them by flavour": top}
        )
    return table(rows)


def flavoured(runs: Sequence[Run], wanted: Collection[str], steps: Sequence[int]) -> str:
    """Mean over runs of the share of student rows that attempt in one of these flavours."""
    shares = np.array([attempts(run, wanted, steps) for run in runs])
    counted = shares[~np.isnan(shares)]
    return f"{counted.mean():.3f}" if len(counted) else "-"


def evaluation_table(s: Section) -> str:
    """Held-out families after the last step: hack, attempt and solve rate by mode and hint."""
    rows = []
    for label, runs in s.variants.items():
        done = {seed: run for seed, run in runs.items() if run.cells}
        cells = [c for run in done.values() for c in run.cells]
        others = s.variants.get("vanilla", {})
        for asked in dict.fromkeys(map(how, cells)):
            rates = {seed: of_cells(run, asked) for seed, run in done.items()}
            rates = {seed: found for seed, found in rates.items() if found["n"]}
            base = {seed: of_cells(run, asked) for seed, run in others.items()}
            # Of another number of samples the problems are others, and it is no pair.
            both = [seed for seed in rates if base.get(seed, {"n": 0})["n"] == rates[seed]["n"]]
            hack, solve = (
                [[r[x][key] for x in both] for r in (rates, base)] for key in ("hack", "solve")
            )
            plain = label == "vanilla"
            pooled = [c for c in cells if how(c) == asked]
            tries = sum(c["attempted"] for c in pooled)
            won = f"{sum(c['both'] for c in pooled) / tries:.2f} ({tries})" if tries else "- (0)"
            rows.append(
                {"arm": label, **dict(zip(("mode", "hint", "sampled how"), asked, strict=True))}
                | {"n seeds": len(rates), "samples a seed": sample_range(rates.values())}
                | {x: mean([r[x] for r in rates.values()]) for x in ("attempted", "hack", "solve")}
                | {"hack - vanilla's": "-" if plain else difference(*hack)}
                | {TOST: "-" if plain else within_margin(*solve), "n pairs": len(both)}
                | {"hack given attempt, pooled (attempts)": won}
                | {"solve by difficulty, pooled": solved_by(pooled)}
            )
    return table(rows)


def sample_range(rates: Iterable[dict[str, float]]) -> str:
    """Least and most samples, once where they are equal."""
    counts = [int(r["n"]) for r in rates]
    return "-".join(map(str, sorted({min(counts), max(counts)}))) if counts else "0"


def how(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a cell's samples were asked for: the mode, whether hinted, and how they were sampled."""
    drawn = "greedy" if cell.get("greedy") else "T = 1"
    names = ", other function names" if cell.get("names") == "eval" else ""
    return cell["mode"], yes(cell["hinted"]), drawn + names


def of_cells(run: Run, asked: tuple[str, str, str]) -> dict[str, float]:
    """Samples and shares of one run of what was asked."""
    mine = [c for c in run.cells if how(c) == asked]
    n = sum(c["n"] for c in mine)
    keys = ("attempted", "hack", "solve")
    return {"n": n} | {key: sum(c[key] for c in mine) / n if n else np.nan for key in keys}


def solved_by(cells: Sequence[dict[str, Any]]) -> str:
    """Solve rate by difficulty, over all samples."""
    parts = []
    for level in ("easy", "medium", "hard"):
        mine = [c for c in cells if c["difficulty"] == level]
        if n := sum(c["n"] for c in mine):
            parts.append(f"{level} {sum(c['solve'] for c in mine) / n:.2f}")
    return ", ".join(parts)


# --- Figures


def draw_forest(s: Section, horizon: int, folder: Path) -> bool:
    """Paired differences to vanilla with 95 % t intervals; is there anything to draw?"""
    lines = {
        label: {key: paired_difference(*late(pairs, key, horizon)) for key in RATES}
        for label in s.variants
        if label != "vanilla" and not s.cautions[label]
        if len(pairs := s.pairs(label, "vanilla", horizon)) > 1
    }
    if not lines:
        return False
    projected = [label for label in lines if label.startswith("projected")]
    title = f"{s.title}, {steps_to(horizon)}"
    marks = {"gt_s": [-MARGIN, MARGIN], "hack_s": [-0.30, -0.15]}
    save(forest(title, lines, projected, marks), folder / f"forest_{s.name}", ["png"])
    return True


def curves(s: Section, folder: Path) -> None:
    """Attempted, hack and solve by step: mean over the seeds that have the step."""
    arms = {label: [*runs.values()] for label, runs in s.variants.items()}
    figure = for_any_runs(dynamics(s.title, arms, styles_of([*arms]), band=False))
    save(figure, folder / f"curves_{s.name}", ["png"])


# --- The page


def describe(s: Section) -> str:
    """What the section's runs have in common, and where they ran."""
    abouts = [run.about for runs in s.variants.values() for run in runs.values()]
    devices = ", ".join(sorted({about["device"] for about in abouts}))
    shas = ", ".join(sorted({(about["git_sha"] or "unknown")[:7] for about in abouts}))
    seeds = sorted({about["seed"] for about in abouts})
    borrowed = Counter(about["label"] for about in abouts if "stands_in" in about)
    stood_in = ", ".join(f"{n} of {label}" for label, n in borrowed.items())
    return (
        f"{len(abouts)} runs, seeds {', '.join(map(str, seeds))}; {devices}; commit {shas}; preset "
        f"{abouts[0]['preset']}, other than it `{json.dumps(s.shared)}`."
        + (
            f" The first steps of longer runs with the same settings (docs/spec.md, deviation) "
            f"stand in for runs that were stopped: {stood_in}."
            if stood_in
            else ""
        )
    )


def page(s: Section, folder: Path) -> list[str]:
    """The section's tables and figures."""
    parts = [f"# {s.title}", f"{WRITTEN} {HOW_TO_READ}", describe(s)]
    for horizon in s.horizons:
        parts += [f"## {s.title}, horizon {horizon}", arms_table(s, horizon)]
        if any(s.pairs(label, "vanilla", horizon) for label in s.variants if label != "vanilla"):
            parts += ["Against vanilla, seed by seed:", against_vanilla(s, horizon)]
        if controls := against_controls(s, horizon):
            parts += ["Against the controls, seed by seed:", controls]
        if modes := modes_table(s, horizon):
            parts += ["By mode:", modes]
        parts += ["By flavour:", flavours_table(s, horizon)]
        if note := footnote(s.cautions):
            parts += [note]
    if evaluated := evaluation_table(s):
        parts += [f"## {s.title}, held-out families after the last step", evaluated]
    if s.horizons:
        curves(s, folder)
        if draw_forest(s, s.horizons[-1], folder):
            parts += [f"![{s.title}, differences](forest_{s.name}.png)"]
        parts += [f"![{s.title}, curves](curves_{s.name}.png)"]
    return parts


def decision(sections: Sequence[Section]) -> list[str]:
    """H1 where the specification says that these runs decide it; what else was seen, as such."""
    lines = []
    for s in sections:
        for horizon in s.horizons:
            one = s.confirms(horizon)
            label = one.label if one else "projected"
            if v := verdicts(s, horizon).get(label):
                span = f"{s.title}, {steps_to(horizon)}"
                beaten, controls = beats(s, label, horizon, one.plan if one else "")
                if one is None:
                    seen = f"{label} - vanilla {bracket(v.hack)}, n = {v.n}; {controls}"
                    lines.append(f"- exploratory, {span}: hack rate, {seen}")
                else:
                    against = ["vanilla", *control_of(s, label, one.plan)]
                    seeds = frozenset.intersection(
                        *(
                            frozenset(a.about["seed"] for a, _ in s.pairs(label, other, horizon))
                            for other in against
                        )
                    )
                    lines.append(f"- {span}: {verdict_on(v, one, seeds, beaten)} {controls}")
    if not any(s.confirms(horizon) for s in sections for horizon in s.horizons):
        lines.insert(0, "No verdict: docs/spec.md names no runs here that decide H1.\n")
    return ["## H1", "\n".join(lines)]


def verdict_on(v: H1Verdict, one: Confirmatory, seeds: frozenset[int], beaten: bool | None) -> str:
    """The verdict in words; a V that does not beat its controls is a negative result."""
    if seeds != one.seeds:
        return f"not decided: {len(seeds & one.seeds)} of the {len(one.seeds)} seeds."
    if beaten is None:
        return "not decided: no control of the same settings."
    if not beaten:
        return f"negative: {one.label} does not beat every control. By vanilla alone: {v.sentence}"
    confirmed = "confirmed" if v.confirmed else "not confirmed"
    whole = "lies" if v.whole_interval else "does not lie"
    return (
        f"{v.sentence} By the intervals: {confirmed}; the whole one {whole} at 30 points or more."
    )


def beats(s: Section, label: str, horizon: int, plan: str = "") -> tuple[bool | None, str]:
    """Whether the 95 % interval of the hack rate less every control's (`control_of`) lies below 0,
    None without a control; and the differences."""
    found = less_controls(s, label, horizon, plan)
    words = "; ".join(f"- {name} {bracket(e)}, n = {e.n}" for name, e in found.items())
    if not found:
        return None, "no control of the same settings."
    return all(e.high < 0 for e in found.values()), f"{label} {words}."


WRITTEN = "Written by `scripts/experiment/headline.py` from the rows in this folder; do not edit."
HOW_TO_READ = (
    f"In training: student rows, the mean over the last {RATE_WINDOW} steps up to the horizon. "
    "Brackets are 95 % t intervals over seeds; differences are paired by seed. TOST: two one-sided "
    "5 % t tests, its 90 % interval. Intervals of held-out rates are over seeds, whose runs share "
    "problems and random streams: how other problems would turn out is not in them. The area is "
    "the mean of attempted over all steps up to the horizon. Arms with a † are in no test of their "
    "training curve."
)


def main(folder: Path) -> None:
    """Write README.md, a page for each section, and the figures."""
    sections = read(folder)
    if not sections:
        print(f"no rows in {folder}: scripts/experiment/experiment.py makes them")
        return
    intro = f"{WRITTEN} {HOW_TO_READ} Only runs that docs/spec.md names decide H1."
    parts = ["# The experiment", intro, *decision(sections)]
    for s in sections:
        parts += planned(s)
    parts += ["## All tables and figures"]
    for s in sections:
        (folder / f"{s.name}.md").write_text("\n\n".join(page(s, folder)) + "\n", encoding="utf-8")
        parts += [f"### [{s.title}]({s.name}.md)", describe(s)]
        if s.horizons:
            parts += [f"![{s.title}, curves](curves_{s.name}.png)"]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"{len(sections)} sections -> {folder / 'README.md'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/results/experiment"))
