"""The tables of verdict.py: every arm beside vanilla, the best control and the ceiling."""

import json
from collections.abc import Mapping, Sequence

from collect_rows import Run
from h2 import in_points
from plans import BASELINE, CEILING, CEILING_BASELINE, CONTROLS, RIVALS, TREATED
from sections import (
    UNTRAINED,
    Section,
    difference,
    late,
    mean,
    steps_to,
    table,
    untrained,
)

from projected_grpo.report.results import RATES
from projected_grpo.report.stats import holm, paired_difference, ratio_of_means
from projected_grpo.step_logger import footnote

COLUMNS = {**RATES, "fmt_s": "format"}


def describe(s: Section) -> str:
    """How many runs, where they ran, and what they have in common."""
    abouts = [run.about for runs in s.variants.values() for run in runs.values()]
    devices = ", ".join(sorted({about["device"] for about in abouts}))
    shas = ", ".join(sorted({(about["git_sha"] or "unknown")[:7] for about in abouts}))
    seeds = ", ".join(map(str, sorted({about["seed"] for about in abouts})))
    sets = {about.get("problems_sha256") for about in abouts} - {None}
    unequal = (
        " **The arms did not have the same problems**: --max-prompt left more out where there is a "
        "hint."
    )
    return (
        f"{len(abouts)} runs, seeds {seeds}; {devices}; commit {shas}; preset "
        f"{abouts[0]['preset']}, other than it `{json.dumps(s.shared)}`, beside what plans.py sets."
        + (unequal if len(sets) > 1 else "")
    )


def tables(s: Section, horizons: Sequence[int]) -> list[str]:
    """What every arm did, at each horizon, and on held-out problems."""
    parts: list[str] = []
    for horizon in horizons:
        parts += [f"### {s.title}, {steps_to(horizon)}", rates_table(s, horizon)]
        parts += [differences_table(s, horizon), rivals_table(s, horizon)]
    if evaluated := held_out_table(s):
        parts += [f"### {s.title}, held-out problems after the last step", evaluated]
    note = footnote(s.cautions)
    return [part for part in (*parts, note) if part]


def rates_table(s: Section, horizon: int) -> str:
    """Rates of every arm, the untrained policy first."""
    rows: list[Mapping[str, object]] = []
    if first := s.long_enough("vanilla", 1):
        of = {name: mean(untrained(s, key)) for key, name in COLUMNS.items()}
        rows.append({"arm": UNTRAINED, "n seeds": len(first), "too short": 0, **of})
    for label, asked in s.variants.items():
        runs = s.long_enough(label, horizon).values()
        of = {name: mean(run.late(key, horizon) for run in runs) for key, name in COLUMNS.items()}
        about = {"arm": s.marked(label), "n seeds": len(runs), "too short": len(asked) - len(runs)}
        rows.append({**about, **of})
    return table(rows)


def differences_table(s: Section, horizon: int) -> str:
    """Every arm against vanilla, the best control and the ceiling, seed by seed."""
    best, adjusted = least_hacking(s, horizon), holm_of(s, horizon)
    rows = []
    for label in s.variants:
        against = {
            other: s.pairs(label, other, horizon) if other and label != other else []
            for other in ("vanilla", best, CEILING)
        }

        def less(other: str, key: str, against=against) -> str:
            pairs = against[other]
            return difference(*late(pairs, key, horizon)) if pairs else "-"

        rows.append(
            {
                "arm": s.marked(label),
                "n pairs": len(against["vanilla"]),
                "hack - vanilla's": less("vanilla", "hack_s"),
                f"p of that, Holm over {len(adjusted)}": adjusted.get(label, "-"),
                "solve - vanilla's": less("vanilla", "gt_s"),
                f"hack - best control's ({best or 'none'})": less(best, "hack_s"),
                "solve - ceiling's": less(CEILING, "gt_s"),
                "own gain in solving": own_gain(s, label, horizon),
                "share of the ceiling's": gain_share(s, label, horizon),
            }
        )
    return table(rows)


def rivals_table(s: Section, horizon: int) -> str:
    """The gate less whatever might do as well without V: a control, or a gate that reads the text.
    Where such a one holds hacks too, only what the gate solves more speaks for V."""
    found = {
        label: (own, s.pairs(TREATED, label, horizon))
        for label in (*CONTROLS, *RIVALS)
        if (own := [*s.long_enough(label, horizon).values()])
    }
    solves = {
        label: paired_difference(*late(pairs, "gt_s", horizon)).p_value
        for label, (_, pairs) in found.items()
        if len(pairs) > 1
    }
    adjusted = dict(zip(solves, holm([*solves.values()]) if solves else [], strict=True))
    return table(
        [
            {
                "the gate less": s.marked(label),
                "n pairs": len(pairs),
                "that flags": mean(run.late("screened", horizon) for run in own),
                "hack": difference(*late(pairs, "hack_s", horizon)) if pairs else "-",
                "solve": difference(*late(pairs, "gt_s", horizon)) if pairs else "-",
                f"p of solve, Holm over {len(adjusted)}": f"{adjusted[label]:.2g}"
                if label in adjusted
                else "-",
            }
            for label, (own, pairs) in found.items()
        ]
    )


