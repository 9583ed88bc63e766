"""Compare a program's answer, plain data, with the expected one (rules: docs/environment.md).

The time is linear in the size of the two, whatever they hold: no hash table is made of what a
program chose, because keys can be made to collide. Members of sets and dicts are compared by texts
(Python seeds the hashes of texts anew in every process).
"""

from itertools import count
from typing import Any

from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.inside.wire import Unhashed

_HASHED = (set, frozenset, dict)
_unequal = count()


def same_value(expected: Any, value: Any) -> bool:
    """Is `value`, plain data from a program, the expected answer?

    By exact builtin type all the way down, then by `==`: True is not 1, a tuple is not a list, a
    float is compared exactly (as the benchmark does) and NaN equals nothing. One kindness: where a
    float is expected, an int of exactly that value will do: Python programs write 0 for 0.0.
    """
    kind = _kind(expected)
    if kind is float and type(value) is int:
        return value == expected
    if _kind(value) is not kind:
        return False
    if kind is list or kind is tuple:
        return len(value) == len(expected) and all(map(same_value, expected, value))
    if kind in _HASHED:
        right, items = _members(expected), _members(value)
        if len(right) != len(items):
            return False
        return _same_entries(right, items) if kind is dict else _keys(right) == _keys(items)
    return value == expected


def _same_entries(expected: list[Any], items: list[Any]) -> bool:
    """Do two dicts of one size, as lists of (key, value), have the same keys and values?"""
    found = {_key(key): value for key, value in items}
    return all(
        key in found and same_value(value, found[key])
        for key, value in ((_key(key), value) for key, value in expected)
    )


def _kind(value: Any) -> type:
    return value.kind if type(value) is Unhashed else type(value)


def _members(value: Any) -> list[Any]:
    if type(value) is Unhashed:
        return value.items
    return list(value.items() if type(value) is dict else value)


def _keys(items: list[Any]) -> set[str]:
    return set(map(_key, items))


def _key(value: Any) -> str:
    """A text that two members of a set, or keys of a dict, share if they are the same value.

    The types count, so that True and 1, or 1.0 and 1, differ. NaN, and what cannot be in a set,
    never give the same text twice.
    """
    kind = _kind(value)
    if kind is str:
        return f"s{len(value)}:{value}"
    if kind is int:
        return f"i{value:x};"
    if kind is tuple:
        return f"({''.join(map(_key, value))})"
    if kind is frozenset:
        return f"{{{''.join(sorted(map(_key, _members(value))))}}}"
    if kind is float and value == value:
        return f"f{(value + 0.0).hex()};"  # -0.0 is 0.0
    if kind is bytes:
        return f"b{value.hex()};"
    if value is None or kind is bool:
        return f"{value};"
    return f"?{next(_unequal)};"


def one_answer(problem: Problem) -> bool:
    """Could one and the same value pass all hidden tests?

    By plain `==`, which is wider than `same_value`: 1 passes where 1 and 1.0 are expected.
    """
    return all(case.expected == problem.cases[0].expected for case in problem.cases)
