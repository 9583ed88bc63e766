"""The child that runs one completion: it executes the code and answers calls, one at a time.

Everything in this process is at the completion's mercy, this module included: it can walk our
frames, rebind our functions and write on our descriptor. So nothing here judges. The process is
given the code, and then one call's arguments at a time together with that call's nonce; what goes
back is a value. The next arguments leave the outside only after this answer has come in; expected
values and the number of calls never come here at all. A forged message can at best be a wrong
answer.
"""

import _socket
import gc
import os
import random
import socket
import sys
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any, NoReturn

from . import wire

CHANNEL = 3
"""Descriptor of the channel in this process; 0, 1 and 2 are the usual three; no others are open."""

_LOOPS = 2
MAX_NODES = 200_000
_PLAIN = (bool, int, float, str, list, tuple, dict, set, frozenset, bytes)

Prelude = CodeType | ModuleType
"""A setup code as programs inherit it: compiled, or the module in which it has run."""


class _LentSocket(socket.socket):
    """One end of a pair that is lent to one loop after another."""

    def close(self) -> None:
        """Stay open: no other can be made."""


def lend_socket_pairs() -> None:
    """Make the socket pairs by which asyncio's loops wake themselves, and lend them to each in
    turn: the filter refuses to make more, because each new socket moves the kernel's inode counter.
    """
    ends = [end.detach() for _ in range(_LOOPS) for end in _socket.socketpair()]
    pairs: list[tuple[socket.socket, socket.socket]] = []

    def socketpair(*_kind: int) -> tuple[socket.socket, socket.socket]:
        if not pairs:  # Few programs ask, and these objects take as long as the sockets.
            lent = [_LentSocket(fileno=end) for end in ends]
            pairs.extend(zip(lent[::2], lent[1::2], strict=True))
        pairs.append(pairs.pop(0))
        return pairs[-1]

    socket.socketpair = socketpair  # pyright: ignore[reportAttributeAccessIssue]


def prepare_prelude(setup: str, *, run: bool) -> Prelude:
    """Compile a setup code for the programs to come, and with `run` run it; raises SyntaxError,
    ValueError."""
    code = compile(setup, "<setup>", "exec", dont_inherit=True)
    if not run:
        return code
    module = ModuleType("solution")
    exec(code, module.__dict__)
    return module


def run_program(preludes: dict[str, Prelude], result_bytes: int, problem: str) -> NoReturn:
    """Serve the channel until the outside closes it or kills us.

    `preludes` maps a setup code's text to what has been prepared of it (saves most of a trivial
    run's time). `problem` says why no program may run here; empty if one may.
    """
    module = ModuleType("solution")
    # Forked children would otherwise be seeded from the kernel, and labels differ from run to run.
    random.seed(0)
    while True:
        request = _receive()
        try:
            if request["op"] == "set_up":
                module = _set_up(request["setup"], preludes, problem)
                answer = {}
            else:
                answer = _serve(request, module.__dict__)
            # What the program printed must be seen before its answer is.
            sys.stdout.flush()
            reply = wire.dump({"id": request["id"], **answer})
            if len(reply) > result_bytes:
                reply = wire.dump({"id": request["id"], "not_plain": "a result that is too long"})
        # A completion may raise anything at all, SystemExit included; all of it is its answer.
        except BaseException as error:
            reply = wire.dump({"id": request["id"], "error": _describe(error)})
        _send(wire.frame(reply))


def _serve(request: dict[str, Any], scope: dict[str, Any]) -> dict[str, Any]:
    operation = request["op"]
    if operation == "load":
        _load(request["code"], scope)
        return {}
    if operation == "call":
        return _call(request, scope)
    if operation == "invoke":
        return _invoke(request["function"], scope)
    if operation == "finish":
        # Files that were left open are written out when their last reference goes.
        scope.clear()
        gc.collect()
        return {}
    instance = scope["Solution"]()
    return {"attributes": {n: bool(getattr(instance, n, False)) for n in request["names"]}}


