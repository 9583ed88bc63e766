"""The rows of the experiment as sections of runs that may be compared, and numbers in words."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collect_rows import Run, read_runs
from plans import PLANS, UNLIKE
from tabulate import tabulate

from projected_grpo.arms.arms import ARMS, controls_of
from projected_grpo.config import PER_RUN, PRESETS, decisive, identity
from projected_grpo.report.results import over_seeds
from projected_grpo.report.stats import Equivalence, Estimate, paired_difference, tost
from projected_grpo.step_logger import RATE_WINDOW, mark_caution

HORIZONS = (40, 60, 100, 150, 200)
STAND_INS = {"confirm": "long"}
"""Plan -> that whose runs are the same until the plan's last step (docs/spec.md's deviation of
2026-11-24): their first steps stand in for runs that were stopped before it."""
BESIDE = {"long_controls": "long"}
"""Plan -> that beside whose runs its own stand in the tables."""
MARGIN = 0.10
SPAN = 10
"""Steps of one column where a table shows the course of training."""
TOST = f"solve, TOST 90 %: within {MARGIN:.2f}"
LENGTH = ("steps", "warmup_frac")
"""Settings that say how long a run is; its first steps are decided by the steps of the warm-up."""
REFRESHED = " refresh=10 trust=1"
"""How the labels of experiment.py say that V is made anew and followed."""


@dataclass(frozen=True, kw_only=True)
class Confirmatory:
    """Runs that may decide H1: what docs/spec.md fixed before they were made."""

    plan: str
    label: str
    horizon: int
    seeds: frozenset[int]
    settings: Mapping[str, Any]
    """Of every run."""
    base: str = "organism"


_CONFIRMED = {"v_hack_k": 128, "prompts_per_step": 8, "group": 8, "lr": 0.03, "model": "organism"}
_SEEDS = frozenset(range(201, 217))
CONFIRMATORY = tuple(
    Confirmatory(
        plan=plan, label="projected", horizon=steps, seeds=_SEEDS,
        settings={**_CONFIRMED, "steps": steps},
    )
    for plan, steps in (("confirm", 40), ("long", 200))
)  # fmt: skip
"""As docs/spec.md's amendment of 2026-11-24 names them; all else is exploratory."""


@dataclass
class Section:
    """Runs that may be compared: one plan on one model with the same shared settings."""

    name: str
    title: str
    shared: dict[str, Any]
    variants: dict[str, dict[int, Run]]
    """label -> seed -> run."""

    @property
    def cautions(self) -> dict[str, str]:
        """label -> why its training curve is not to be compared with others'; empty: it may be."""
        return {
            label: ARMS[next(iter(runs.values())).about["arm"]].caution
            for label, runs in self.variants.items()
        }

    def marked(self, label: str) -> str:
        """The label as tables of training rates have it."""
        return mark_caution(label, self.cautions)

    def long_enough(self, label: str, horizon: int) -> dict[int, Run]:
        """The runs of a label that have come to a horizon."""
        runs = self.variants.get(label, {})
        return {seed: run for seed, run in runs.items() if len(run.rows) >= horizon}

    def pairs(self, a: str, b: str, horizon: int) -> list[tuple[Run, Run]]:
        """The runs of two labels that share a seed and have come to a horizon."""
        first, second = self.long_enough(a, horizon), self.long_enough(b, horizon)
        return [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]

    @property
    def horizons(self) -> list[int]:
        """Steps after which arms are compared; what finished runs were asked for where that is
        less. None where no run has come so far."""
        runs = [run for mine in self.variants.values() for run in mine.values()]
        longest = max(len(run.rows) for run in runs)
        asked = {r.about["settings"]["steps"] for r in runs if r.about["status"] == "finished"}
        return [h for h in HORIZONS if h <= longest] or sorted(asked)[:1]

    def confirms(self, horizon: int) -> Confirmatory | None:
        """What the specification says of these runs at this horizon, if anything."""
        abouts = [run.about for runs in self.variants.values() for run in runs.values()]
        named = {
            (about.get("base", "organism"), table_of(about.get("plan", ""))) for about in abouts
        }
        for one in CONFIRMATORY:
            as_fixed = all(
                about["settings"][key] == value
                for label in (one.label, "vanilla", *control_of(self, one.label, one.plan))
                for about in (run.about for run in self.variants.get(label, {}).values())
                for key, value in one.settings.items()
            )
            if named == {(one.base, one.plan)} and horizon == one.horizon and as_fixed:
                return one
        return None


# --- Reading


def read(folder: Path) -> list[Section]:
    """The sections of a folder's rows, by name."""
    runs = read_runs(folder)
    found: dict[tuple[str, str], list[Run]] = defaultdict(list)
    every = [*runs, *stand_ins(runs)]
    for run in sorted(every, key=lambda run: run.about["label"] in UNLIKE):  # after their like
        plan = table_of(run.about.get("plan", ""))
        where = f"{run.about.get('base', 'organism')} {plan}".strip()
        here = [settings for name, settings in found if name == where]
        found[where, alike(run, here) or json.dumps(shared(run), sort_keys=True)].append(run)
    names = Counter(where for where, _ in found)
    made: list[Section] = []
    number: Counter[str] = Counter()
    for (where, settings), mine in sorted(found.items()):
        number[where] += 1
        title = where if names[where] == 1 else f"{where} ({number[where]})"
        name = where.replace(" ", "_") + (f"_{number[where]}" if names[where] > 1 else "")
        made.append(Section(name, title, json.loads(settings), by_label(mine)))
    return made


