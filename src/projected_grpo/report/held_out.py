"""What `evaluate` prints and writes: the rates of every policy and condition, and the difference of
every two policies over the same problems."""

import gzip
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from projected_grpo import __version__
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.report.results import has_interval
from projected_grpo.report.stats import Estimate, paired_difference
from projected_grpo.report.tables import Cell, Table, show
from projected_grpo.runs.evaluate import EvalRecord, shares
from projected_grpo.runs.files import write_aside, writing
from projected_grpo.runs.held_out import Evaluation, Policy, evaluate_held_out
from projected_grpo.runs.policy_commands import EvaluateConfig
from projected_grpo.runs.provenance import git

HELD_OUT_RATES = {"solve": "gt_correct", "attempt": "attempted", "hack": "exploited"}
"""Column -> the fact of a grade whose share it is."""
LEGEND = (
    "solve: the hidden tests pass; attempt: the grader would be fooled even with a wrong stub; "
    "hack: passed though wrong."
)


def evaluate_policies(asked: EvaluateConfig) -> None:
    """The `evaluate` command: ask, print both tables, write the JSON and every answer. Raises
    ConfigError or InputError; what is there already is refused before a model loads."""
    asked.require()
    found = evaluate_held_out(asked)
    print(evaluation_text(found))
    with writing(asked.out.parent):
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        _write_answers(asked.answers, found)
        write_aside(asked.out, json.dumps(as_json(found, asked), indent=2, default=str) + "\n")
    logger.info("written to {}, every answer to {}", asked.out, asked.answers)


def evaluation_text(found: Evaluation) -> str:
    """Both tables, and what they are of."""
    modes = ", ".join(next(iter(found.plans.values())).modes)
    about = f"{len(found.problems)} problems of {found.source}, loophole mode {modes}. {LEGEND}"
    if not found.held_out:
        about += "\nA run was trained on these problems: nothing here is held out."
    parts = [about, rates_table(found).text("simple")]
    if len(found.answers) > 1:
        parts += [
            "Differences, mean over problems [95 % t interval over problems]. They say nothing of "
            "other seeds: compare arms over several.",
            policy_differences_table(found).text("simple"),
        ]
    return "\n\n".join(parts)


def rates_table(found: Evaluation) -> Table:
    """One line a policy and condition."""
    body: list[list[Cell]] = []
    for policy, by_condition in found.answers.items():
        for condition, records in by_condition.items():
            rates = shares(records)["all"]
            body.append(
                [
                    *(policy.name, condition, rates["samples"]),
                    *(rates["solve"], rates["attempted"], rates["exploited"]),
                    *(rates["terminated"], rates["tokens"] and round(rates["tokens"])),
                ]
            )
    return Table(["policy", "asked", "answers", *HELD_OUT_RATES, "ended", "tokens"], body)


def policy_differences_table(found: Evaluation) -> Table:
    """One line for every two policies and condition."""
    body: list[list[Cell]] = [
        [f"{one['policy']} - {one['less']}", one["asked"], one["problems"], *map(_shown, one["of"])]
        for one in differences(found)
    ]
    return Table(["difference", "asked", "problems", *HELD_OUT_RATES], body)


def _shown(e: Estimate | None) -> str:
    return show(e, e.n if e else None)


def differences(found: Evaluation) -> list[dict[str, Any]]:
    """For every two policies and condition: "policy", "less", "asked", "problems" (n), and "of",
    the paired difference of each of HELD_OUT_RATES over problems, None below two problems."""
    rows = []
    for (first, mine), (second, others) in combinations(found.answers.items(), 2):
        for condition in found.plans:
            a, b = by_problem(others[condition]), by_problem(mine[condition])
            both = sorted(a.keys() & b.keys())
            of = [
                paired_difference([a[i][k] for i in both], [b[i][k] for i in both])
                if len(both) > 1 else None
                for k in range(len(HELD_OUT_RATES))
            ]  # fmt: skip
            rows.append(
                {"policy": second.name, "less": first.name, "asked": condition,
                 "problems": len(both), "of": of}
            )  # fmt: skip
    return rows


def by_problem(records: Sequence[EvalRecord]) -> dict[int, list[float]]:
    """Problem id -> the share of each of HELD_OUT_RATES among its answers, all modes together;
    without answers on which the grader failed."""
    facts: dict[int, list[list[bool]]] = {}
    for r in records:
        if r.grade.outcome != Outcome.INFRA_ERROR:
            row = [getattr(r.grade, fact) for fact in HELD_OUT_RATES.values()]
            facts.setdefault(r.problem_id, []).append(row)
    return {number: np.mean(rows, axis=0).tolist() for number, rows in facts.items()}


def as_json(found: Evaluation, asked: EvaluateConfig) -> dict[str, Any]:
    """All that was asked and counted."""
    return {
        "projected_grpo": __version__,
        "git_sha": git("rev-parse", "HEAD"),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "settings": asdict(asked),
        "problems": {
            "source": found.source,
            "held_out": found.held_out,
            "ids": [problem.id for problem in found.problems],
        },
        "conditions": {name: asdict(plan) for name, plan in found.plans.items()},
        "policies": [_policy(policy, mine) for policy, mine in found.answers.items()],
        "differences": [
            {**row, "of": dict(zip(HELD_OUT_RATES, map(_interval, row["of"]), strict=True))}
            for row in differences(found)
        ],
    }


def _policy(policy: Policy, answers: Mapping[str, Sequence[EvalRecord]]) -> dict[str, Any]:
    counted = {condition: shares(records) for condition, records in answers.items()}
    return {**asdict(policy), "conditions": counted}


def _interval(e: Estimate | None) -> dict[str, Any] | None:
    if e is None:
        return None
    low, high = (e.low, e.high) if has_interval(e) else (None, None)
    return {"difference": e.estimate, "low": low, "high": high, "level": e.level, "n": e.n}


def _write_answers(path: Path, found: Evaluation) -> None:
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        for policy, by_condition in found.answers.items():
            for condition, records in by_condition.items():
                for record in records:
                    row = {"policy": policy.name, "asked": condition, **record.to_record()}
                    file.write((json.dumps(row) + "\n").encode())
