"""The outside's handle on a fork server: start it, ask it for programs, end it."""

import contextlib
import functools
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from projected_grpo.env.sandbox.inside import wire
from projected_grpo.env.sandbox.inside.template import INSIDE_USER, OWN_PROCESSES, cpu_backstop_s
from projected_grpo.env.sandbox.isolation import INSIDE, LIBRARY, WRAPPERS, SandboxError
from projected_grpo.env.sandbox.programs import Limits

ISOLATIONS = ("namespaces", *WRAPPERS)
"""Each way to start a server, and "namespaces": bubblewrap where it works, unshare elsewhere."""

START_S = 60.0
"""Seconds that a server may take to start."""

_OWN_FILES = 64
"""How many open files the server itself needs at least."""
_NOBODY = 65534
_START = """\
import sys
sys.path[:0] = sys.argv[3:]
import sortedcontainers
from inside.server import main
del sys.path[: len(sys.argv) - 3]
main(sys.argv[1], [int(end) for end in sys.argv[2].split(",")])
"""


class ServerError(RuntimeError):
    """The fork server has ended or does not answer: our fault, never the program's."""


@dataclass(frozen=True, slots=True)
class ProgramEnd:
    """How a program ended, by the fork server's own observation."""

    infra: str = ""
    """Why the program could not be started; empty when it was."""
    killed: str | None = None
    """Why the server killed it: asked | cpu | memory | processes | wall | starved; None: not."""
    status: int = 0
    """Exit status, or minus the signal."""
    cpu_s: float = 0.0
    files: int = -1
    """Descriptor of the working directory, to be closed; -1 if it was not asked for."""


class ForkServer:
    """One running fork server. Not thread-safe; runs one program at a time."""

    def __init__(self, kind: str, limits: Limits, ours: Collection[str] = ()) -> None:
        """Start a server and wait until it is ready; raises SandboxError.

        `limits` are those of the programs that it will be asked for. Of their setup codes, those
        that are `ours` are run once, before the programs are forked.
        """
        if kind not in ISOLATIONS:
            raise SandboxError(f"unknown sandbox {kind!r}; known: {', '.join(ISOLATIONS)}")
        if kind != "process" and sys.platform != "linux":
            raise SandboxError(_advice("namespaces are a feature of Linux"))
        _check_host_limits(limits)
        if kind == "namespaces":
            kind = _default_isolation(limits)
        self._ours = ours
        self._preludes: set[str] = set()
        with contextlib.ExitStack() as undo:
            self.control, theirs = socket.socketpair()
            undo.enter_context(self.control)
            with theirs:
                self._process = _start(kind, theirs)
            undo.callback(self.close)
            self._wait_until_ready()
            undo.pop_all()

    def _wait_until_ready(self) -> None:
        self.control.settimeout(START_S)
        step = self._step()
        if step in (b"m", b"{"):
            _map_users(self._process.pid if step == b"m" else self._child_of_bubblewrap())
            with contextlib.suppress(BrokenPipeError):  # It has died; the next line sees that too.
                self.control.sendall(b"g")
            step = self._step()
        if step != b"r":
            assert self._process.stderr is not None
            self._end()
            lines = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
            raise SandboxError(_advice(lines[-1] if lines else "the fork server did not start"))
        self.control.settimeout(None)

    def _step(self) -> bytes:
        try:
            return self.control.recv(1)
        except (TimeoutError, ConnectionError):
            return b""

    def _child_of_bubblewrap(self) -> int:
        """Process id of the server to be, from what `--info-fd` says after the first byte."""
        text = b"{"
        while not text.endswith(b"}\n"):
            byte = self._step()
            if not byte:
                raise SandboxError(_advice("bubblewrap ended before it had started anything"))
            text += byte
        return int(json.loads(text)["child-pid"])

    def begin(self, request: dict[str, Any], setup_code: str, descriptors: Sequence[int]) -> None:
        """Start a program that gets `descriptors`; raises ServerError."""
        if setup_code not in self._preludes:
            self._preludes.add(setup_code)
            request = {**request, "prelude": setup_code, "ours": setup_code in self._ours}
        message = wire.frame(wire.dump(request))
        try:
            sent = socket.send_fds(self.control, [message], descriptors)
            self.control.sendall(message[sent:])
        except OSError as error:
            raise ServerError(f"the fork server does not listen: {error}") from error

    def say_waiting(self) -> None:
        """Say, every `wire.BEAT_S` seconds in which it is so, that the program owes an answer."""
        self._say(wire.WAITING)

    def finish(self) -> None:
        """End the program if it still runs. Once a program, before or after its report."""
        self._say(wire.END)

    def _say(self, byte: bytes) -> None:
        try:
            self.control.sendall(byte)
        except OSError as error:
            raise ServerError(f"the fork server does not listen: {error}") from error

    def report(self, timeout_s: float) -> ProgramEnd:
        """Wait for the program's end; raises ServerError."""
        try:
            self.control.settimeout(timeout_s)
            head, files, _, _ = socket.recv_fds(self.control, wire.HEAD_BYTES, 1)
            if len(head) < wire.HEAD_BYTES:
                raise ServerError("the fork server has ended")
            payload = self.control.recv(wire.frame_length(head), socket.MSG_WAITALL)
            self.control.settimeout(None)
        except OSError as error:
            raise ServerError(f"the fork server does not answer: {error}") from error
        fields = wire.parse_json(payload)
        return ProgramEnd(**fields, files=files[0] if files else -1)

    def close(self) -> None:
        """End the server, gently (it removes its files), by force after five seconds."""
        self._end()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _end(self) -> None:
        self.control.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            # The process that we started; the kernel ends the rest of its namespace with it.
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End the server at once."""
        self._process.kill()
        self.close()

    @property
    def pid(self) -> int:
        """Process id of the server's outermost process."""
        return self._process.pid