def table_of(plan: str) -> str:
    """The plan whose tables have the runs of a plan: its own, or that of `BESIDE`."""
    return BESIDE.get(plan, plan)


def alike(run: Run, sections: Iterable[str]) -> str:
    """Of some sections' shared settings those that a run of `UNLIKE` has too, but for what makes it
    unlike; empty where none is, or of any other run."""
    label, plan = run.about["label"], run.about.get("plan", "")
    if label not in UNLIKE or plan not in PLANS:
        return ""
    but = dict(PLANS[plan].variants).get(label, {}).keys()
    mine = shared(run)

    def same(settings: str) -> bool:
        other = json.loads(settings)
        return all(mine.get(x) == other.get(x) for x in (mine | other).keys() - but)

    return next(filter(same, sections), "")


def stand_ins(runs: Sequence[Run]) -> list[Run]:
    """For every run that was stopped before its plan's last step and that no other made good, the
    first steps of the run with the same arm, seed and settings in the plan that `STAND_INS` names,
    where that came so far. What was sampled after its own last step is not taken over."""
    whole = {which(run) for run in runs if len(run.rows) >= run.about["settings"]["steps"]}
    # of a run that was made twice the first, which stood in when the specification was decided on
    newest_first = sorted(runs, key=lambda run: run.about["run"], reverse=True)
    longer = {
        which(run): run for run in newest_first if run.about.get("plan") in STAND_INS.values()
    }
    found: dict[tuple[str, ...], Run] = {}
    for run in runs:
        about, steps = run.about, run.about["settings"]["steps"]
        other = longer.get(which(run, STAND_INS.get(about.get("plan", ""))))
        if which(run) not in whole and other is not None and len(other.rows) >= steps:
            stood_in = {**about, "status": "finished", "stands_in": other.about["run"]}
            found[which(run)] = Run(
                {**stood_in, "device": other.about["device"], "git_sha": other.about["git_sha"]},
                other.rows[:steps],
            )
    return [*found.values()]


def which(run: Run, plan: str | None = None) -> tuple[str, ...]:
    """The plan (its own or another) and what decides a run's first steps: arm, seed, settings."""
    about = run.about
    known = {**run.settings, "warmup_steps": warmup_steps(run), "arm": about["arm"]}
    what = identity({"seed": about["seed"], **known}, but=LENGTH)
    return about.get("base", ""), plan or about.get("plan", ""), about["label"], what


def shared(run: Run) -> dict[str, Any]:
    """The settings other than the preset's that runs must have in common to be compared. Steps are
    not among them: a longer run has the same first steps, but for its warm-up."""
    default = json.loads(PRESETS[run.about["preset"]]().to_json())
    # lr stays: of runs that differ in it only those of UNLIKE are compared
    left_out = {*PER_RUN, *LENGTH} - {"lr"}
    changed = {
        name: value
        for name, value in decisive(run.about["settings"], left_out).items()
        if value != default.get(name)
    }
    return {**changed, "warmup_steps": warmup_steps(run)}


def warmup_steps(run: Run) -> int:
    """The steps over which the learning rate of a run rises."""
    settings = run.about["settings"]
    return round(settings["steps"] * settings["warmup_frac"])


def by_label(runs: Sequence[Run]) -> dict[str, dict[int, Run]]:
    """label -> seed -> run, vanilla first. Of two runs of one label and seed the longer counts.

    Raises ValueError where both are whole, or the runs of a label have other settings than the
    seed: one experiment would stand in the tables for another.
    """
    found: dict[str, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: run.about["label"] != "vanilla"):
        mine = found.setdefault(run.about["label"], {})
        for like in mine.values():
            names = [n for n in PER_RUN if n != "seed" and of(run, n) != of(like, n)]
            if of(run, "v_hack_k_end") and of(run, "steps") != of(like, "steps"):
                names.append("steps")  # on which the k of a step depends
            if names:
                raise ValueError(
                    f"{run.about['run']} and {like.about['run']} are both "
                    f"{run.about['label']!r} but differ in {', '.join(names)}"
                )
        other = mine.get(run.about["seed"])
        if other is not None and {r.about["status"] for r in (run, other)} == {"finished"}:
            raise ValueError(
                f"{run.about['run']} and {other.about['run']} are both seed {run.about['seed']} of "
                f"{run.about['label']!r}: leave one out"
            )
        if other is None or len(run.rows) > len(other.rows):
            mine[run.about["seed"]] = run
    return {label: dict(sorted(mine.items())) for label, mine in found.items()}


def of(run: Run, name: str) -> object:
    """A setting of a run; the preset's where the run is older than the setting."""
    default = vars(PRESETS[run.about["preset"]]())[name]
    found = {**run.about["settings"], "arm": run.about["arm"]}.get(name, default)
    return list(found) if isinstance(found, tuple) else found


