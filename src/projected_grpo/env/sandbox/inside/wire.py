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


def parse(payload: bytes) -> Any:
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
    if other is not None:
        return other(value)
    raise NotPlainError(type.__repr__(kind)[:80])


def decode(data: Any, tags: dict[str, Callable[[Any], Any]] | None = None) -> Any:
    """The value that `encode` was given, built anew; raises WireError.

    `tags` adds constructors, called with the decoded content of their tag (the nodes of a prelude).
    """
    return _decode(data, tags if tags is not None else {}, 0)


def _decode(data: Any, tags: dict[str, Callable[[Any], Any]], depth: int) -> Any:
    kind = type(data)
    if kind in _ATOMS or kind is int:
        return data
    if depth > MAX_DEPTH + 2:
        raise WireError("nested too deeply")
    if kind is list:
        return [_decode(item, tags, depth + 1) for item in data]
    if kind is not dict or len(data) != 1:
        raise WireError("an object must have exactly one key, its tag")
    ((tag, content),) = data.items()
    if tag in tags:
        return tags[tag](_decode(content, tags, depth + 1))
    try:
        return _TAGGED[tag](content, tags, depth + 1)
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"bad content of tag {tag!r:.20}") from error


def _integer(content: Any, _tags: dict[str, Any], _depth: int) -> int:
    if type(content) is not str:
        raise WireError("a long integer is written as hexadecimal text")
    return int(content, 16)


def _bytes(content: Any, _tags: dict[str, Any], _depth: int) -> bytes:
    return bytes.fromhex(content)


def _sequence(build: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    def decode_items(content: Any, tags: dict[str, Any], depth: int) -> Any:
        if type(content) is not list:
            raise WireError("a container's content is a list")
        return build([_decode(item, tags, depth) for item in content])

    return decode_items


def _hashed(build: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    def decode_items(content: Any, tags: dict[str, Any], depth: int) -> Any:
        items = _sequence(list)(content, tags, depth)
        _refuse_collisions(items)
        return build(items)

    return decode_items


def _refuse_collisions(keys: list[Any]) -> None:
    """Keys made to share their hashes take quadratic time to insert, in one call that nothing can
    stop and that would hold up all other programs' clocks."""
    if len(keys) > 64 and 2 * len(set(map(hash, keys))) < len(keys):
        raise WireError("too many equal hashes")


def _dict(content: Any, tags: dict[str, Any], depth: int) -> dict[Any, Any]:
    pairs = [(_decode(k, tags, depth), _decode(v, tags, depth)) for k, v in content]
    _refuse_collisions([key for key, _ in pairs])
    return dict(pairs)


_TAGGED: dict[str, Callable[..., Any]] = {
    "i": _integer,
    "b": _bytes,
    "t": _sequence(tuple),
    "s": _hashed(set),
    "z": _hashed(frozenset),
    "d": _dict,
}