def _start(kind: str, control: socket.socket) -> subprocess.Popen[bytes]:
    with contextlib.ExitStack() as stack:
        wrapper = WRAPPERS[kind](control)
        ends = (control, *map(stack.enter_context, wrapper.spare))
        numbers = [end.fileno() for end in ends]
        return subprocess.Popen(
            [
                *wrapper.prefix,
                # The interpreter itself, not the virtual environment's link to it. No site, no
                # bytecode written, UTF-8 whatever the locale, and nothing but the library on the
                # path.
                *(os.path.realpath(sys.executable), "-S", "-s", "-B", "-P", "-X", "utf8"),
                *("-c", _START, kind, ",".join(map(str, numbers))),
                *(str(INSIDE.parent), str(LIBRARY.parent)),
            ],
            # Sets must iterate alike in every run, or labels would differ from run to run.
            env={"PYTHONHASHSEED": "0"},
            pass_fds=numbers,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )


def _check_host_limits(limits: Limits) -> None:
    """Raise SandboxError where this process may not grant what programs are to have."""
    mebibyte = 1 << 20
    for kind, name, unit, needed in (
        (resource.RLIMIT_NOFILE, "open files (ulimit -n)", 1, max(limits.open_files, _OWN_FILES)),
        (resource.RLIMIT_NPROC, "processes (ulimit -u)", 1, limits.processes + OWN_PROCESSES),
        (resource.RLIMIT_FSIZE, "MiB of a file (ulimit -f)", mebibyte, limits.file_mb),
        (resource.RLIMIT_AS, "MiB of address space (ulimit -v)", mebibyte, limits.memory_mb),
        (resource.RLIMIT_CPU, "CPU seconds (ulimit -t)", 1, cpu_backstop_s(limits.cpu_s)),
    ):
        _, most = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY and most < needed * unit:
            raise SandboxError(
                f"the limit on {name} is {most // unit} here, but the sandbox needs {needed}:"
                " raise it in the shell or the job that starts this"
            )


@functools.cache
def _default_isolation(limits: Limits) -> str:
    """What "namespaces" is on this machine: a server is started to see whether bubblewrap works."""
    try:
        ForkServer("bubblewrap", limits).close()
    except SandboxError as error:
        logger.debug("sandbox: plain namespaces, without bubblewrap ({})", error)
        return "unshare"
    logger.debug("sandbox: namespaces made by bubblewrap")
    return "bubblewrap"


def _map_users(pid: int) -> None:
    """Write the maps of user and group ids of the new user namespace.

    As root, programs get an id of their own (nobody), because a limit on processes does not bind
    root. An ordinary user may map only itself.
    """
    proc = Path(f"/proc/{pid}")
    if os.geteuid() == 0:
        maps = f"0 0 1\n{INSIDE_USER} {_NOBODY} 1\n"
        try:
            (proc / "gid_map").write_text(maps)
            (proc / "uid_map").write_text(maps)
            return
        except OSError as error:
            raise SandboxError(_advice(f"the user id map was refused: {error}")) from error
    try:
        (proc / "setgroups").write_text("deny")
        (proc / "gid_map").write_text(f"{INSIDE_USER} {os.getegid()} 1\n")
        (proc / "uid_map").write_text(f"{INSIDE_USER} {os.geteuid()} 1\n")
    except OSError as error:
        raise SandboxError(_advice(f"the user id map was refused: {error}")) from error


def _advice(reason: str) -> str:
    return (
        f"programs cannot be isolated in namespaces here ({reason}). Allow user namespaces"
        " (containers: --privileged or a seccomp profile that permits unshare; Ubuntu:"
        " sysctl kernel.apparmor_restrict_unprivileged_userns=0), or accept plain processes with"
        " --sandbox=process: hostile code can then read your files and use your network"
    )
