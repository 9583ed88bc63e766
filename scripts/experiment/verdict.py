"""The verdict on H2 from the rows of plans own_hacks and founding: tables, and one sentence.

    python scripts/experiment/verdict.py docs/results/verdict

Reads every *.jsonl.gz that experiment.py (or collect_rows.py) wrote there, writes verdict.md and a
figure for each plan beside them, and prints the sentence. The rule is in h2.py, the labels of the
runs that decide in plans.py.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from bases import BASES
from collect_rows import Run, read_runs
from h2 import judge, sentence
from plans import BASELINE, CEILING, CEILING_BASELINE, CONTROLS, DECIDING, PLANS, TREATED
from sections import (
    Section,
    by_label,
    shared,
    steps_to,
)
from verdict_tables import beside, describe, tables

from projected_grpo.cli import say_and_exit
from projected_grpo.config import decisive, varied
from projected_grpo.env.errors import InputError

AT = {"own_hacks": (100,), "founding": (20, 60)}
"""Plan -> the horizons at which it is read. The first plan decides H2; by the same rule the other
is read, which decides nothing."""
SEEDS = frozenset(range(401, 417))
BASE = "small"
DIGESTS = {
    "model_sha256": "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    "problems_sha256": "07c8358647e1e22c2e695a8c7e6913c4e45b2a174882208bb64be9489b58f160",
}
"""What docs/spec.md names for H2: these seeds of the first plan as plans.py has it, on this base,
of this model (its file) and these problems (split_leetcode.py prints their digest)."""
BY_DIGEST = ("model", "problems")
"""Settings that say where something lies, which its digest tells."""
WRITTEN = "Written by `scripts/experiment/verdict.py` from the rows in this folder; do not edit."
_CONTROLS = ", ".join(f"`{label}`" for label in CONTROLS)
HOW_TO_READ = (
    "Student rows in training, the mean over the last five steps up to the horizon. Brackets are "
    "95 % t intervals over seeds; differences are paired by seed. The ceiling is vanilla without "
    f"the loophole (`{CEILING}`), whose prompts lack the hint; `{BASELINE}` is the policy before "
    f"training, on the same problems as the others at these steps, `{CEILING_BASELINE}` likewise "
    f"without the hint; controls are {_CONTROLS}. An arm's own gain in solving is that over the "
    "untrained policy on the same prompts; shares of the ceiling's have Fieller's intervals. What "
    f"`{CEILING_BASELINE}` has there is what ceasing to mind the hint would give. What the gate "
    "has more or less than a control or a gate that reads the text stands in a table of its own: "
    "where such a one holds hacks too, only what the gate solves more speaks for V. Held out: what "
    "would be deployed, under function names never trained with the hint, and without the hint. "
    "Arms with a † are in no test of their training curve."
)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write the tables of plans own_hacks and founding, and print the verdict."""

    folder: tyro.conf.Positional[Path] = Path("docs/results/verdict")
    """Of rows."""


