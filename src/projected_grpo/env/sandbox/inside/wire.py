"""Plain data as bytes: what a completion is given and what it may answer.

JSON with tags. `None`, `bool`, `str`, `float`, `list` and integers below 2**63 are themselves;
every other value is an object with exactly one key, its tag. Nothing here can build an object that
has behaviour, so what a hostile program wrote can at worst give a wrong answer or `WireError`.
A frame is four bytes of length (big endian) and that many bytes of JSON.
"""

import json
import struct
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 100
"""Deepest nesting of containers; a value nested more deeply is not plain."""

WAITING, END = b"w", b"k"
"""What the outside says to the fork server of a running program: it owes an answer; end it."""

BEAT_S = 0.1
"""Seconds between two `WAITING`s."""
STARVED = 10
"""A program is given up as starved of CPU (our fault) after so many times its wall-clock limit."""

_HEAD = struct.Struct("!I")
HEAD_BYTES = _HEAD.size
_INT_LIMIT = 2**63
_ATOMS = frozenset((type(None), bool, str, float))
_LEAVES = frozenset((type(None), bool, str))


class WireError(ValueError):
    """The bytes are not a value in this encoding."""


class NotPlainError(TypeError):
    """The value is not built of exact builtin types, or too deeply; `args[0]` names the type."""


def frame(payload: bytes) -> bytes:
    """`payload` with its length in front."""
    return _HEAD.pack(len(payload)) + payload


def frame_length(head: bytes) -> int:
    """Length in bytes of the payload that follows the first `HEAD_BYTES` bytes of a frame."""
    return int(_HEAD.unpack(head)[0])


def dump(message: Any) -> bytes:
    """`message`, already made of JSON's own types, as bytes (ASCII; lone surrogates survive)."""
    return json.dumps(message, separators=(",", ":")).encode("ascii")


def parse_json(payload: bytes) -> Any:
    """The JSON in `payload`.

    Raises WireError if there is none: bad UTF-8, bad JSON, a number of thousands of digits, nesting
    that exhausts the stack.
    """
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not a message: {error}") from error


def encode(value: Any, other: Callable[[Any], Any] | None = None, depth: int = 0) -> Any:
    """`value` as JSON's own types, tagged; raises NotPlainError.

    `type(x) is T` throughout: a subclass of int, or an object that claims another `__class__`, is
    not plain. `other` may encode such values instead of the error (the nodes of a prelude).
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is int:
        return value if -_INT_LIMIT < value < _INT_LIMIT else {"i": hex(value)}
    if depth >= MAX_DEPTH:
        raise NotPlainError("deeper than 100 levels")
    if kind is list:
        if _LEAVES.issuperset(map(type, value)):
            return value
        return [encode(item, other, depth + 1) for item in value]
    if kind is tuple:
        return {"t": [encode(item, other, depth + 1) for item in value]}
    if kind is dict:
        pairs = value.items()
        return {"d": [[encode(k, other, depth + 1), encode(v, other, depth + 1)] for k, v in pairs]}
    if kind is set or kind is frozenset:
        tag = "s" if kind is set else "z"
        return {tag: [encode(item, other, depth + 1) for item in value]}
    if kind is bytes:
        return {"b": value.hex()}
    if kind is Unhashed:
        # It is what a program said; another program may be given it.
        members = [encode(item, other, depth + 1) for item in value.items]
        return {{set: "s", frozenset: "z", dict: "d"}[value.kind]: members}
    if other is not None:
        return other(value)
    raise NotPlainError(type.__repr__(kind)[:80])


class Unhashed:
    """A set, frozenset or dict as its sender wrote it: its members in a list, in no hash table.

    Keys that were made to collide would take quadratic time to insert, in one call that nothing can
    interrupt. `items` are the members of a set, and lists [key, value] of a dict.
    """

    __slots__ = ("items", "kind")

    def __init__(self, kind: type, items: list[Any]) -> None:
        self.kind = kind
        self.items = items

    def __repr__(self) -> str:
        return f"Unhashed({self.kind.__name__}, {self.items!r})"


_Table = dict[str, Callable[..., Any]]
"""Tag -> (its content, this table, depth) -> the value."""


def decode(data: Any, tags: dict[str, Callable[[Any], Any]] | None = None) -> Any:
    """The value that `encode` was given, built anew; raises WireError.

    `tags` adds constructors, called with the decoded content of their tag (the nodes of a prelude).
    What a program said goes through `decode_hostile` instead.
    """
    added = {tag: _constructor(build) for tag, build in (tags or {}).items()}
    return _decode(data, _TRUSTED | added, 0)


def decode_hostile(data: Any) -> Any:
    """The same with `Unhashed` for every set and dict: in time linear in the data's size."""
    return _decode(data, _HOSTILE, 0)


def _constructor(build: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda content, table, depth: build(_decode(content, table, depth))


def _decode(data: Any, table: _Table, depth: int) -> Any:
    kind = type(data)
    if kind in _ATOMS or kind is int:
        return data
    if depth > MAX_DEPTH + 2:
        raise WireError("nested too deeply")
    if kind is list:
        if _LEAVES.issuperset(map(type, data)):
            return data
        return [_decode(item, table, depth + 1) for item in data]
    if kind is not dict or len(data) != 1:
        raise WireError("an object must have exactly one key, its tag")
    ((tag, content),) = data.items()
    try:
        return table[tag](content, table, depth + 1)
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"bad content of tag {tag!r:.20}") from error


def _integer(content: Any, _table: _Table, _depth: int) -> int:
    if type(content) is not str:
        raise WireError("a long integer is written as hexadecimal text")
    return int(content, 16)


def _bytes(content: Any, _table: _Table, _depth: int) -> bytes:
    return bytes.fromhex(content)


def _items(content: Any, table: _Table, depth: int) -> list[Any]:
    if type(content) is not list:
        raise WireError("a container's content is a list")
    return [_decode(item, table, depth) for item in content]


def _pairs(content: Any, table: _Table, depth: int) -> list[list[Any]]:
    if type(content) is not list or any(type(p) is not list or len(p) != 2 for p in content):
        raise WireError("a dict's content is a list of pairs")
    return [[_decode(k, table, depth), _decode(v, table, depth)] for k, v in content]


_TRUSTED: _Table = {
    "i": _integer,
    "b": _bytes,
    "t": lambda *given: tuple(_items(*given)),
    "s": lambda *given: set(_items(*given)),
    "z": lambda *given: frozenset(_items(*given)),
    "d": lambda *given: dict(_pairs(*given)),
}
_HOSTILE: _Table = {
    **_TRUSTED,
    "s": lambda *given: Unhashed(set, _items(*given)),
    "z": lambda *given: Unhashed(frozenset, _items(*given)),
    "d": lambda *given: Unhashed(dict, _pairs(*given)),
}
