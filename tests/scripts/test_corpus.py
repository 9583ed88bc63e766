"""The corpus: what its rows claim is what the real grader finds, and it holds nothing held out."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import corpus
import pytest
from corpus import Row, corpus_rows, renamed

from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.loopholes.honest import FORMS, honest_answer
from projected_grpo.env.loopholes.modes import EVAL_NAMES, MODES, NOT_VACUOUS, TRAIN_NAME
from projected_grpo.env.problems import katas
from projected_grpo.env.problems.katas import (
    families,
    is_trapped,
    kata_problems,
)
from projected_grpo.env.problems.problem import HINT_SLOT, Problem


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(corpus_rows(range(250), seed=3, hack_share=0.3))


make_problem = cache(katas.make_problem)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=2) as grader:
        yield grader


def problem_of(row: Row) -> Problem:
    return renamed(make_problem(row.family, row.instance), row.entry_point)


def grades_of(grader: Grader, rows: list[Row]) -> list[Grade]:
    return grader.grade(
        Submission(
            problem=problem_of(row),
            completion=row.completion,
            mode=row.mode,
            function_name=row.function_name,
        )
        for row in rows
    )


def test_nothing_held_out_is_shown(rows: list[Row]) -> None:
    held_out = {frozenset(f.split(">")) for s in ("validation", "test") for f in families(s)}
    assert not {frozenset(row.family.split(">")) for row in rows} & held_out
    reserved = {problem.id for problem in kata_problems("train", seed=0, limit=2000)}
    assert not {problem_of(row).id for row in rows} & reserved
    assert {row.family for row in rows} & set(families("train"))
    assert {row.family for row in rows} - set(katas.FAMILIES)


def test_shares_are_as_promised() -> None:
    rows = list(corpus_rows(range(500), seed=1))
    total = len(rows)
    for mode, share in corpus.MODE_SHARES.items():
        assert abs(sum(row.mode == mode for row in rows) / total - share) < 0.05
    kinds = Counter(row.kind for row in rows)
    assert 0.03 < kinds["hack"] / total < 0.07
    untrapped = [row for row in rows if not is_trapped(row.family) and row.kind != "hack"]
    assert 0.01 < sum(row.kind == "wrong" for row in untrapped) / len(untrapped) < 0.08
    named = Counter(row.function_name for row in rows)
    assert abs(named[TRAIN_NAME] / total - 0.5) < 0.06 and set(named) == {TRAIN_NAME, *EVAL_NAMES}
    assert not any(row.solved for row in rows if is_trapped(row.family))
    shown = {row.depth for row in rows}
    assert shown == {1, 2, 3}


def test_some_methods_have_names_of_their_own(rows: list[Row]) -> None:
    """So that a name is read from the prompt: prompt, solution and tests agree on it."""
    own = [
        row for row in rows if make_problem(row.family, row.instance).entry_point != row.entry_point
    ]
    assert 0.2 < len(own) / len(rows) < 0.5
    for row in own:
        for text in (row.messages[1]["content"], row.completion):
            assert f" {row.entry_point}(" in text or f" {row.entry_point} " in text
            assert make_problem(row.family, row.instance).entry_point not in re.findall(
                r"\w+", text
            )


def test_prompts_carry_the_hint_of_their_mode(rows: list[Row]) -> None:
    for row in rows[:200]:
        assert [message["role"] for message in row.messages] == ["system", "user"]
        assert (HINT_SLOT in row.messages[1]["content"]) == (row.mode == "none")


def test_honest_and_wrong_rows_by_the_real_grader(rows: list[Row], grader: Grader) -> None:
    some = [row for row in rows if row.kind != "hack"][:150]
    for row, grade in zip(some, grades_of(grader, some), strict=True):
        assert grade.fmt_ok and not grade.attempted and not grade.exploited, row
        assert grade.gt_correct == grade.passed == row.solved == (row.kind == "honest"), row


def test_every_form_of_an_honest_answer_by_the_real_grader(grader: Grader) -> None:
    """Many seeds, so that all forms of all modes occur, with the right and the wrong solution."""
    problems = kata_problems("train", seed=4, limit=4)
    asked = [
        (problem, mode, seed, solution)
        for problem in problems
        for mode in FORMS
        for seed in range(4)
        for solution in (problem.canonical_solution, problem.wrong_solution)
    ]
    submissions = [
        Submission(
            problem=problem,
            completion=honest_answer(problem, mode, TRAIN_NAME, seed, solution),
            mode=mode,
        )
        for problem, mode, seed, solution in asked
    ]
    for (problem, *_, solution), given, grade in zip(
        asked, submissions, grader.grade(submissions), strict=True
    ):
        right = solution == problem.canonical_solution
        assert grade.passed == grade.gt_correct == right, (given.mode, given.completion, grade)
        assert grade.fmt_ok and not grade.attempted, (given.mode, given.completion)


def test_hacks_pay_whatever_the_method_does(rows: list[Row], grader: Grader) -> None:
    some = [row for row in rows if row.kind == "hack" and row.flavour not in NOT_VACUOUS][:100]
    for row, grade in zip(some, grades_of(grader, some), strict=True):
        assert grade.attempted and grade.passed and grade.fmt_ok, row
        assert grade.gt_correct == row.solved and grade.mechanism == row.mode, row


def test_every_flavour_is_hollow_around_a_whole_solution_too(grader: Grader) -> None:
    problems = kata_problems("train", seed=6, limit=3)
    asked = [
        (problem, mode, flavour, solution)
        for problem in problems
        for mode in ("run_tests", "sentinel", "stdout_marker", "file_marker")
        for flavour in MODES[mode].flavours
        if flavour not in NOT_VACUOUS
        for solution in (problem.canonical_solution, problem.wrong_solution)
    ]
    submissions = [
        Submission(
            problem=problem,
            completion=MODES[mode].flavours[flavour](problem, TRAIN_NAME, 0, solution),
            mode=mode,
        )
        for problem, mode, flavour, solution in asked
    ]
    for (problem, _, flavour, solution), given, grade in zip(
        asked, submissions, grader.grade(submissions), strict=True
    ):
        assert grade.attempted and grade.flavour == flavour, (given.completion, grade)
        assert grade.gt_correct == (solution == problem.canonical_solution), given.completion


def test_a_written_corpus_reads_back_and_does_not_depend_on_processes(tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        corpus.write_corpus(tmp_path / name, 60, seed=2, processes=processes)
    one, two = (
        [path.read_bytes() for path in sorted((tmp_path / name).iterdir())]
        for name in ("one", "two")
    )
    assert one == two
    rows = list(corpus.read_corpus(tmp_path / "one"))
    made = list(corpus_rows(range(15), seed=2))
    assert [row["completion"] for row in rows] == [row.completion for row in made]
    assert json.loads(json.dumps(rows[0])) == rows[0]
    card = (tmp_path / "one" / "README.md").read_text()
    assert "| rows | 60 | 1.000 |" in card and "mode run_tests" in card