def control_of(s: Section, label: str, plan: str = "") -> list[str]:
    """The controls that a projected variant is to beat: those with its own settings; only those of
    one plan, where that is given.

    random_v has no variant that is refreshed: its axes are not made anew and trust finds nothing
    of delta_S inside their span, so the run without is that run (tests/arms/test_remedies.py).
    Not so beside running axes, which trust acts on too.
    """
    own = {control: label.replace("projected", control, 1) for control in controls_of("projected")}
    named = {*own.values(), f"{label} permuted"} - {label}
    if label.endswith(REFRESHED) and " running" not in label:
        named.add(own["random_v"].removesuffix(REFRESHED))
    return [
        name
        for name, runs in s.variants.items()
        if name in named
        if not plan or any(run.about.get("plan", "") == plan for run in runs.values())
    ]


def less_controls(s: Section, label: str, horizon: int, plan: str = "") -> dict[str, Estimate]:
    """The hack rate of a variant less that of each of its controls (`control_of`) with two pairs or
    more."""
    return {
        control: paired_difference(*late(pairs, "hack_s", horizon))
        for control in control_of(s, label, plan)
        if len(pairs := s.pairs(label, control, horizon)) > 1
    }


UNTRAINED = "untrained (step 1)"
"""The first step's rows are the untrained policy's: what not training at all would give."""


def untrained(s: Section, key: str, seeds: Collection[int] = ()) -> list[float]:
    """A rate of the untrained policy by seed, in the order of `seeds` (default: all): its share in
    vanilla's first step."""
    runs = s.long_enough("vanilla", 1)
    return [float(runs[seed].curve(key)[0]) for seed in (seeds or sorted(runs))]


# --- Numbers in words


def bracket(e: Estimate) -> str:
    """A difference and its interval."""
    return f"{e.estimate:+.3f} [{e.low:+.3f}, {e.high:+.3f}]"


def mean(values: Iterable[float]) -> str:
    """A mean over seeds with its 95 % t interval; without where n = 1."""
    e = over_seeds(values)
    interval = f" [{e.low:.3f}, {e.high:.3f}]" if e.n > 1 else ""
    return f"{e.estimate:.3f}{interval}" if e.n else "-"


def difference(a: Sequence[float], b: Sequence[float]) -> str:
    """Mean paired difference with its 95 % t interval; without where n = 1."""
    if len(a) < 2:
        return "".join(f"{x - y:+.3f}" for x, y in zip(a, b, strict=True)) or "-"
    return bracket(paired_difference(a, b))


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """A pipe table of cells by header; empty without rows."""
    cells = [list(map(str, row.values())) for row in rows]
    return tabulate(cells, [*rows[0]], "pipe", disable_numparse=True) if rows else ""


def late(pairs: Sequence[tuple[Run, Run]], key: str, horizon: int) -> tuple[list[float], ...]:
    """The last steps' rates of both sides of the pairs."""
    return tuple([pair[side].late(key, horizon) for pair in pairs] for side in (0, 1))


def yes(value: bool) -> str:
    """A decision in a table."""
    return "yes" if value else "no"


def equivalence(e: Equivalence) -> str:
    """Whether two one-sided tests tell a difference to lie within the margin."""
    return f"[{e.low:+.3f}, {e.high:+.3f}] {yes(e.equivalent)}"


def within_margin(a: Sequence[float], b: Sequence[float]) -> str:
    """The same of paired rates; nothing of one pair."""
    return equivalence(tost(a, b, MARGIN)) if len(a) > 1 else "-"


def steps_to(horizon: int) -> str:
    """The last steps up to a horizon, in words."""
    return f"steps {max(0, horizon - RATE_WINDOW) + 1}-{horizon}"


def spans(horizon: int) -> dict[str, range]:
    """The steps up to the horizon in columns, counted from 0, by their name."""
    parts = [range(start, min(start + SPAN, horizon)) for start in range(0, horizon, SPAN)]
    return {f"{part[0] + 1}-{part[-1] + 1}": part for part in parts}


def rates_of(
    runs: Mapping[int, Run], mode: str, which: int, steps: Sequence[int]
) -> dict[int, float]:
    """Seed -> share of a mode's student rows in some steps (1 attempted, 2 hack, 3 solve); seeds
    that have no such row are left out."""
    found = {}
    for seed, run in runs.items():
        cells = [run.rows[i]["by_mode"].get(mode, [0, 0, 0, 0, {}]) for i in steps]
        if total := sum(cell[0] for cell in cells):
            found[seed] = sum(cell[which] for cell in cells) / total
    return found


def attempts(run: Run, wanted: Collection[str], steps: Sequence[int]) -> float:
    """Share of a run's student rows in some steps that attempt in one of these flavours."""
    n = sum(c for i in steps for f, c in run.rows[i]["flavours"].items() if f in wanted)
    total = sum((run.rows[i]["att_s"] or (0, 0))[1] for i in steps)
    return n / total if total else float("nan")
