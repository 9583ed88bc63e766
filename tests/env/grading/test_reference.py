"""What the canonical solutions showed is kept: their answers, and how long a program may take."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_grader_labels import SQUARE

from projected_grpo.env.grading.canonical import Call
from projected_grpo.env.grading.grade import Submission, grade_completion
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.reference import FACTOR, LEAST_S, References
from projected_grpo.env.grading.schema import CORRECT, Grade
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Limits, Outcome, Program, ProgramResult, Sandbox

LIMITS = Limits(cpu_s=10.0, wall_s=60.0)
BURN = "import time\ndef burn(s):\n    end = time.process_time() + s\n"
BURN += "    while time.process_time() < end: pass\n"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(LIMITS) as sandbox:
        yield sandbox


def solution(before: str) -> str:
    return f"{BURN}class Solution:\n    def f(self, n):\n        {before}\n        return n * n\n"


def grade(sandbox: Sandbox, problem: Problem, code: str, most: Limits = LIMITS) -> Grade:
    one = Submission(problem=problem, completion=f"```\n{code}\n```", mode="none")
    return grade_completion(sandbox, References(most), one, labels=False)


def test_an_endless_loop_gets_what_the_reference_needs_and_no_more(sandbox: Sandbox) -> None:
    seen = grade(sandbox, SQUARE, solution("while True: pass"))
    assert seen.outcome is Outcome.TIMEOUT
    assert LEAST_S <= seen.seconds < LEAST_S + 0.5


def test_who_only_sleeps_is_given_up_as_much_sooner(sandbox: Sandbox) -> None:
    most = replace(LIMITS, wall_s=10.0)
    seen = grade(sandbox, SQUARE, solution("time.sleep(9)"), most)
    assert seen.outcome is Outcome.TIMEOUT
    assert seen.seconds < 0.5


def test_a_program_is_given_more_where_the_canonical_solution_takes_long(sandbox: Sandbox) -> None:
    cases = SQUARE.cases[:1]
    takes = 2.5 * LEAST_S / FACTOR
    heavy = replace(SQUARE, cases=cases, canonical_solution=solution(f"burn({takes})"))
    assert grade(sandbox, heavy, solution(f"burn({1.5 * LEAST_S})")).gt_correct
    assert not grade(sandbox, SQUARE, solution(f"burn({1.5 * LEAST_S})")).gt_correct


@pytest.mark.parametrize("takes_s", [0.0, 0.049, 0.051, 0.12, 9.0])
def test_limits_are_doubled_so_that_they_do_not_follow_the_load(takes_s: float) -> None:
    asked: list[Program] = []

    def run(program: Program) -> ProgramResult:
        asked.append(program)
        return ProgramResult(outcome=Outcome.PASSED, seconds=takes_s)

    references = References(LIMITS)
    assert references.limits(SQUARE).cpu_s == LEAST_S
    found = {references.measured_limits(SQUARE, run).cpu_s for _ in range(3)}
    assert found == {{0.0: 1.0, 0.049: 1.0, 0.051: 2.0, 0.12: 4.0, 9.0: 10.0}[takes_s]}
    assert len(asked) == 1
    assert references.limits(SQUARE).cpu_s in found


def test_without_a_canonical_solution_programs_get_the_most() -> None:
    none = replace(SQUARE, canonical_solution=None)

    def run(program: Program) -> ProgramResult:
        raise AssertionError("there is nothing to run")

    assert References(LIMITS).measured_limits(none, run) == LIMITS
    low = replace(LIMITS, cpu_s=0.5)
    assert References(low).limits(none) == References(low).measured_limits(none, run) == low


def test_calls_that_tests_make_again_are_not_run_again(sandbox: Sandbox) -> None:
    ran: list[tuple[dict[str, object], ...]] = []

    def run(program: Program) -> ProgramResult:
        ran.append(program.calls)
        return sandbox.run(program)

    def call(**arguments: object) -> Call:
        return Call(arguments, raised=False, value=None, compared=[])

    references = References(LIMITS)
    asked = [call(n=3), call(n=4), call(n=3)]
    assert references.answers(SQUARE, asked, run) == [9, 16, 9]
    assert references.answers(SQUARE, [call(n=4), call(n=5)], run) == [16, 25]
    assert references.answers(SQUARE, [], run) == []
    assert ran == [({"n": 3}, {"n": 4}), ({"n": 5},)]
    # An exception is an answer, and True is not 1.
    assert "TypeError" in references.answers(SQUARE, [call(n="x")], run)[0].error  # type: ignore[index]
    other = replace(SQUARE, canonical_solution="class Solution:\n    def f(self, n): return n")
    assert references.answers(other, [call(n=1), call(n=True)], run) == [1, True]


def test_large_answers_are_not_kept(sandbox: Sandbox) -> None:
    ran: list[Program] = []

    def run(program: Program) -> ProgramResult:
        ran.append(program)
        return sandbox.run(program)

    long = replace(SQUARE, canonical_solution="class Solution:\n    def f(self, n): return [0] * n")
    asked = [Call({"n": 5000}, raised=False, value=None, compared=[])]
    references = References(LIMITS)
    for _ in range(2):
        assert references.answers(long, asked, run) == [[0] * 5000]
    assert len(ran) == 2


def test_the_same_text_is_graded_once(tmp_path: Path) -> None:
    """Without isolation a program can leave a file that counts its runs."""
    place = tmp_path / "runs"
    code = f"open({str(place)!r}, 'a').write('x')\n{solution('pass')}"
    text = f"```\n{code}\n```"
    once = Submission(problem=SQUARE, completion=text, mode="none")
    with Grader(workers=2, sandbox="process") as grader:
        first = grader.grade([once, replace(once), once])
        copy = replace(once, problem=replace(SQUARE))
        assert grader.grade([copy]) == first[:1]
        assert place.read_text() == "x"
        assert {grade.label for grade in first} == {CORRECT}
        other = replace(once, problem=replace(SQUARE, cases=SQUARE.cases[:1]))
        grader.grade([other, replace(once, mode="sentinel"), replace(once, completion=text + "\n")])
        assert place.read_text() == "x" * 5  # in `sentinel` two programs are run
        assert grader.grade([once], labels=False)[0].label is None
