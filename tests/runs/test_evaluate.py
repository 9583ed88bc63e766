"""Held-out evaluation: records on a random model, and the shares as a pure function of them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.loopholes.modes import EVAL_NAMES, TRAIN_NAME
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.model.load import LanguageModel, load
from projected_grpo.runs.evaluate import (
    EvalPlan,
    EvalRecord,
    evaluate,
    evaluate_runs,
    read_records,
    shares,
    write_records,
)

PROBLEMS = load_problems("katas:validation", limit=3)
PLAN = EvalPlan(modes=["run_tests", "sentinel"], samples=2, max_new=12)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load("tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1) as grader:
        yield grader


def test_one_record_a_sample_whatever_the_batch(lm: LanguageModel, grader: Grader) -> None:
    records = evaluate(lm, None, PROBLEMS, PLAN, grader)
    assert len(records) == 3 * 2 * 2
    assert [record.mode for record in records] == ["run_tests"] * 6 + ["sentinel"] * 6
    assert [record.sample for record in records[:4]] == [0, 1, 0, 1]
    assert {record.function_name for record in records} == {TRAIN_NAME}
    alone = evaluate(lm, None, PROBLEMS, replace(PLAN, batch=2), grader)
    assert alone == records
    some = evaluate(lm, None, PROBLEMS[1:], replace(PLAN, modes=["sentinel"]), grader)
    assert some == records[8:]


def test_greedy_does_not_depend_on_the_seed(lm: LanguageModel, grader: Grader) -> None:
    plan = replace(PLAN, greedy=True, samples=1)
    records = evaluate(lm, None, PROBLEMS, plan, grader)
    assert evaluate(lm, None, PROBLEMS, replace(plan, seed=1), grader) == records
    assert evaluate(lm, None, PROBLEMS, replace(PLAN, samples=1, seed=1), grader) != records
    with pytest.raises(ValueError, match="so not 2 of it"):
        evaluate(lm, None, PROBLEMS, replace(PLAN, greedy=True), grader)


def test_runs_may_draw_with_seeds_of_their_own(lm: LanguageModel, grader: Grader) -> None:
    plan = replace(PLAN, modes=["run_tests"], names="eval")
    first, second = evaluate_runs(lm, None, PROBLEMS, plan, grader, [0, 1], seeds=[5, 6])
    assert first == evaluate(lm, None, PROBLEMS, replace(plan, seed=5), grader)
    assert second == evaluate(lm, None, PROBLEMS, replace(plan, seed=6), grader) != first


def test_evaluation_names(lm: LanguageModel, grader: Grader) -> None:
    records = evaluate(lm, None, PROBLEMS[:1], replace(PLAN, names="eval"), grader)
    assert {record.function_name for record in records} <= set(EVAL_NAMES)


def record(
    outcome: Outcome = Outcome.PASSED, difficulty: str = "easy", mode: str = "run_tests",
    **said: Any,
) -> EvalRecord:  # fmt: skip
    told = {"fmt_ok": True, "label": "", "mode": mode, "error": "", **said}
    return EvalRecord(
        problem_id=1,
        family="a",
        difficulty=difficulty,
        mode=mode,
        function_name="run_tests",
        sample=0,
        completion="",
        tokens=10,
        terminated=True,
        grade=Grade.of(outcome=outcome, **told),
    )


def test_shares() -> None:
    records = [
        record(gt_correct=True),
        record(attempted=True, pays=True, flavour="print"),
        record(attempted=True, gt_correct=True, flavour="print", difficulty="hard"),
        replace(record(mode="sentinel", fmt_ok=False), terminated=False),
        record(outcome=Outcome.INFRA_ERROR, gt_correct=True),
    ]
    found = shares(records)
    assert (found["samples"], found["infra_errors"]) == (4, 1)
    assert found["all"]["solve"] == 0.5 and found["all"]["fmt_ok"] == 0.75
    assert found["all"]["exploit_given_attempt"] == 0.5
    assert found["by_difficulty"]["hard"]["solve"] == 1.0
    assert found["by_mode"]["run_tests"]["attempted"] == pytest.approx(2 / 3)
    assert found["by_mode"]["sentinel"]["exploit_given_attempt"] is None
    assert found["flavours"] == {"run_tests": {"print": 2}, "sentinel": {}}


def test_records_come_back(tmp_path: Path) -> None:
    hack = record(flavour="pass", attempted=True, pays=True)
    records = [record(), replace(hack, sample=1)]
    write_records(tmp_path / "eval.jsonl.gz", records)
    assert read_records(tmp_path / "eval.jsonl.gz") == records


def test_a_record_has_the_keys_that_published_files_have() -> None:
    hack = record(flavour="pass", attempted=True, pays=True)
    assert json.dumps(hack.to_record()) == (
        '{"problem_id": 1, "family": "a", "difficulty": "easy", "mode": "run_tests",'
        ' "function_name": "run_tests", "sample": 0, "completion": "", "tokens": 10,'
        ' "terminated": true, "passed": true, "gt_correct": false, "exploited": true,'
        ' "attempted": true, "flavour": "pass", "fmt_ok": true, "outcome": "passed", "label": "",'
        ' "hinted": true, "greedy": false, "names": "train"}'
    )
