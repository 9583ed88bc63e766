"""What docs/spec.md fixed beforehand to be read of the plans that decide neither H1 nor H2: the
weak detectors (modes, flavours; of V on the organism, of the gate on the real model), remedies."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from plans import TREATED
from sections import (
    Section,
    attempts,
    bracket,
    difference,
    late,
    less_controls,
    mean,
    rates_of,
    table,
    yes,
)

from projected_grpo.report.stats import holm, paired_difference, ratio_of_means
from projected_grpo.step_logger import RATE_WINDOW

AT = {
    **{"modes": (60, 100), "flavours": (60,), "remedies": (100,)},
    **{"modes_gate": (100,), "flavours_gate": (60,)},
}
"""Plan -> the horizons at which it is read; the first is the one that was fixed."""


class Roles(NamedTuple):
    """What the labels of a plan of weak detectors begin with."""

    treated: str
    random: str
    random_of_fold: str
    """The label of random axes in a fold, with {fold} where each fold has its own."""
    known: str = ""
    """The detector of known flavours; empty: the plan has none."""


def roles_of(s: Section) -> Roles:
    """V's on the organism, the gate's on the real model: there one run of random axes, which know
    no pairs, stands in all folds."""
    if TREATED in s.variants:
        return Roles(TREATED, "random", "random", "penalty")
    return Roles("projected", "random_v", "random_v without {fold}")


def planned(s: Section) -> list[str]:
    """The tables of a section of such a plan, if it is one and has come so far."""
    plan = s.title.split(" ")[1] if " " in s.title else ""
    make = {
        **{"modes": left_out_modes, "flavours": left_out_flavours, "remedies": remedies},
        **{"modes_gate": modes_of_gate, "flavours_gate": left_out_flavours},
    }.get(plan)
    if make is None:
        return []
    found = []
    for horizon in AT[plan]:
        if horizon <= max(len(run.rows) for runs in s.variants.values() for run in runs.values()):
            found += [
                f"## {s.title}, steps {horizon - RATE_WINDOW + 1}-{horizon}",
                make(s, horizon),
            ]
    return found


def _last(horizon: int) -> range:
    return range(horizon - RATE_WINDOW, horizon)


def _share(of: Sequence[float], whole: Sequence[float]) -> str:
    """One mean difference as a share of another, with Fieller's 95 % interval; none where the other
    is not told from 0."""
    if len(whole) < 2 or not paired_difference(whole, np.zeros(len(whole))).high < 0:
        return "-"
    e = ratio_of_means(of, whole)
    return f"{e.estimate:.2f} [{e.low:.2f}, {e.high:.2f}]"


# --- Modes


def left_out_modes(s: Section, horizon: int) -> str:
    """Hack rate in the mode whose pairs V lacks, and in those that it has: V of all modes, V
    without it and random axes of the same k; a seed's folds averaged."""
    roles = roles_of(s)
    start = f"{roles.treated} without "
    folds = sorted(label.removeprefix(start) for label in s.variants if label.startswith(start))
    every = sorted(s.shared["mode"].split(","))
    if not folds:
        return "No mode was left out."

    def rates(label: str, modes: Sequence[str]) -> dict[int, float]:
        """Seed -> hack rate of a variant in some modes, each mode counted alike."""
        runs = s.long_enough(label, horizon)
        by_mode = [rates_of(runs, mode, 2, _last(horizon)) for mode in modes]
        seeds = set.intersection(*(set(found) for found in by_mode))
        return {seed: float(np.mean([found[seed] for found in by_mode])) for seed in seeds}

    rows = []
    for which, modes_of in (
        ("the mode left out", lambda fold: [fold]),
        ("the three modes in V", lambda fold: [m for m in every if m != fold]),
    ):
        found = {fold: _fold(rates, roles, fold, modes_of(fold)) for fold in folds}
        for name, some in ((f"all {len(folds)}", folds), *((fold, [fold]) for fold in folds)):
            columns = _columns([found[fold] for fold in some], "V without it", "V of all modes")
            rows.append({"hack rate in": which, "folds": name, **columns})
    return table(rows)


def _fold(
    rates: Callable[[str, Sequence[str]], dict[int, float]],
    roles: Roles,
    fold: str,
    modes: Sequence[str],
) -> dict[str, dict[int, float]]:
    found = {
        "vanilla": rates("vanilla", modes),
        "random_v": rates(roles.random_of_fold.format(fold=fold), modes),
        "without": rates(f"{roles.treated} without {fold}", modes),
        "all": rates(roles.treated, modes),
    }
    if roles.known:
        found["known"] = rates(f"{roles.known} without {fold}", modes)
    return found


def _columns(
    folds: Sequence[Mapping[str, Mapping[int, float]]], without: str, every: str
) -> dict[str, object]:
    """n, the rates, the differences and their ratio, of seeds that every fold has; V without a part
    and V of all go by the names given."""
    seeds = sorted(set.intersection(*(set(rates) for fold in folds for rates in fold.values())))
    by_name = {
        name: [float(np.mean([fold[name][seed] for fold in folds])) for seed in seeds]
        for name in folds[0]
    }
    vanilla, random, part, whole = (
        by_name[name] for name in ("vanilla", "random_v", "without", "all")
    )
    known = by_name.get("known")
    less = [[a - b for a, b in zip(of, random, strict=True)] for of in (part, whole)]
    rates = {"vanilla": vanilla, "random_v": random, without: part, every: whole}
    return {
        "n seeds": len(seeds),
        **{name: mean(values) for name, values in rates.items()},
        **{f"{name} - random_v": difference(rates[name], random) for name in (without, every)},
        f"share of what {every} takes off": _share(*less),
        **({"flavour penalty": mean(known)} if known else {}),
        **({f"{without} - flavour penalty": difference(part, known)} if known else {}),
    }


