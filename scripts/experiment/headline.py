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
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from planned import planned
from sections import (
    MARGIN,
    Confirmatory,
    Run,
    Section,
    attempts,
    bracket,
    control_of,
    difference,
    late,
    less_controls,
    mean,
    rates_of,
    read,
    spans,
    table,
    yes,
)

from projected_grpo.report.plots import forest, save, stacked
from projected_grpo.report.results import ONSET, RATES, WINDOW
from projected_grpo.report.stats import H1Verdict, h1_verdict, holm, paired_difference, tost
from projected_grpo.step_logger import footnote

# --- Tables


def arms_table(s: Section, horizon: int) -> str:
    """What every variant did."""
    body = []
    for label in s.variants:
        runs = s.long_enough(label, horizon).values()
        onsets = [run.onset(horizon) for run in runs]
        reached = sorted(o for o in onsets if o is not None)
        body.append(
            [s.marked(label), len(onsets), len(s.variants[label]) - len(onsets)]
            + [mean([run.late(key, horizon) for run in runs]) for key in RATES]
            + [mean([run.area(horizon) for run in runs]), f"{len(reached)}/{len(onsets)}"]
            + [", ".join(map(str, reached)) or "-"]
        )
    span = f"steps {max(0, horizon - WINDOW) + 1}-{horizon}"
    headers = ["arm", "n seeds", "too short", *(f"{name}, {span}" for name in RATES.values())]
    headers += ["area under attempted", f"attempted >= {ONSET}", "onset steps"]
    return table(headers, body)


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
    body = []
    for label in s.variants:
        pairs = s.pairs(label, "vanilla", horizon)
        if label == "vanilla" or not pairs:
            continue
        hack = late(pairs, "hack_s", horizon)
        cells = [
            s.marked(label),
            len(pairs),
            difference(*late(pairs, "att_s", horizon)),
            difference(*hack),
        ]
        area = [[pair[side].area(horizon) for pair in pairs] for side in (0, 1)]
        cells += [f"{sum(a < b for a, b in zip(*hack, strict=True))} of {len(pairs)}"]
        cells += [difference(*area), difference(*late(pairs, "gt_s", horizon))]
        if v := decided.get(label):
            boot = v.hack.bootstrap
            limits = f"[{boot.low:+.3f}, {boot.high:+.3f}]" if boot else "n < 4"
            within = f"[{v.solve.low:+.3f}, {v.solve.high:+.3f}] {yes(v.solve.equivalent)}"
            cells += [limits, f"{p_of[label]:.2g}", within]
        body.append(cells + ["-"] * (10 - len(cells)))
    headers = [
        "arm - vanilla", "n pairs", "attempted", "hack", "seeds with less hacking",
        "area under attempted", "solve", "hack, studentised bootstrap 95 %",
        f"p of hack, Holm over {len(decided)} arms", f"solve, TOST 90 %: within {MARGIN:.2f}",
    ]  # fmt: skip
    return table(headers, body)


def against_controls(s: Section, horizon: int) -> str:
    """Projected variants against the controls of the same settings, seed by seed."""
    wanted = [
        (label, control, pairs)
        for label in s.variants
        if label.startswith("projected")
        for control in control_of(s, label)
        if (pairs := s.pairs(label, control, horizon))
    ]
    hacks = [late(pairs, "hack_s", horizon) for _, _, pairs in wanted]
    tested = [paired_difference(*hack).p_value for hack in hacks if len(hack[0]) > 1]
    adjusted = iter(holm(tested) if tested else [])
    body = []
    for (label, control, pairs), hack in zip(wanted, hacks, strict=True):
        p = f"{next(adjusted):.2g}" if len(pairs) > 1 else "-"
        a, b = late(pairs, "gt_s", horizon)
        same = tost(a, b, MARGIN) if len(pairs) > 1 else None
        solve = f"[{same.low:+.3f}, {same.high:+.3f}] {yes(same.equivalent)}" if same else "-"
        attempted = difference(*late(pairs, "att_s", horizon))
        body.append([f"{label} - {control}", len(pairs), attempted, difference(*hack), p, solve])
    headers = ["difference", "n pairs", "attempted", "hack"]
    headers += [f"p of hack, Holm over {len(tested)}", f"solve, TOST 90 %: within {MARGIN:.2f}"]
    return table(headers, body) if body else ""


