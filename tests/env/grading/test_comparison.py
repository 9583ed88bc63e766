"""Comparison without hash tables: the same verdicts as by Python's sets, in linear time."""

import contextlib
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from linear import assert_linear

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
    return wire.decode_hostile(wire.parse_json(wire.dump(wire.encode(value))))


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
        want = plainly_same(expected, wire.decode(wire.parse_json(wire.dump(wire.encode(value)))))
        assert same_value(expected, sent(value)) is want, (expected, value)
        assert same_value(expected, value) is want or "nan" in repr(expected)
        verdicts[want] += 1
    assert min(verdicts.values()) > 2000


def colliding(n: int) -> list[int]:
    return list(range(0, n * PRIME, PRIME))


def mixed(n: int) -> list[int]:
    """Half of the hashes differ, so that counting them shows little."""
    return colliding(n) + list(range(1, n + 1))


@pytest.mark.parametrize(
    "answer",
    [
        lambda n: {"s": [{"i": hex(key)} for key in colliding(n * 1_500)]},
        lambda n: {"z": [{"i": hex(key)} for key in mixed(n * 1_500)]},
        lambda n: {"d": [[{"i": hex(key)}, 0] for key in mixed(n * 1_500)]},
        lambda n: {"s": [{"t": [{"i": hex(key)}]} for key in colliding(n * 1_500)]},
        lambda n: {"s": [{"z": [{"i": hex(key)}]} for key in colliding(n * 1_500)]},
        lambda n: {"z": [float(2**70 + k * 2**18) for k in range(n * 2_500)]},
        lambda n: [[] for _ in range(n * 20_000)],
        lambda n: [{"b": "00" * n * 125_000}],
        lambda n: [{"i": "0x" + "f" * n * 250_000}],
        lambda n: ["a" * n * 250_000],
        lambda n: [float("0." + "1" * 100)] * n * 2_500,
    ],
    ids=[
        *("set", "frozenset", "dict", "tuples", "frozensets", "floats"),
        *("lists", "bytes", "long_int", "text", "one_float"),
    ],
)
def test_an_answer_takes_time_linear_in_its_bytes(answer: Callable[[int], Any]) -> None:
    def read(payload: bytes) -> None:
        value = wire.decode_hostile(wire.parse_json(payload))
        assert same_value(value, wire.decode_hostile(wire.parse_json(payload)))
        same_value([], value)

    assert_linear(read, lambda n: wire.dump(answer(n)))


@pytest.mark.parametrize(
    "text",
    [
        lambda n: "9" * n * 25_000,
        lambda n: "[" * n * 6_250,
        lambda n: '{"a":' * n * 6_250,
        lambda n: "0." + "1" * n * 250_000,
    ],
    ids=["9", "[", "{", "0."],
)
def test_forged_bytes_take_time_linear_in_their_number(text: Callable[[int], str]) -> None:
    assert_linear(read_forged, lambda n: text(n).encode())


@pytest.mark.parametrize(
    "text",
    [
        "9" * 5000,
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
def test_forged_bytes_are_no_value(text: str) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_hostile(wire.parse_json(text.encode()))


def read_forged(payload: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        assert type(wire.decode_hostile(wire.parse_json(payload))) is float


def test_members_that_were_sent_twice_are_no_set() -> None:
    assert not same_value({1}, wire.decode_hostile({"s": [1, 1]}))
    assert not same_value({1, 2}, wire.decode_hostile({"s": [1, 1]}))
    assert not same_value({1: 2, 2: 2}, wire.decode_hostile({"d": [[1, 2], [1, 2]]}))
    assert not same_value(frozenset(), wire.decode_hostile({"s": []}))
