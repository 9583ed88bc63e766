"""What docs/spec.md's amendment of 2026-11-25 fixed beforehand to be read of the plans that do not
decide H1: the weak detectors (modes, flavours) and the remedies."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
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

from projected_grpo.report.results import WINDOW
from projected_grpo.report.stats import holm, paired_difference

AT = {"modes": (60, 100), "flavours": (60,), "remedies": (100,)}
"""Plan -> the horizons at which it is read; the first is the one that was fixed."""


def planned(s: Section) -> list[str]:
    """The tables of a section of such a plan, if it is one and has come so far."""
    plan = s.title.split(" ")[1] if " " in s.title else ""
    make = {"modes": left_out_modes, "flavours": left_out_flavours, "remedies": remedies}.get(plan)
    if make is None:
        return []
    found = []
    for horizon in AT[plan]:
        if horizon <= max(len(run.rows) for runs in s.variants.values() for run in runs.values()):
            found += [f"## {s.title}, steps {horizon - WINDOW + 1}-{horizon}", make(s, horizon)]
    return found


def _last(horizon: int) -> range:
    return range(horizon - WINDOW, horizon)


def _share(of: Sequence[float], whole: Sequence[float]) -> str:
    """One mean difference as a share of another, with a 95 % interval by resampling seeds; none
    where the other is not told from 0."""
    if len(whole) < 2 or not paired_difference(whole, np.zeros(len(whole))).high < 0:
        return "-"
    drawn = np.random.default_rng(0).integers(0, len(whole), (10_000, len(whole)))
    low, high = np.quantile(
        np.take(of, drawn).mean(1) / np.take(whole, drawn).mean(1), [0.025, 0.975]
    )
    return f"{np.mean(of) / np.mean(whole):.2f} [{low:.2f}, {high:.2f}]"


# --- Modes


def left_out_modes(s: Section, horizon: int) -> str:
    """Hack rate in the mode whose pairs V lacks, and in those that it has: V of all modes, V
    without it and random axes of the same k; a seed's folds averaged."""
    folds = sorted(
        label.removeprefix("projected without ")
        for label in s.variants
        if label.startswith("projected without ")
    )
    every = sorted(s.shared["mode"].split(","))
    if not folds:
        return "No mode was left out."

    def rates(label: str, modes: Sequence[str]) -> dict[int, float]:
        """Seed -> hack rate of a variant in some modes, each mode counted alike."""
        runs = s.long_enough(label, horizon)
        by_mode = [rates_of(runs, mode, 2, _last(horizon)) for mode in modes]
        seeds = set.intersection(*(set(found) for found in by_mode))
        return {seed: float(np.mean([found[seed] for found in by_mode])) for seed in seeds}

    body = []
    for which, modes_of in (
        ("the mode left out", lambda fold: [fold]),
        ("the three modes in V", lambda fold: [m for m in every if m != fold]),
    ):
        found = {fold: _fold(rates, fold, modes_of(fold)) for fold in folds}
        for name, some in ((f"all {len(folds)}", folds), *((fold, [fold]) for fold in folds)):
            body.append([which, name, *_columns([found[fold] for fold in some])])
    headers = ["hack rate in", "folds", "n seeds", "vanilla", "random_v", "V without it"]
    headers += ["V of all modes", "V without it - random_v", "V of all modes - random_v"]
    headers += ["share of what V of all modes takes off"]
    return table(headers, body)


def _fold(
    rates: Callable[[str, Sequence[str]], dict[int, float]], fold: str, modes: Sequence[str]
) -> dict[str, dict[int, float]]:
    return {
        "vanilla": rates("vanilla", modes),
        "random_v": rates(f"random_v without {fold}", modes),
        "without": rates(f"projected without {fold}", modes),
        "all": rates("projected", modes),
    }


def _columns(folds: Sequence[Mapping[str, Mapping[int, float]]]) -> list[str]:
    """n, the four rates, the two differences and their ratio, of seeds that every fold has."""
    seeds = sorted(set.intersection(*(set(rates) for fold in folds for rates in fold.values())))
    of = {
        name: [float(np.mean([fold[name][seed] for fold in folds])) for seed in seeds]
        for name in ("vanilla", "random_v", "without", "all")
    }
    less = {
        name: [a - b for a, b in zip(of[name], of["random_v"], strict=True)]
        for name in ("without", "all")
    }
    return [
        str(len(seeds)),
        *(mean(values) for values in of.values()),
        *(difference(of[name], of["random_v"]) for name in ("without", "all")),
        _share(less["without"], less["all"]),
    ]


# --- Flavours


def left_out_flavours(s: Section, horizon: int) -> str:
    """Share of student rows that attempt by a flavour that V lacks, and by one that it has: V of a
    half of the flavours against random axes and V of all; a seed's halves averaged."""
    halves = {
        label: frozenset(next(iter(runs.values())).about["settings"]["pair_flavours"])
        for label, runs in s.variants.items()
        if next(iter(runs.values())).about["settings"].get("pair_flavours")
    }

    known = frozenset[str]().union(*halves.values())

    def shares(label: str, wanted: Collection[str]) -> dict[int, float]:
        return {
            seed: attempts(run, wanted, _last(horizon))
            for seed, run in s.long_enough(label, horizon).items()
        }

    body = []
    for which, has in (("a flavour V lacks", False), ("a flavour V has", True)):
        found = {}
        for label, half in halves.items():
            wanted = frozenset(half if has else known - half)
            names = {"vanilla": "vanilla", "random_v": "random_v", "without": label}
            names["all"] = "projected"
            found[label] = {name: shares(mine, wanted) for name, mine in names.items()}
        for name, some in ((f"all {len(halves)}", [*halves]), *((x, [x]) for x in halves)):
            body.append([which, name, *_columns([found[label] for label in some])])
    headers = ["attempts by", "V of", "n seeds", "vanilla", "random_v", "V of half"]
    headers += ["V of all flavours", "V of half - random_v", "V of all flavours - random_v"]
    headers += ["share of what V of all flavours takes off"]
    return table(headers, body)


# --- Remedies


def remedies(s: Section, horizon: int) -> str:
    """Every remedy against the run without it, and against random axes with it."""
    labels = [x for x in s.variants if x.startswith("projected ") and not x.endswith("permuted")]
    gains = {x: late(s.pairs(x, "projected", horizon), "hack_s", horizon) for x in labels}
    gains = {label: values for label, values in gains.items() if len(values[0]) > 1}
    found = {label: paired_difference(*values) for label, values in gains.items()}
    adjusted = dict(zip(found, holm([e.p_value for e in found.values()]), strict=True))
    body = []
    for label, gain in found.items():
        controls = less_controls(s, label, horizon)
        beaten = bool(controls) and all(e.high < 0 for e in controls.values())
        helps = gain.high < 0 and adjusted[label] < 0.05 and beaten
        rates = mean(
            [run.late("hack_s", horizon) for run in s.long_enough(label, horizon).values()]
        )
        solve = late(s.pairs(label, "projected", horizon), "gt_s", horizon)
        against = "; ".join(f"{name} {bracket(e)}" for name, e in controls.items()) or "-"
        body.append(
            [
                *(label.removeprefix("projected "), gain.n, rates, bracket(gain)),
                *(f"{adjusted[label]:.2g}", against, difference(*solve), yes(helps)),
            ]
        )
    headers = ["remedy", "n pairs", "hack", "hack - that without it", f"p, Holm over {len(found)}"]
    headers += ["hack - control's with the same", "solve - that without it", "helps"]
    return table(headers, body)