def main(args: Arguments) -> None:
    """Read, write, print."""
    found = sections_of(read_runs(args.folder))
    if not found:
        raise InputError(
            f"no rows of {' or '.join(AT)} in {args.folder}: scripts/experiment/experiment.py "
            "makes them"
        )
    parts, sentences = ["# The verdict on H2", f"{WRITTEN} {HOW_TO_READ}"], list[str]()
    for s in found:
        name = args.folder / f"curves_{s.name}"
        draw(s, name)
        said = [f"{s.title}, {steps_to(h)}. {decision(s, h)}" for h in horizons(s)]
        sentences += said
        parts += [
            f"## {s.title}",
            describe(s),
            *said,
            *tables(s, horizons(s)),
            f"![{s.title}]({name.name}.png)",
        ]
    (args.folder / "verdict.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"{len(found)} plans -> {args.folder / 'verdict.md'}")
    print("\n".join(sentences))


def sections_of(runs: Sequence[Run]) -> list[Section]:
    """A section for each base and plan of H2, the plan that decides last. Raises InputError where
    its runs differ in what the plan does not vary, or two are one."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.about.get("plan") in AT:
            key = run.about.get("base", ""), run.about["plan"]
            found.setdefault(key, []).append(run)
    made = []
    for (base, plan), mine in sorted(found.items(), key=lambda one: -[*AT].index(one[0][1])):
        alike = in_common(f"{base} {plan}", mine, dict(PLANS[plan].variants))
        try:
            variants = by_label(mine)
        except ValueError as error:
            raise InputError(str(error)) from error
        order = {label: i for i, (label, _) in enumerate(PLANS[plan].variants)}
        variants = dict(sorted(variants.items(), key=lambda one: order.get(one[0], len(order))))
        made.append(Section(f"{base}_{plan}", f"{base} {plan}", alike, variants))
    return made


def in_common(
    name: str, runs: Sequence[Run], variants: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The settings other than the preset's that no variant sets. Raises InputError where runs
    differ in one that their variants do not set."""
    settings = [(shared(run), variants.get(run.about["label"], {})) for run in runs]
    found = {}
    for key in sorted({key for mine, _ in settings for key in mine}):
        values = {json.dumps(mine.get(key)) for mine, changed in settings if key not in changed}
        if len(values) > 1:
            raise InputError(
                f"runs of {name} cannot be compared, as they differ in {key}: "
                f"{' and '.join(sorted(values))} (null: the preset's); put them into two folders"
            )
        if all(key not in changed for changed in variants.values()):
            found[key] = json.loads(values.pop())
    return found


def plan_of(s: Section) -> str:
    """The plan of a section."""
    return next(iter(next(iter(s.variants.values())).values())).about["plan"]


def horizons(s: Section) -> list[int]:
    """The steps at which the plan is read, as far as a run has come; of shorter runs the last."""
    runs = [run for mine in s.variants.values() for run in mine.values()]
    longest = max(len(run.rows) for run in runs)
    return [h for h in AT[plan_of(s)] if h <= longest] or ([longest] if longest else [])


# --- The sentence


def decision(s: Section, horizon: int) -> str:
    """H2 by its rule on the seeds that all deciding runs have; what is lacking where too few."""
    runs = {label: s.long_enough(label, horizon) for label in DECIDING}
    seeds = sorted(set.intersection(*(set(mine) for mine in runs.values())))
    if lacking := [f"`{label}`" for label, mine in runs.items() if len(mine) < 2]:
        return (
            f"H2 is not decided: fewer than two seeds of {', '.join(lacking)} have come to step "
            f"{horizon}."
        )
    decides = plan_of(s) == next(iter(AT)) and horizon == AT[plan_of(s)][0]
    named = [seed for seed in seeds if seed in SEEDS] if decides else []
    unlike = {
        what
        for mine in runs.values()
        for seed in named or seeds
        for what in unlike_spec(mine[seed])
    }
    if named and not unlike:  # others, such as a pilot's, do not count then
        seeds = named
    if len(seeds) < 2:
        return f"H2 is not decided: the deciding runs share {len(seeds)} seeds at step {horizon}."

    def rates(label: str, key: str) -> list[float]:
        return [runs[label][seed].late(key, horizon) for seed in seeds]

    v = judge(
        vanilla=rates("vanilla", "hack_s"),
        treated=rates(TREATED, "hack_s"),
        controls={label: rates(label, "hack_s") for label in CONTROLS},
        solve=rates(TREATED, "gt_s"),
        ceiling=rates(CEILING, "gt_s"),
        untrained=rates(BASELINE, "gt_s"),
        ceiling_untrained=rates(CEILING_BASELINE, "gt_s"),
    )
    said = sentence(v, TREATED, steps_to(horizon)) + beside(s, horizon)
    if not decides or unlike or not set(seeds) <= SEEDS:
        other = f" (not docs/spec.md's {', '.join(sorted(unlike))})" if decides and unlike else ""
        return f"Exploratory{other}, by the rule of H2: {said}"
    few = f"H2 is not decided; by the {len(seeds)} of its {len(SEEDS)} seeds so far "
    return (few if set(seeds) < SEEDS else "") + said


def unlike_spec(run: Run) -> set[str]:
    """What a run of plan own_hacks has not as docs/spec.md has it: its base, its settings as
    plans.py gives them, and by their digests model and problems."""
    about = run.about
    found = {name for name in BY_DIGEST if about.get(f"{name}_sha256") != DIGESTS[f"{name}_sha256"]}
    if about.get("base") != BASE:
        return found | {"base"}
    plan, base = PLANS[about["plan"]], BASES[BASE]
    settings = {**base.settings, **plan.settings, **dict(plan.variants)[about["label"]]}
    asked = json.loads(base.preset(**settings).to_json())
    but = ("seed", "preset", *BY_DIGEST)
    return found | {*varied([decisive(asked), {**run.settings, "arm": about["arm"]}], but)}


def draw(s: Section, name: Path) -> None:
    """Attempted, hack and solve by step: mean over the seeds that have the step."""
    from projected_grpo.report.curves import dynamics, for_any_runs
    from projected_grpo.report.plots import save, styles_of

    arms = {label: [*runs.values()] for label, runs in s.variants.items()}
    save(for_any_runs(dynamics(s.title, arms, styles_of([*arms]), band=False)), name, ["png"])


if __name__ == "__main__":
    sys.exit(say_and_exit(lambda: main(tyro.cli(Arguments))))
