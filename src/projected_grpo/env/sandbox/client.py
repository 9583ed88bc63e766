"""The outside of one program's life: ask, hear the answers, read its output, learn how it ended.

All that comes back is judged as hostile: an answer counts only as one frame of plain data under the
nonce of the question it answers. See `inside/program.py` for the other end.
"""

import errno
import os
import secrets
import select
import socket
import stat
import time
from collections.abc import Callable
from typing import Any, Self

from projected_grpo.env.sandbox.forkserver import ForkServer, ProgramEnd, ServerError
from projected_grpo.env.sandbox.inside import wire
from projected_grpo.env.sandbox.programs import (
    Limits,
    Node,
    NotPlain,
    Outcome,
    Program,
    ProgramResult,
    Raised,
)

_MAX_FILES = 64

Judge = Callable[[int, Any], bool]
"""(number of the call, value) -> is it right?"""


class EndedError(Exception):
    """There is no more to ask of this program."""

    def __init__(self, outcome: Outcome, error: str, *, raised: bool = False) -> None:
        super().__init__(error)
        self.outcome = outcome
        self.error = error
        self.raised = raised


class Client:
    """One program's life as seen from outside: requests, answers, output, end."""

    def __init__(self, server: ForkServer, program: Program, limits: Limits) -> None:
        self._server = server
        self._program = program
        self._limits = limits
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        self._output = -1
        self._inbox = bytearray()
        self._printed = bytearray()
        self._report: ProgramEnd | None = None
        self._deadline = time.monotonic() + wire.STARVED * limits.wall_s + 60
        self._poll = select.poll()
        self._poll.register(self._channel, select.POLLIN)
        self._poll.register(server.control, select.POLLIN)
        passed = [theirs.fileno()]
        if program.observe:
            self._output, write_end = os.pipe()
            self._poll.register(self._output, select.POLLIN)
            passed.append(write_end)
        try:
            server.begin(_request(limits, program), program.setup_code, passed)
        finally:
            theirs.close()
            if program.observe:
                os.close(write_end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.close()
        if self._output >= 0:
            os.close(self._output)
        if self._report is not None and self._report.files >= 0:
            os.close(self._report.files)

    def run(self, judge: Judge | None) -> ProgramResult:
        """Have the whole conversation; raises ServerError."""
        values: list[Any] = []
        failures: dict[int, str] = {}
        attributes: dict[str, bool] = {}
        invoked = raised = False
        outcome, error = Outcome.PASSED, ""
        try:
            self._set_up()
            self._ask({"op": "load", "code": self._program.code})
            self._call(values, failures, judge)
            if self._program.invoke is not None:
                self._ask({"op": "invoke", "function": self._program.invoke})
                invoked = True
            if self._program.attributes:
                attributes = self._read_attributes()
            if self._program.observe:
                self._ask({"op": "finish"})
        except EndedError as ended:
            outcome, error, raised = ended.outcome, ended.error, ended.raised
        report = self._finish()
        outcome, error = _judge_end(outcome, error, report, self._limits)
        return ProgramResult(
            outcome=outcome,
            values=tuple(values),
            failures=failures,
            invoked=invoked,
            raised=raised,
            attributes=attributes,
            stdout=self._printed.decode("utf-8", "replace"),
            files=_read_files(report.files, self._limits) if report.files >= 0 else {},
            error=error,
            seconds=report.cpu_s,
        )

    def _set_up(self) -> None:
        """Have the prelude run. Nothing untrusted is inside yet: what fails now is our fault."""
        try:
            self._ask({"op": "set_up", "setup": self._program.setup_code})
        except EndedError as ended:
            error = f"before the program's first instruction: {ended.error}"
            raise EndedError(Outcome.INFRA_ERROR, error) from None

    def _call(self, values: list[Any], failures: dict[int, str], judge: Judge | None) -> None:
        """Make the program's calls, one at a time; raises EndedError if any of them failed.

        All of them are made, so that a program never learns what an answer of its own was worth.
        """
        memory = False
        for number, kwargs in enumerate(self._program.calls):
            value = self._value(kwargs)
            if isinstance(value, Raised):
                memory = memory or value.memory
                failures[number] = value.error
            elif judge is not None and not judge(number, value):
                failures[number] = "not the expected value"
            if judge is None:
                values.append(value)
        if failures:
            outcome = Outcome.MEMORY if memory else Outcome.FAILED
            raise EndedError(outcome, next(iter(failures.values())))

    def _value(self, kwargs: dict[str, Any]) -> Any:
        """What one call gives: plain data, `NotPlain` or `Raised`."""
        answer = self._answer(
            {
                "op": "call",
                "method": self._program.entry_point,
                "result": self._program.result,
                "kwargs": {name: wire.encode(v, _encode_node) for name, v in kwargs.items()},
            }
        )
        if answer.get("error") is not None:
            outcome, text, _ = _failure(answer["error"])
            return Raised(text, outcome is Outcome.MEMORY)
        if "not_plain" in answer:
            return NotPlain(str(answer["not_plain"])[:100])
        try:
            return wire.decode_hostile(answer["value"])
        except (KeyError, wire.WireError) as error:
            raise EndedError(Outcome.CRASHED, f"a forged answer: {error}") from None

    def _read_attributes(self) -> dict[str, bool]:
        answer = self._ask({"op": "read", "names": list(self._program.attributes)})
        seen = answer.get("attributes")
        if type(seen) is not dict:
            raise EndedError(Outcome.CRASHED, "a forged answer: no attributes")
        return {name: seen.get(name) is True for name in self._program.attributes}

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request; raises EndedError, also where it is an exception's."""
        answer = self._answer(message)
        if answer.get("error") is not None:
            outcome, text, raised = _failure(answer["error"])
            raise EndedError(outcome, text, raised=raised)
        return answer

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a request under a fresh nonce and wait for its answer; raises EndedError."""
        nonce = secrets.token_hex(8)
        payload = self._exchange(wire.frame(wire.dump({**message, "id": nonce})))
        try:
            answer = wire.parse_json(payload)
        except wire.WireError as error:
            raise EndedError(Outcome.CRASHED, f"a forged answer: {error}") from None
        if type(answer) is not dict or answer.get("id") != nonce:
            raise EndedError(Outcome.CRASHED, "a forged answer: wrong nonce")
        return answer

    def _exchange(self, request: bytes) -> bytes:
        """Send `request`; the payload of the next frame. Never blocks past the limits."""
        unsent = memoryview(request)
        beat = time.monotonic() + wire.BEAT_S
        while True:
            if unsent:
                unsent = unsent[self._send(unsent) :]
            events = self._wait(writable=bool(unsent))
            if self._output in events:
                self._read_output()
            if self._channel.fileno() in events:
                self._receive()
            payload = self._next_frame()
            if payload is not None:
                return payload
            if self._report is None and self._server.control.fileno() in events:
                self._report = self._server.report(60.0)
            if self._report is not None and not self._receive():
                raise EndedError(Outcome.CRASHED, "the program ended without an answer")
            if self._report is None and time.monotonic() >= beat:
                # Still without an answer: only this lets the program's idle clock run.
                self._server.say_waiting()
                beat = time.monotonic() + wire.BEAT_S

    def _wait(self, *, writable: bool) -> dict[int, int]:
        self._poll.modify(
            self._channel, select.POLLIN | select.POLLOUT if writable else select.POLLIN
        )
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ServerError("no end within the time that even a starved program gets")
        return dict(self._poll.poll(min(left, wire.BEAT_S) * 1000))

    def _send(self, data: memoryview) -> int:
        try:
            return self._channel.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # It has closed its end: the report will say how it ended.
            return len(data)

    def _receive(self) -> bool:
        """Read what the channel holds; False when nothing more will come."""
        try:
            data = self._channel.recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data and self._report is None:
            # It closed the channel but lives on. There is nothing more to hear from it.
            raise EndedError(Outcome.CRASHED, "the program closed its channel")
        self._inbox += data
        return bool(data)

    def _next_frame(self) -> bytes | None:
        if len(self._inbox) < wire.HEAD_BYTES:
            return None
        end = wire.HEAD_BYTES + wire.frame_length(bytes(self._inbox[: wire.HEAD_BYTES]))
        if end > (self._limits.result_kb << 10) + 1024:
            raise EndedError(Outcome.CRASHED, "a forged answer: too long")
        if len(self._inbox) < end:
            return None
        payload = bytes(self._inbox[wire.HEAD_BYTES : end])
        del self._inbox[:end]
        return payload

    def _read_output(self) -> None:
        data = os.read(self._output, 1 << 16)
        if not data:
            self._poll.unregister(self._output)
        room = (self._limits.output_kb << 10) - len(self._printed)
        self._printed += data[:room]
        if len(data) > room:
            raise EndedError(Outcome.FAILED, f"printed more than {self._limits.output_kb} KiB")

    def _finish(self) -> ProgramEnd:
        """End the program, hear how it ended, and read what it printed last."""
        self._server.finish()
        if self._report is None:
            self._report = self._server.report(60.0)
        room = (self._limits.output_kb << 10) - len(self._printed)
        if self._output >= 0 and not self._report.infra:
            os.set_blocking(self._output, False)
            try:
                while room > 0 and (data := os.read(self._output, room)):
                    self._printed += data
                    room -= len(data)
            except BlockingIOError:  # Only without namespaces: something outlived the program.
                pass
        return self._report


_FAILURES = {"memory": Outcome.MEMORY, "unparsed": Outcome.UNPARSED, "raised": Outcome.FAILED}


def _failure(said: Any) -> tuple[Outcome, str, bool]:
    """What a program says of an exception: outcome, text, whether `invoke` raised it.

    Of what kind it was is the program's own word; none of them pays.
    """
    said = said if type(said) is dict else {}
    outcome = _FAILURES.get(str(said.get("kind")), Outcome.FAILED)
    return outcome, str(said.get("text", ""))[:400], said.get("raised") is True


_KILLED = {
    "cpu": (Outcome.TIMEOUT, "used up its CPU time"),
    "wall": (Outcome.TIMEOUT, "slept longer than the wall-clock limit"),
    "memory": (Outcome.MEMORY, "its processes together used too much memory"),
    "processes": (Outcome.CRASHED, "started too many processes"),
    "starved": (Outcome.INFRA_ERROR, "the machine is too loaded to run the program"),
}


def _judge_end(
    outcome: Outcome, error: str, report: ProgramEnd, limits: Limits
) -> tuple[Outcome, str]:
    """The outcome, given what the conversation made of it and how the program really ended.

    The CPU time used decides on a timeout, also for a program that gave its last answer before it
    was caught: so the label does not depend on when we looked.
    """
    if report.infra:
        return Outcome.INFRA_ERROR, report.infra
    if outcome is Outcome.INFRA_ERROR:
        return outcome, f"{error} (status {report.status}, {report.killed or 'not'} killed)"
    if report.killed in _KILLED:
        return _KILLED[report.killed]
    if report.cpu_s >= limits.cpu_s:
        return _KILLED["cpu"]
    if outcome is Outcome.CRASHED and report.killed is None:
        error = f"{error} (status {report.status})"
    return outcome, error


def _request(limits: Limits, program: Program) -> dict[str, Any]:
    return {
        "cpu_s": limits.cpu_s,
        "wall_s": limits.wall_s,
        "memory_mb": limits.memory_mb,
        "processes": limits.processes,
        "open_files": limits.open_files,
        "file_mb": limits.file_mb,
        "result_bytes": limits.result_kb << 10,
        "files": program.observe,
    }


def _encode_node(value: Any) -> Any:
    if not isinstance(value, Node):
        raise wire.NotPlainError(f"{type(value).__name__} cannot be an argument")
    return {value.kind: wire.encode(value.values, _encode_node)}


def _read_files(directory: int, limits: Limits) -> dict[str, str]:
    """Ordinary files at the top of `directory`, as text, capped in number and together in size."""
    files: dict[str, str] = {}
    room = limits.output_kb << 10
    for name in sorted(os.listdir(directory))[:_MAX_FILES]:
        try:
            # Not through a link, and not waiting for a writer (a named pipe).
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(name, flags, dir_fd=directory)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise ServerError(f"the grader has no free descriptor: {error}") from error
            continue  # A link, a socket, or made unreadable: nobody reports a result that way.
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                content = os.read(descriptor, room)
                room -= len(content)
                files[name] = content.decode("utf-8", "replace")
        finally:
            os.close(descriptor)
    return files