def modes_table(s: Section, horizon: int) -> str:
    """Attempts by loophole mode in the course of training, and whether V knows the mode."""
    body = []
    vanilla = s.long_enough("vanilla", horizon)
    for label in s.variants:
        runs = s.long_enough(label, horizon)
        if not runs or "by_mode" not in next(iter(runs.values())).rows[0]:
            continue
        for mode in sorted(
            {m for run in runs.values() for row in run.rows for m in row["by_mode"]}
        ):
            by_span = [[*rates_of(runs, mode, 1, span).values()] for span in spans(horizon)]
            course = [f"{np.mean(rates):.3f}" if rates else "-" for rates in by_span]
            last = range(max(0, horizon - WINDOW), horizon)
            late_hack = rates_of(runs, mode, 2, last)
            late_solve = [*rates_of(runs, mode, 3, last).values()]
            base = rates_of(vanilla, mode, 2, last)
            both = sorted(late_hack.keys() & base.keys())
            gap = difference([late_hack[seed] for seed in both], [base[seed] for seed in both])
            known = in_v(next(iter(runs.values())), mode)
            body.append(
                [
                    *(s.marked(label), mode, known, len(runs), *course),
                    *(mean([*late_hack.values()]), mean(late_solve)),
                    *("-" if label == "vanilla" else gap, len(both)),
                ]
            )
    headers = ["arm", "mode", "pairs of it in V", "n seeds"]
    headers += [f"attempted, {span[0] + 1}-{span[-1] + 1}" for span in spans(horizon)]
    headers += [f"hack, last {WINDOW}", f"solve, last {WINDOW}", "hack - vanilla's", "n pairs"]
    return table(headers, body) if body else ""


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
    body = []
    for label in s.variants:
        runs = list(s.long_enough(label, horizon).values())
        counts: Counter[str] = Counter()
        for run in runs:
            for row in run.rows[max(0, horizon - WINDOW) : horizon]:
                counts.update(row["flavours"])
        total = sum(counts.values())
        top = ", ".join(f"{name} {n / total:.2f}" for name, n in counts.most_common(6)) or "-"
        course = [
            " / ".join(flavoured(runs, part, span) for part in parts.values())
            for span in spans(horizon)
            if parts and runs
        ]
        body.append([s.marked(label), len(runs), *course, total, top])
    headers = ["arm", "n seeds"]
    if parts:
        both = " / ".join(f"those of `{label}`" for label in parts)
        steps = [f"{span[0] + 1}-{span[-1] + 1}" for span in spans(horizon)]
        headers += [f"{both}, {steps[0]}", *steps[1:]]
        body = [row for row in body if len(row) == len(headers) + 2]
    headers += [f"attempts, last {WINDOW} steps", "shares of them by flavour"]
    return table(headers, body)


def flavoured(runs: Sequence[Run], wanted: Collection[str], steps: Sequence[int]) -> str:
    """Mean over runs of the share of student rows that attempt in one of these flavours."""
    shares = np.array([attempts(run, wanted, steps) for run in runs])
    counted = shares[~np.isnan(shares)]
    return f"{counted.mean():.3f}" if len(counted) else "-"