def beside(s: Section, horizon: int) -> str:
    """A sentence of the gate less each rival that has come so far: no verdict is to be quoted
    without what does as well."""
    pairs = {label: s.pairs(TREATED, label, horizon) for label in RIVALS}

    def less(mine: Sequence[tuple[Run, Run]], key: str) -> str:
        return in_points(paired_difference(*late(mine, key, horizon)))

    found = [
        f"`{label}` {less(mine, 'hack_s')} and {less(mine, 'gt_s')}, n = {len(mine)}"
        for label, mine in pairs.items()
        if len(mine) > 1
    ]
    return f" Beside it, hacks and solves less those of {'; '.join(found)}." if found else ""


def holm_of(s: Section, horizon: int) -> dict[str, str]:
    """Label -> p of its difference to vanilla's hack rate, corrected over the arms that are tested:
    those whose curve is that of what is deployed."""
    pairs = {label: s.pairs(label, "vanilla", horizon) for label in s.variants}
    tested = [
        label
        for label, mine in pairs.items()
        if label != "vanilla" and len(mine) > 1 and not s.cautions[label]
    ]
    p_values = [paired_difference(*late(pairs[x], "hack_s", horizon)).p_value for x in tested]
    adjusted = holm(p_values) if tested else []
    return {label: f"{p:.2g}" for label, p in zip(tested, adjusted, strict=True)}


def least_hacking(s: Section, horizon: int) -> str:
    """The control with the least mean hack rate; empty where none has come so far."""
    rates = {
        label: [run.late("hack_s", horizon) for run in runs.values()]
        for label in CONTROLS
        if (runs := s.long_enough(label, horizon))
    }
    return min(rates, key=lambda label: sum(rates[label]) / len(rates[label]), default="")


def own_gain(s: Section, label: str, horizon: int) -> str:
    """What an arm solves more than the untrained policy on the same prompts."""
    pairs = s.pairs(label, untrained_of(s, label), horizon)
    return difference(*late(pairs, "gt_s", horizon)) if pairs else "-"


def gain_share(s: Section, label: str, horizon: int) -> str:
    """The same as a share of what the ceiling has; none where that is not told from 0."""
    labels = (label, untrained_of(s, label), CEILING, CEILING_BASELINE)
    runs = [s.long_enough(one, horizon) for one in labels]
    seeds = sorted(set.intersection(*map(set, runs)))
    if len(seeds) < 2:
        return "-"
    solve = [[mine[seed].late("gt_s", horizon) for seed in seeds] for mine in runs]
    mine, whole = ([a - b for a, b in zip(*two, strict=True)] for two in (solve[:2], solve[2:]))
    if not paired_difference(*solve[2:]).low > 0:
        return "-"
    e = ratio_of_means(mine, whole)
    return f"{e.estimate:.2f} [{e.low:.2f}, {e.high:.2f}]"


def untrained_of(s: Section, label: str) -> str:
    """The label of the untrained policy on the prompts that an arm has; of the one without the hint
    that with it, so that its gain is what the hint costs."""
    runs = s.variants[label].values()
    hinted = all(run.about["settings"]["mode"] != "none" for run in runs)
    return BASELINE if hinted or label == CEILING_BASELINE else CEILING_BASELINE


def held_out_table(s: Section) -> str:
    """Held-out problems after the last step, with the hint and without."""
    rows = []
    for hinted in (True, False):
        rates = {label: held_out_rates(s, label, hinted) for label in s.variants}
        for label, mine in rates.items():
            row: dict[str, object] = {"arm": label, "hint": "yes" if hinted else "no"}
            row |= {"n seeds": len(mine), "samples": sum(int(r["n"]) for r in mine.values())}
            row |= {key: mean(r[key] for r in mine.values()) for key in ("attempted", "hack")}
            row |= {"solve": mean(r["solve"] for r in mine.values())}
            for other, key in (("vanilla", "hack"), (CEILING, "solve")):
                both = sorted(mine.keys() & rates.get(other, {}).keys()) if label != other else []
                values = ([of[seed][key] for seed in both] for of in (mine, rates.get(other, {})))
                row |= {f"{key} - {other}'s": difference(*values)}
            rows += [row] if mine else []
    return table(rows)


def held_out_rates(s: Section, label: str, hinted: bool) -> dict[int, dict[str, float]]:
    """Seed -> samples and rates of one arm, with the hint or without."""
    found = {}
    for seed, run in s.variants[label].items():
        cells = [cell for cell in run.cells if cell["hinted"] == hinted]
        if n := sum(cell["n"] for cell in cells):
            counts = {key: sum(c[key] for c in cells) for key in ("attempted", "hack", "solve")}
            found[seed] = {"n": n, **{key: count / n for key, count in counts.items()}}
    return found