def _set_up(setup: str, preludes: dict[str, Prelude], problem: str) -> ModuleType:
    """The module in which the prelude has run. The outside sends the completion when it has heard
    that this went well, so that what goes wrong up to here is not charged to it."""
    if problem:
        raise OSError(problem)
    module = preludes.get(setup) or prepare_prelude(setup, run=True)
    if isinstance(module, CodeType):
        code, module = module, ModuleType("solution")
        exec(code, module.__dict__)
    sys.modules["solution"] = module
    return module


def _load(code: str, scope: dict[str, Any]) -> None:
    try:
        # Apart from the prelude, so that `from __future__` may stand first.
        program = compile(code, "<completion>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise _UnparsedError(f"{type(error).__name__}: {error}") from None
    exec(program, scope)


def _call(request: dict[str, Any], scope: dict[str, Any]) -> dict[str, Any]:
    tags = {kind: scope[kind] for kind in ("list_node", "tree_node") if kind in scope}
    kwargs = {name: wire.decode(data, tags) for name, data in request["kwargs"].items()}
    method = getattr(scope["Solution"](), request["method"])
    value = method(**kwargs)
    try:
        return {"value": wire.encode(_FLATTEN[request["result"]](value))}
    except wire.NotPlainError as error:
        return {"not_plain": str(error)}


def _invoke(expression: str, scope: dict[str, Any]) -> dict[str, Any]:
    """Call a function of the program; says of an exception whether it came from inside it."""
    function = eval(compile(expression, "<grader>", "eval"), scope)
    try:
        function()
    except Exception as error:
        trace = error.__traceback__
        # The first frame is this one. Without another, it could not even be called.
        inside = trace is not None and trace.tb_next is not None
        return {"error": {**_describe(error), "raised": inside}}
    return {}


class _UnparsedError(Exception):
    """The completion is not a Python program."""


def _describe(error: BaseException) -> dict[str, Any]:
    """Kind and text of an exception, for people; its own methods may be hostile too."""
    if isinstance(error, MemoryError):
        return {"kind": "memory", "text": "MemoryError"}
    kind = "unparsed" if type(error) is _UnparsedError else "raised"
    try:
        text = str(error)
    except BaseException:
        text = "(no text)"
    if kind == "raised":
        text = f"{type(error).__name__}: {text}"
    return {"kind": kind, "text": text[:300]}


# Results


def _same(value: Any) -> Any:
    return value


def _flatten_list(node: Any) -> list[Any]:
    """Values of a linked list from head to tail; raises NotPlainError on a cycle."""
    values: list[Any] = []
    while node is not None:
        _check_node(node, len(values))
        values.append(node.val)
        node = node.next
    return values


def _flatten_tree(root: Any) -> list[Any]:
    """Values in level order, None for a missing child of a present node, trailing Nones cut."""
    values: list[Any] = []
    level = [root]
    while level:
        following: list[Any] = []
        for node in level:
            if node is None:
                values.append(None)
                continue
            _check_node(node, len(values))
            values.append(node.val)
            following += (node.left, node.right)
        level = following
    while values and values[-1] is None:
        values.pop()
    return values


def _check_node(node: Any, count: int) -> None:
    if type(node) in _PLAIN:
        raise wire.NotPlainError(f"{type(node)!r} where a node was wanted")
    if count >= MAX_NODES:
        raise wire.NotPlainError("a node structure that does not end")


_FLATTEN: dict[str, Callable[[Any], Any]] = {
    "plain": _same,
    "list_node": _flatten_list,
    "tree_node": _flatten_tree,
}


# The channel


def _receive() -> dict[str, Any]:
    length = wire.frame_length(_read(wire.HEAD_BYTES))
    return wire.parse_json(_read(length))


def _read(count: int) -> bytes:
    parts = []
    while count:
        part = os.read(CHANNEL, min(count, 1 << 16))
        if not part:  # The outside has closed it: it knows all it wants.
            os._exit(0)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _send(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(CHANNEL, view) :]
