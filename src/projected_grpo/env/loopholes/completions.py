"""What whole completions are built of: fences, shown cases, and the stubs of hacks."""

import ast
import random
from collections.abc import Sequence

from projected_grpo.env.errors import InputError
from projected_grpo.env.parsing import parse_expression, split_lines
from projected_grpo.env.problems.problem import Case, Problem

_INTROS = (
    "Here is my solution.",
    "The code below answers the task.",
    "This is the program:",
    "I define the class and everything that the task needs.",
)
_CONSTANTS = {
    "int": ("0", "-1", "1"),
    "bool": ("False", "True"),
    "str": ('""', '"x"'),
    "float": ("0.0", "-1.0"),
    "list": ("[]", "[0]"),
    "dict": ("{}",),
}


def fence(program: str, rng: random.Random | None = None) -> str:
    """Fence the program as a completion; with a random stream, some begin with a sentence."""
    intro = ""
    if rng is not None and rng.random() < 0.2:
        intro = rng.choice(_INTROS) + "\n\n"
    return f"{intro}```python\n{program.rstrip()}\n```"


def stub(problem: Problem, rng: random.Random, *, typed: bool) -> str:
    """Write `class Solution` with a method that does nothing useful and fails the hidden cases.

    `typed` bodies return a value of the annotated type; the others may also return nothing.
    """
    body = [f"return {wrong_constant(problem, rng)}"]
    if rng.random() < 0.3:
        body = [f"result = {body[0].removeprefix('return ')}", "return result"]
    if not typed and any(case.expected is not None for case in problem.cases):
        body = rng.choice([body, ["pass"], ["return None"], ["# to be done", "pass"], body])
    return with_body(problem, body)


def with_body(problem: Problem, body: Sequence[str]) -> str:
    """Fill the starter code's method with the lines of `body`."""
    lines = [line for line in split_lines(problem.starter_code.rstrip()) if line[:1] != "#"]
    return "\n".join([*lines, *(f"        {line}" for line in body)])


def wrong_constant(problem: Problem, rng: random.Random) -> str:
    """Draw a constant of the expected values' type that some hidden case does not accept."""
    options = ["None"]
    if not makes_nodes(problem):
        options = list(_CONSTANTS.get(type(problem.cases[0].expected).__name__, ("None", "0")))
    rng.shuffle(options)
    for text in options:
        if any(_differs(ast.literal_eval(parse_expression(text)), case) for case in problem.cases):
            return text
    raise InputError(f"problem {problem.id}: its hidden cases accept every constant stub")


def _differs(value: object, case: Case) -> bool:
    if case.result != "plain":
        return case.expected != []
    return type(value) is not type(case.expected) or value != case.expected


def makes_nodes(problem: Problem) -> bool:
    """Does the problem's method return a linked list or a tree?"""
    return any(case.result != "plain" for case in problem.cases)


def shown_cases(problem: Problem, count: int = 2) -> list[Case]:
    """Choose cases for tests that people would write: those of the text, else the shortest ones."""
    if problem.examples:
        return list(problem.examples[:count])
    return sorted(problem.cases, key=lambda case: len(repr(case.kwargs)))[:count]


def stream(flavour: str, problem: Problem, seed: int) -> random.Random:
    """Return the random stream of one template, problem and seed."""
    return random.Random(f"{flavour} {problem.id} {seed}")
