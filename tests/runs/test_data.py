"""The problems that runs train on, and the digest that they are recognised by."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from projected_grpo.env.loopholes.modes import MODES
from projected_grpo.env.problems.leetcode import write_file
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import Case, Problem
from projected_grpo.runs.data import DECIDES_NOTHING, fair_problems, problems_digest, under_hints

KATAS = load_problems("katas:validation", 4)
ANOTHER = {
    "id": 10**6,
    "messages": ({"role": "user", "content": "another"},),
    "mode": "sentinel",
    "cases": (Case({"x": 1}, 1),),
    "examples": (Case({"x": 1}, 1),),
}
"""Field -> another value; that of the others is a text."""


def with_statement(problem: Problem, old: str, new: str) -> Problem:
    *before, user = problem.messages
    assert old in user["content"]
    changed = {**user, "content": user["content"].replace(old, new)}
    return replace(problem, messages=(*before, changed))


@pytest.mark.parametrize("name", [one.name for one in fields(Problem)])
def test_a_digest_is_of_all_that_decides_prompts_or_grades(name: str) -> None:
    changed = [replace(KATAS[0], **{name: ANOTHER.get(name, "another")}), *KATAS[1:]]
    same = problems_digest(changed, changed) == problems_digest(KATAS, KATAS)
    assert same is (name in DECIDES_NOTHING)


def test_a_digest_is_of_the_problems_that_are_kept_in_their_order() -> None:
    kept = [KATAS, KATAS[::-1], KATAS[1:]]
    assert len({problems_digest(some, KATAS) for some in kept}) == 3


def test_a_file_of_other_statements_has_another_digest_and_another_mode_has_the_same(
    tmp_path: Path,
) -> None:
    reworded = [with_statement(KATAS[0], "PROBLEM:\n", "PROBLEM:\nRead it well. "), *KATAS[1:]]
    asking = [replace(KATAS[0], mode="sentinel"), *KATAS[1:]]  # a record that names its mode

    def digests(name: str, problems: list[Problem]) -> set[str]:
        write_file(tmp_path / name, problems)
        fair = fair_problems(str(tmp_path / name))
        return {
            problems_digest(under_hints(fair, mode.split(",")), fair)
            for mode in (*MODES, "run_tests,none")
        }

    (here,), (there,) = digests("here.jsonl", KATAS), digests("there.jsonl", KATAS)
    (other,) = digests("reworded.jsonl", reworded)
    assert here == there != other
    (of_mode,) = {problems_digest(under_hints(asking, [mode]), asking) for mode in MODES}
    assert of_mode != problems_digest(KATAS, KATAS)
