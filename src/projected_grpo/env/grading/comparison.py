"""Compare a program's answer, plain data, with the expected one (rules: docs/environment.md)."""

from typing import Any

from projected_grpo.env.problems.problem import Problem


def same_value(expected: Any, value: Any) -> bool:
    """Is `value`, plain data from a program, the expected answer?

    By exact builtin type all the way down, then by `==`: True is not 1, a tuple is not a list, a
    float is compared exactly (as the benchmark does) and NaN equals nothing. One kindness: where a
    float is expected, an int of exactly that value will do: Python programs write 0 for 0.0.
    """
    kind = type(expected)
    if kind is float and type(value) is int:
        return value == expected
    if type(value) is not kind:
        return False
    if kind is list or kind is tuple:
        return len(value) == len(expected) and all(map(same_value, expected, value))
    if kind is dict:
        return (
            len(value) == len(expected)
            and set(map(_typed, expected)) == set(map(_typed, value))
            and all(same_value(expected[key], value[key]) for key in expected)
        )
    if kind is set or kind is frozenset:
        return set(map(_typed, expected)) == set(map(_typed, value))
    return value == expected


def _typed(key: Any) -> tuple[Any, ...]:
    """A hashable plain value with its types, so that True and 1, or 1.0 and 1, differ."""
    if type(key) is tuple:
        return (type(key), *map(_typed, key))
    if type(key) is frozenset:
        return (type(key), frozenset(map(_typed, key)))
    return (type(key), key)


def one_answer(problem: Problem) -> bool:
    """Could one and the same value pass all hidden tests?

    By plain `==`, which is wider than `same_value`: 1 passes where 1 and 1.0 are expected.
    """
    return all(case.expected == problem.cases[0].expected for case in problem.cases)
