"""Comparison without hash tables: the same verdicts as by Python's sets, in linear time."""

import contextlib
import math
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from projected_grpo.env.grading.comparison import same_value
from projected_grpo.env.sandbox.inside import wire

PRIME = 2**61 - 1
"""All multiples of it have the same hash."""


def plainly_same(expected: Any, value: Any) -> bool:
    """The rules of comparison written with Python's own sets and dicts."""
    kind = type(expected)
    if kind is float and type(value) is int:
        return value == expected
    if type(value) is not kind:
        return False
    if kind is list or kind is tuple:
        return len(value) == len(expected) and all(map(plainly_same, expected, value))
    if kind is dict:
        return (
            len(value) == len(expected)
            and set(map(typed, expected)) == set(map(typed, value))
            and all(plainly_same(expected[key], value[key]) for key in expected)
        )
    if kind is set or kind is frozenset:
        return set(map(typed, expected)) == set(map(typed, value))
    return value == expected


def typed(key: Any) -> tuple[Any, ...]:
    if type(key) is tuple:
        return (type(key), *map(typed, key))
    if type(key) is frozenset:
        return (type(key), frozenset(map(typed, key)))
    return (type(key), key)


def sent(value: Any) -> Any:
    """The value as it is after its way out of the sandbox."""
    return wire.decode_hostile(wire.parse(wire.dump(wire.encode(value))))


SCALARS: list[Callable[[], Any]] = [
    lambda: None,
    lambda: random.choice([True, False]),
    lambda: random.choice([0, 1, -1, 2, 2**63, -(2**70), PRIME]),
    lambda: random.choice([0.0, -0.0, 1.0, 2.0, 0.5, math.inf, -math.inf, math.nan, 2.0**70]),
    lambda: random.choice(["", "0", "1", "a", "s1:a", ";", "\ud800", "é"]),
    lambda: random.choice([b"", b"\0", b"a"]),
]


def hashable(depth: int) -> Any:
    kind = random.randrange(8 if depth else 6)
    if kind < 6:
        return SCALARS[kind]()
    items = [hashable(depth - 1) for _ in range(random.randrange(3))]
    return tuple(items) if kind == 6 else frozenset(items)


def anything(depth: int) -> Any:
    kind = random.randrange(6 if depth else 1)
    if kind in (0, 1):
        return hashable(depth)
    if kind in (2, 3):
        return (list, tuple)[kind - 2](anything(depth - 1) for _ in range(random.randrange(3)))
    if kind == 4:
        return {hashable(depth - 1) for _ in range(random.randrange(4))}
    return {hashable(depth - 1): anything(depth - 1) for _ in range(random.randrange(4))}


def changed(value: Any) -> Any:
    """The same, or with one scalar in another type or sign."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return kind(changed(item) for item in value)
    if kind is dict:
        return {changed(key): changed(item) for key, item in value.items()}
    if random.random() < 0.8:
        return value
    if kind is bool or kind is int:
        return random.choice([int(value), float(value), bool(value)])
    return -value if kind is float else value


def test_it_says_what_pythons_own_sets_say() -> None:
    random.seed(0)
    verdicts = {True: 0, False: 0}
    for _ in range(20_000):
        expected = anything(3)
        value = random.choice([expected, changed(expected), anything(2)])
        # NaN is no object's own equal where it has been sent.
        want = plainly_same(expected, wire.decode(wire.parse(wire.dump(wire.encode(value)))))
        assert same_value(expected, sent(value)) is want, (expected, value)
        assert same_value(expected, value) is want or "nan" in repr(expected)
        verdicts[want] += 1
    assert min(verdicts.values()) > 2000


COLLIDING = list(range(0, 40_000 * PRIME, PRIME))
MIXED = COLLIDING + list(range(1, 40_001))
"""Half of the hashes differ, so that counting them shows little."""


@pytest.mark.parametrize(
    "answer",
    [
        {"s": [{"i": hex(key)} for key in COLLIDING]},
        {"z": [{"i": hex(key)} for key in MIXED]},
        {"d": [[{"i": hex(key)}, 0] for key in MIXED]},
        {"s": [{"t": [{"i": hex(key)}]} for key in COLLIDING]},
        {"s": [{"z": [{"i": hex(key)}]} for key in COLLIDING]},
        {"z": [float(2**70 + k * 2**18) for k in range(40_000)]},
        [[] for _ in range(1_000_000)],
        [{"b": "00" * 2_000_000}],
        [{"i": "0x" + "f" * 4_000_000}],
        ["a" * 4_000_000],
        [float("0." + "1" * 100)] * 40_000,
    ],
    ids=lambda value: next(iter(value)) if type(value) is dict else "list",
)
def test_an_answer_takes_time_linear_in_its_bytes(answer: Any) -> None:
    payload = wire.dump(answer)
    start = time.process_time()
    value = wire.decode_hostile(wire.parse(payload))
    assert same_value(value, wire.decode_hostile(wire.parse(payload)))
    same_value([], value)
    assert time.process_time() - start < 4


@pytest.mark.parametrize(
    "text",
    [
        "9" * 5000,
        "[" * 100_000,
        '{"a":' * 100_000,
        "0." + "1" * 4_000_000,
        '{"s": 1}',
        '{"d": [1]}',
        '{"d": [[1]]}',
        '{"i": 5}',
        '{"b": "0"}',
        '{"x": []}',
        "{}",
        '{"t": 1, "s": []}',
    ],
    ids=lambda text: text[:12],
)
def test_forged_bytes_are_no_value_at_once(text: str) -> None:
    start = time.process_time()
    with contextlib.suppress(wire.WireError):
        assert type(wire.decode_hostile(wire.parse(text.encode()))) is float
    assert time.process_time() - start < 1


def test_members_that_were_sent_twice_are_no_set() -> None:
    assert not same_value({1}, wire.decode_hostile({"s": [1, 1]}))
    assert not same_value({1, 2}, wire.decode_hostile({"s": [1, 1]}))
    assert not same_value({1: 2, 2: 2}, wire.decode_hostile({"d": [[1, 2], [1, 2]]}))
    assert not same_value(frozenset(), wire.decode_hostile({"s": []}))
