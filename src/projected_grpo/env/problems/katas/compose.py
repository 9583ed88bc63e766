"""Chains of operations as programs and as English."""

import random
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import cache
from typing import Any

from projected_grpo.env.problems.katas.ops import KINDS, Op
from projected_grpo.env.problems.katas.ops_lists import LISTS
from projected_grpo.env.problems.katas.ops_numbers import NUMBERS, PAIRS
from projected_grpo.env.problems.katas.ops_others import (
    DICTS,
    INTERVALS,
    LIST_AND_NUMBER,
    NESTED,
    TWO_STRINGS,
)
from projected_grpo.env.problems.katas.ops_strings import STRINGS, WORDS
from projected_grpo.env.problems.problem import PRELUDE

OPS: dict[str, Op] = {
    op.name: op
    for table in (
        LISTS,
        STRINGS,
        WORDS,
        NUMBERS,
        PAIRS,
        DICTS,
        INTERVALS,
        NESTED,
        LIST_AND_NUMBER,
        TWO_STRINGS,
    )
    for op in table
}

MAX_NUMBER = 20_000
"""Larger numbers on the way make some references slow, and prompts ugly."""

_RESULTS = {
    "L": "the resulting list",
    "S": "the resulting string",
    "W": "the resulting list",
    "N": "the resulting number",
    "D": "the resulting dictionary",
    "I": "the resulting list",
    "T": "the resulting list",
}


@dataclass(frozen=True, slots=True)
class Step:
    """An operation with its parameters fixed."""

    op: Op
    params: dict[str, Any]

    def fill(self, text: str, **names: str) -> str:
        """Put parameters and names into the text; all other braces are Python's."""
        for name, value in {**self.params, **names}.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text


def chain_ops(name: str) -> tuple[Op, ...]:
    """Return the operations of a family by its name ("keep_even>square>sum")."""
    return tuple(OPS[part] for part in name.split(">"))


def draw_steps(ops: Sequence[Op], rng: random.Random) -> list[Step]:
    """Draw the operations' parameters."""
    return [Step(op, {key: rng.choice(v) for key, v in op.params.items()}) for op in ops]


def entry_point(ops: Sequence[Op]) -> str:
    """Return the method's name: the last operation's, in camel case as in the benchmark."""
    first, *rest = ops[-1].name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def starter(ops: Sequence[Op]) -> str:
    """Write the class and the method's signature."""
    arguments = ", ".join(f"{k}: {v}" for k, v in KINDS[ops[0].takes].arguments.items())
    return (
        f"class Solution:\n    def {entry_point(ops)}(self, {arguments})"
        f" -> {KINDS[ops[-1].gives].annotation}:"
    )


def program(steps: Sequence[Step], wrong_at: Set[int] = frozenset()) -> str:
    """Write the solution's source; the steps at the indices `wrong_at` make their mistakes."""
    ops = [step.op for step in steps]
    lines = [starter(ops)]
    current = next(iter(KINDS[ops[0].takes].arguments))
    for index, step in enumerate(steps):
        output = KINDS[step.op.gives].variables[index]
        code = step.op.wrong if index in wrong_at else step.op.code
        code = step.fill(code, i=current, o=output)
        is_last = index == len(steps) - 1
        body = code.split("\n")
        if len(body) == 1:
            body = [f"return {code}" if is_last else f"{output} = {code}"]
        elif is_last:
            body.append(f"return {output}")
        lines += [f"        {line}" for line in body]
        current = output
    return "\n".join(lines) + "\n"


@cache
def _prelude() -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(PRELUDE, namespace)
    return namespace


def compile_method(source: str, name: str) -> Callable[..., Any]:
    """Compile the method of a source of ours. Only ours: it runs in this very process."""
    namespace = dict(_prelude())
    exec(source, namespace)
    method = getattr(namespace["Solution"](), name)
    return lambda *arguments: method(*map(_copied, arguments))


def _copied(value: Any) -> Any:
    """A copy that the method may change. `copy.deepcopy` would take twice as long as all else that
    making a problem takes; inputs are numbers, texts, and lists and dicts of them."""
    if isinstance(value, list):
        return [_copied(item) for item in value]
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return value


def stays_small(prefixes: Sequence[Callable[..., Any]], args: tuple[Any, ...]) -> bool:
    """Do all values on the way keep to `MAX_NUMBER` and to a length that fits a prompt?"""
    for prefix in prefixes:
        value = prefix(*args)
        if _largest(value) > MAX_NUMBER or len(repr(value)) > 80:
            return False
    return True


def prefix_methods(steps: Sequence[Step]) -> list[Callable[..., Any]]:
    """Compile the chain's programs after one step, after two, and so on."""
    return [
        compile_method(program(steps[:n]), entry_point([s.op for s in steps[:n]]))
        for n in range(1, len(steps) + 1)
    ]


def _largest(value: Any) -> int:
    if isinstance(value, int):
        return abs(value)
    if isinstance(value, dict):
        return max(map(_largest, value.values()), default=0)
    if isinstance(value, list):
        return max(map(_largest, value), default=0)
    return 0


def describe_task(steps: Sequence[Step], rng: random.Random) -> str:
    """Write the task in English, in one of several forms."""
    given = rng.choice(KINDS[steps[0].op.takes].given)
    *first, (is_value, last) = [_phrase(step, i == 0, rng) for i, step in enumerate(steps)]
    deeds = [f"{rng.choice(('find', 'compute'))} {text}" if v else text for v, text in first]
    if is_value:
        result = last
    else:
        deeds.append(last)
        result = _RESULTS[steps[-1].op.gives]
    style = rng.randrange(4)
    if not deeds:
        return (
            f"Given {given}, return {result}.",
            f"You are given {given}. Return {result}.",
            f"The method takes {given} and must return {result}.",
            f"Return {result}. The input is {given}.",
        )[style]
    if style == 0:
        return f"Given {given}, {', then '.join(deeds)}, and return {result}."
    if style == 1:
        then = [rng.choice(("Then", "Next,", "After that,")) + f" {deed}." for deed in deeds[1:]]
        return " ".join(
            [f"You are given {given}.", _sentence(deeds[0]), *then, f"Return {result}."]
        )
    if style == 2:
        return f"The method takes {given}. It must {', then '.join(deeds)}, and return {result}."
    numbered = [f"{n}. {_sentence(deed)}" for n, deed in enumerate(deeds, 1)]
    return "\n".join([f"Do this with {given}:", *numbered, f"{len(deeds) + 1}. Return {result}."])


def _phrase(step: Step, is_first: bool, rng: random.Random) -> tuple[bool, str]:
    kind = KINDS[step.op.takes]
    text = rng.choice(step.op.say)
    them = kind.them_first if is_first else kind.them_later
    return text.startswith("="), step.fill(text.lstrip("="), it=kind.it, them=them)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