def evaluation_table(s: Section) -> str:
    """Held-out families after the last step: hack, attempt and solve rate by mode and hint."""
    body = []
    for label, runs in s.variants.items():
        done = {seed: run for seed, run in runs.items() if run.cells}
        cells = [c for run in done.values() for c in run.cells]
        for asked in dict.fromkeys(map(how, cells)):
            rates = {seed: of_cells(run, asked) for seed, run in done.items()}
            rates = {seed: found for seed, found in rates.items() if found["n"]}
            base = {
                seed: of_cells(run, asked) for seed, run in s.variants.get("vanilla", {}).items()
            }
            # Of another number of samples the problems are others, and it is no pair.
            both = [seed for seed in rates if base.get(seed, {"n": 0})["n"] == rates[seed]["n"]]
            gap = difference([rates[x]["hack"] for x in both], [base[x]["hack"] for x in both])
            solve = [[r[x]["solve"] for x in both] for r in (rates, base)]
            same = (
                tost(solve[0], solve[1], MARGIN) if label != "vanilla" and len(both) > 1 else None
            )
            within = f"[{same.low:+.3f}, {same.high:+.3f}] {yes(same.equivalent)}" if same else "-"
            pooled = [c for c in cells if how(c) == asked]
            tries = sum(c["attempted"] for c in pooled)
            won = f"{sum(c['both'] for c in pooled) / tries:.2f} ({tries})" if tries else "- (0)"
            body.append(
                [label, *asked, len(rates), "-".join(sample_range(rates.values()))]
                + [mean([r[key] for r in rates.values()]) for key in ("attempted", "hack", "solve")]
                + ["-" if label == "vanilla" else gap, within, len(both), won, solved_by(pooled)]
            )
    headers = [
        "arm", "mode", "hint", "sampled how", "n seeds", "samples a seed", "attempted", "hack",
        "solve", "hack - vanilla's", f"solve, TOST 90 %: within {MARGIN:.2f}", "n pairs",
        "hack given attempt, pooled (attempts)", "solve by difficulty, pooled",
    ]  # fmt: skip
    return table(headers, body) if body else ""


def sample_range(rates: Iterable[dict[str, float]]) -> list[str]:
    """Least and most samples, once where they are equal."""
    counts = [int(r["n"]) for r in rates]
    return [str(n) for n in sorted({min(counts), max(counts)})] if counts else ["0"]


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
    title = f"{s.title}, steps {max(0, horizon - WINDOW) + 1}-{horizon}"
    marks = {"gt_s": [-MARGIN, MARGIN], "hack_s": [-0.30, -0.15]}
    save(forest(title, lines, projected, marks), folder / f"forest_{s.name}", ["png"])
    return True


def curves(s: Section, folder: Path) -> None:
    """Attempted, hack and solve by step: mean over the seeds that have the step."""
    figure = Figure(figsize=(12, 3.6))
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    for number, (label, asked) in enumerate(s.variants.items()):
        runs = [run for run in asked.values() if run.rows]
        if not runs:
            continue
        longest = max(len(run.rows) for run in runs)
        for axis, (key, title) in zip(axes, RATES.items(), strict=True):
            colour = "#444444" if label == "vanilla" else f"C{(number - 1) % 10}"
            style = "-" if number <= 10 else "--"
            by_step = np.nanmean(stacked(runs, key), 0)
            name = f"{label} (n={len(runs)})"
            axis.plot(range(1, longest + 1), by_step, style, color=colour, lw=1.3, label=name)
            axis.set_title(title, fontsize=9)
            axis.set_xlabel("step")
            axis.set_ylim(-0.02, 1.02)
    axes[2].legend(frameon=False, fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(f"{s.title}: mean over seeds", fontsize=9)
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
                span = f"{s.title}, steps {max(0, horizon - WINDOW) + 1}-{horizon}"
                beaten, controls = beats(s, label, horizon)
                if one is None:
                    seen = f"{label} - vanilla {bracket(v.hack)}, n = {v.n}; {controls}"
                    lines.append(f"- exploratory, {span}: hack rate, {seen}")
                else:
                    against = ["vanilla", *control_of(s, label)]
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


def beats(s: Section, label: str, horizon: int) -> tuple[bool | None, str]:
    """Whether the 95 % interval of the hack rate less every control's lies below 0, None without a
    control; and the differences."""
    found = less_controls(s, label, horizon)
    words = "; ".join(f"- {name} {bracket(e)}, n = {e.n}" for name, e in found.items())
    if not found:
        return None, "no control of the same settings."
    return all(e.high < 0 for e in found.values()), f"{label} {words}."


WRITTEN = "Written by `scripts/experiment/headline.py` from the rows in this folder; do not edit."
HOW_TO_READ = (
    f"In training: student rows, the mean over the last {WINDOW} steps up to the horizon. Brackets "
    "are 95 % t intervals over seeds; differences are paired by seed. TOST: two one-sided 5 % t "
    "tests, its 90 % interval. Intervals of held-out rates are over seeds, whose runs share "
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
