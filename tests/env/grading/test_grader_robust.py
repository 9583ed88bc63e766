"""From an adversarial review: a completion must not take the batch, the clock or a label along."""

import pytest

from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.problems.load import load_problems

KATA = load_problems("katas:validation", 1)[0]
RIGHT = KATA.canonical_solution or ""
WRONG = KATA.wrong_solution or ""


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=1) as grader:
        yield grader


def grades(grader: Grader, *programs: str):
    fenced = [f"```python\n{program}\n```" for program in programs]
    return grader.grade([Submission(problem=KATA, completion=c, mode="run_tests") for c in fenced])


@pytest.mark.parametrize(
    "program",
    [
        "X = 0x" + "F" * 5000 + "\n" + WRONG + "\ndef run_tests():\n    pass\n",
        WRONG + "\ndef run_tests():\n    assert " + "+".join("1" * 2000) + " == 2000\n",
        WRONG + "\ndef run_tests():\n    " + ".".join("a" * 600) + ".f()\n",
        WRONG + "\ndef run_tests():\n    x = " + "-" * 700 + "1\n",
    ],
    ids=["long_int", "long_sum", "long_chain", "deep_minus"],
)
def test_text_made_to_break_the_analysis_is_graded_and_so_is_its_neighbour(grader, program) -> None:
    bad, good = grades(grader, program, RIGHT)
    assert not bad.gt_correct and bad.outcome != "infra_error"
    assert good.gt_correct


def test_an_honest_long_number_does_no_harm(grader) -> None:
    (grade,) = grades(grader, "M = 0x" + "F" * 4000 + "\n" + RIGHT)
    assert grade.gt_correct


@pytest.mark.parametrize(
    "call",
    [
        "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))",
        "os.nice(19)",
        "os.sched_setaffinity(0, {0})",
    ],
)
def test_a_program_cannot_starve_itself_to_look_like_our_fault(grader, call: str) -> None:
    (grade,) = grades(grader, f"import os\n{call}\n{RIGHT}")
    assert grade.outcome == "failed" and "Function not implemented" in grade.error


@pytest.mark.parametrize(
    "text",
    ["# no run_tests() here", '"""run_tests is called by you."""', "def my_run_tests(): pass"],
)
def test_naming_the_function_in_text_is_no_attempt(grader, text: str) -> None:
    right, wrong = grades(grader, f"{text}\n{RIGHT}", f"{text}\n{WRONG}")
    assert (right.label, wrong.label) == ("Correct", "Incorrect")
