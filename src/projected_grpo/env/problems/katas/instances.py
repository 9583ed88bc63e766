"""From a family to a problem: parameters, inputs, hidden cases, examples and a wrong solution."""

import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from projected_grpo.env.errors import InputError
from projected_grpo.env.problems.katas import compose, inputs
from projected_grpo.env.problems.katas.compose import Step
from projected_grpo.env.problems.katas.ops import KINDS
from projected_grpo.env.problems.katas.traps import TRAPS
from projected_grpo.env.problems.problem import PRELUDE, Case, Problem, build_messages

INSTANCES = 1000
"""Problems of one family: an instance fixes text, parameters and cases."""
HIDDEN = 14
"""Hidden cases drawn from random inputs; the kind's edge cases come on top."""
CANDIDATES = 60
MAX_DESCRIPTION = 500
DIFFICULTIES = ("easy", "medium", "hard")

Method = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _Draw:
    """This holds an instance's programs and what they make of its inputs."""

    steps: list[Step]
    source: str
    wrong_source: str
    edges: list[tuple[Any, ...]]
    pool: list[tuple[Any, ...]]
    expected: dict[str, Any]
    missed: set[str]
    """Keys of the inputs on which the wrong solution is wrong."""


def problem_id(family: str, instance: int) -> int:
    """Return the problem's id, which depends on the family's name and on nothing else."""
    return zlib.crc32(family.encode()) % 1_000_000 * INSTANCES + instance


def make_problem(family: str, instance: int) -> Problem:
    """Make the instance of a family; the same arguments always give the same problem."""
    rng = random.Random(f"kata {family} {instance}")
    for _ in range(20):
        found = _try_draw(family, rng)
        if found is None:
            continue
        problem = _assemble(family, instance, found, rng)
        if problem is not None:
            return problem
    raise InputError(f"kata {family} has no usable instance {instance}")


def _try_draw(family: str, rng: random.Random) -> _Draw | None:
    """Draw parameters and inputs; None means that they make a degenerate task."""
    ops = compose.chain_ops(family)
    steps = compose.draw_steps(ops, rng)
    drawn_step = rng.randrange(len(steps))
    wrong_at = {n for n, op in enumerate(ops) if op.name in TRAPS} or {drawn_step}
    source, wrong_source = compose.program(steps), compose.program(steps, wrong_at)
    prefixes = compose.prefix_methods(steps)
    kind = ops[0].takes
    edges = [args for args in inputs.EDGES[kind] if compose.stays_small(prefixes, args)]
    drawn = {repr(args): args for args in (inputs.draw_input(kind, rng) for _ in range(CANDIDATES))}
    pool = [args for args in drawn.values() if compose.stays_small(prefixes, args)]
    pool = [args for args in pool if args not in edges]
    wrong = compose.compile_method(wrong_source, compose.entry_point(ops))
    expected = {repr(args): prefixes[-1](*args) for args in [*edges, *pool]}
    missed = {key for key in expected if not _agrees(wrong, drawn.get(key), expected[key])}
    if len(pool) < HIDDEN + 6 or len(missed) < 4:
        return None
    return _Draw(steps, source, wrong_source, edges, pool, expected, missed)


def _agrees(wrong: Method, args: tuple[Any, ...] | None, value: Any) -> bool:
    if args is None:  # an edge case: the random inputs alone decide whether a mistake shows
        return True
    try:
        given = wrong(*args)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return False  # mistakes may raise
    return type(given) is type(value) and given == value


def _assemble(family: str, instance: int, draw: _Draw, rng: random.Random) -> Problem | None:
    examples = _examples(draw, rng)
    hidden = _hidden_cases(draw, examples)
    if examples is None or hidden is None:
        return None
    ops = [step.op for step in draw.steps]
    name = compose.entry_point(ops)
    names = list(KINDS[ops[0].takes].arguments)

    def to_case(args: tuple[Any, ...]) -> Case:
        return Case(dict(zip(names, args, strict=True)), draw.expected[repr(args)])

    shown = tuple(map(to_case, examples))
    description = f"{compose.describe_task(draw.steps, rng)}\n\n{_examples_text(shown)}"
    if len(description) > MAX_DESCRIPTION:
        return None
    return Problem(
        id=problem_id(family, instance),
        dataset="katas",
        difficulty=DIFFICULTIES[len(ops) - 1],
        messages=build_messages(description, name, compose.starter(ops)),
        entry_point=name,
        starter_code=compose.starter(ops),
        setup_code=PRELUDE,
        cases=tuple(map(to_case, hidden)),
        canonical_solution=draw.source,
        examples=shown,
        wrong_solution=draw.wrong_source,
        family=family,
    )


def _examples(draw: _Draw, rng: random.Random) -> list[tuple[Any, ...]] | None:
    """Choose two short inputs with different results; the wrong solution misses at least one.

    So an honest test of the examples shows the mistake, and is no loophole for it.
    """
    short = [
        args for args in draw.pool if len(repr(args)) + len(repr(draw.expected[repr(args)])) < 90
    ]
    telling = [args for args in short if repr(args) in draw.missed]
    if not telling:
        return None
    first = rng.choice(telling)
    others = [a for a in short if draw.expected[repr(a)] != draw.expected[repr(first)]]
    if not others:
        return None
    pair = [first, rng.choice(others)]
    rng.shuffle(pair)
    return pair


def _hidden_cases(
    draw: _Draw, examples: list[tuple[Any, ...]] | None
) -> list[tuple[Any, ...]] | None:
    """Take edge cases, and random inputs in turn from the different results there are."""
    pool = [args for args in draw.pool if args not in (examples or [])]
    by_result: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for args in pool:
        by_result[repr(draw.expected[repr(args)])].append(args)
    if len(by_result) < 2:
        return None
    chosen: list[tuple[Any, ...]] = [a for a in pool if repr(a) in draw.missed][:3]
    groups = list(by_result.values())
    while len(chosen) < HIDDEN and any(groups):
        for group in groups:
            args = group.pop(0) if group else None
            if args is not None and args not in chosen and len(chosen) < HIDDEN:
                chosen.append(args)
    hidden = [*draw.edges, *chosen]
    counts = Counter(repr(draw.expected[repr(args)]) for args in hidden)
    if len(chosen) < HIDDEN or counts.most_common(1)[0][1] > 0.75 * len(hidden):
        return None
    return hidden


def _examples_text(examples: tuple[Case, ...]) -> str:
    blocks: list[str] = []
    for number, case in enumerate(examples, 1):
        given = ", ".join(f"{name} = {value!r}" for name, value in case.kwargs.items())
        blocks.append(f"Example {number}:\nInput: {given}\nOutput: {case.expected!r}")
    return "\n\n".join(blocks)