def modes_of_gate(s: Section, horizon: int) -> str:
    """Of all modes together the one that the gate does not know; or that mode alone."""
    alone = [label for label in s.variants if label.startswith("gate alone ")]
    return (
        unknown_alone(s, alone[0].removeprefix("gate alone "), horizon)
        if alone
        else (left_out_modes(s, horizon))
    )


def unknown_alone(s: Section, mode: str, horizon: int) -> str:
    """Hack rate of runs in one mode alone, under a gate that knows the others only: what falls here
    is not carried over from modes that the gate knows, it acts on this one."""
    rows = []
    for arm in ("vanilla", "gate", "random"):
        label = f"{arm} alone {mode}"
        runs = s.long_enough(label, horizon).values()
        row: dict[str, object] = {"arm": label, "n seeds": len(runs)}
        row |= {"hack": mean([run.late("hack_s", horizon) for run in runs])}
        row |= {"solve": mean([run.late("gt_s", horizon) for run in runs])}
        for other in ("vanilla", "random"):
            pairs = s.pairs(label, f"{other} alone {mode}", horizon)
            gap = difference(*late(pairs, "hack_s", horizon)) if other != arm and pairs else "-"
            row |= {f"hack - {other}": gap}
        rows.append(row)
    return table(rows)


# --- Flavours


def left_out_flavours(s: Section, horizon: int) -> str:
    """Share of student rows that attempt by a flavour that V lacks, by one that it has, and in any
    form that it lacks, those without a name among them: V of a half of the flavours against random
    axes and V of all; a seed's halves averaged."""
    roles = roles_of(s)
    chosen = {
        label: next(iter(runs.values())).about["settings"].get("pair_flavours") or ()
        for label, runs in s.variants.items()
        if label.startswith(roles.treated)
    }
    halves = {label: frozenset(names) for label, names in chosen.items() if names}
    known = frozenset[str]().union(*halves.values())

    def shares(label: str, wanted: Collection[str]) -> dict[int, float]:
        return {
            seed: attempts(run, wanted, _last(horizon))
            for seed, run in s.long_enough(label, horizon).items()
        }

    rows = []
    every_run = [run for runs in s.variants.values() for run in runs.values()]
    seen = {flavour for run in every_run for row in run.rows for flavour in row["flavours"] or ()}
    kinds: dict[str, Callable[[frozenset[str]], frozenset[str]]] = {
        "a flavour V lacks": lambda half: known - half,
        "a flavour V has": lambda half: half,
        "any form that V lacks": lambda half: frozenset(seen) - half,
    }
    for which, of in kinds.items():
        found = {}
        for label, half in halves.items():
            wanted = of(half)
            names = {"vanilla": "vanilla", "random_v": roles.random, "without": label}
            names["all"] = roles.treated
            if roles.known:
                names["known"] = label.replace(roles.treated, roles.known, 1)
            found[label] = {name: shares(mine, wanted) for name, mine in names.items()}
        for name, some in ((f"all {len(halves)}", [*halves]), *((x, [x]) for x in halves)):
            columns = _columns([found[label] for label in some], "V of half", "V of all flavours")
            rows.append({"attempts by": which, "V of": name, **columns})
    return table(rows)


# --- Remedies


def remedies(s: Section, horizon: int) -> str:
    """Every remedy against the run without it, and against random axes with it."""
    labels = [x for x in s.variants if x.startswith("projected ") and not x.endswith("permuted")]
    gains = {x: late(s.pairs(x, "projected", horizon), "hack_s", horizon) for x in labels}
    gains = {label: values for label, values in gains.items() if len(values[0]) > 1}
    found = {label: paired_difference(*values) for label, values in gains.items()}
    adjusted = dict(zip(found, holm([e.p_value for e in found.values()]), strict=True))
    rows = []
    for label, gain in found.items():
        controls = less_controls(s, label, horizon)
        beaten = bool(controls) and all(e.high < 0 for e in controls.values())
        helps = gain.high < 0 and adjusted[label] < 0.05 and beaten
        rates = [run.late("hack_s", horizon) for run in s.long_enough(label, horizon).values()]
        solve = late(s.pairs(label, "projected", horizon), "gt_s", horizon)
        against = "; ".join(f"{name} {bracket(e)}" for name, e in controls.items()) or "-"
        rows.append(
            {
                "remedy": label.removeprefix("projected "),
                "n pairs": gain.n,
                "hack": mean(rates),
                "hack - that without it": bracket(gain),
                f"p, Holm over {len(found)}": f"{adjusted[label]:.2g}",
                "hack - control's with the same": against,
                "solve - that without it": difference(*solve),
                "helps": yes(helps),
            }
        )
    return table(rows)
