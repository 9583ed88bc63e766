"""The template: the process whose memory every program starts with.

It forks a program and waits for it, again and again, and learns nothing of any: not a byte of its
text, not the number of its process, which tells how many an earlier one made, not its exit status
nor what it used. These go from the kernel into a buffer, from there to the monitor, and are wiped.
So what a program inherits is the same whatever earlier ones did.
"""

import contextlib
import ctypes
import fcntl
import gc
import math
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from . import namespaces, program, wire
from .program import Prelude
from .seccomp import Seccomp

INSIDE_USER = 1000
"""In namespaces, the user id of programs as they see it themselves."""

OWN_PROCESSES = 4
"""The monitor, its parent outside the PID namespace, the template, and one to spare."""

STACK_BYTES = 8 << 20
"""Stack of every program, and of each of its threads."""

_PRELUDES = 64
_LONGS_OF_RUSAGE = 18

_python = ctypes.pythonapi
_fork, _wait4 = ctypes.PyDLL(None).fork, ctypes.PyDLL(None).wait4
_fork.restype = _wait4.restype = None  # So the process's number never becomes an object.


class End(ctypes.Structure):
    """How a program ended, as wait4(2) writes it."""

    _fields_ = (
        ("status", ctypes.c_long),
        ("user_s", ctypes.c_long),
        ("user_us", ctypes.c_long),
        ("system_s", ctypes.c_long),
        ("system_us", ctypes.c_long),
        ("rest", ctypes.c_long * (_LONGS_OF_RUSAGE - 4)),
    )


NO_CHILD = -1
"""`End.status` of a program that could not be forked."""


@dataclass(frozen=True, slots=True)
class Room:
    """What has been prepared for programs."""

    monitor: socket.socket
    """Requests and descriptors come from it, an `End` goes back for each."""
    seccomp: Seccomp | None
    """None: programs are not isolated."""
    pid_namespace: int
    """Descriptor of the template's own, if programs are isolated."""


def start(room: Room, others: Sequence[socket.socket]) -> int:
    """Fork the template, which closes `others`, the monitor's sockets; its process id.

    It is forked from a thread, whose stack has our size, and has no other thread. The stack of a
    process's first thread goes by the limit of whoever started it, and so would the depth at which
    a recursion crashes.
    """
    pids: list[int] = []

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                for other in others:
                    other.close()
                _fork_programs(room)
            finally:
                os._exit(0)
        pids.append(pid)

    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=fork, name="MainThread")
    thread.start()
    thread.join()
    return pids[0]


def _fork_programs(room: Room) -> None:
    """Fork programs until the monitor closes its end."""
    # Nobody reads our errors, and no descriptor of a program shows more than the view does.
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)
    preludes: dict[str, Prelude] = {}
    own = os.getpid()
    end = End()
    status = ctypes.c_void_p(ctypes.addressof(end))
    used = ctypes.c_void_p(ctypes.addressof(end) + End.user_s.offset)
    # Not a matter of safety: a program should simply not stumble over our modules.
    for name in [n for n in sys.modules if n.startswith(("inside", "ctypes", "_ctypes"))]:
        del sys.modules[name]
    sys.modules["__main__"].__dict__.clear()
    # Whoever started us may have them ignored, and every program inherits what is set here.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.collect()
    gc.freeze()
    gc.disable()
    while True:
        request, _, descriptors = receive(room.monitor)
        if request is None:
            return
        if "prelude" in request and len(preludes) < _PRELUDES:
            text = request["prelude"]
            with contextlib.suppress(SyntaxError, ValueError):  # It is the program's to say so.
                preludes[text] = program.prepare_prelude(text, run=request["ours"])
            gc.freeze()
        if room.seccomp is not None:
            # A process can only make a PID namespace below the one that it is in itself.
            namespaces.setns(room.pid_namespace, namespaces.CLONE_NEWPID)
            namespaces.unshare(namespaces.CLONE_NEWPID)
        # What os.fork does, but for its answer. No other thread may ask for the interpreter here.
        _python.PyOS_BeforeFork()
        _fork()
        if os.getpid() != own:
            _python.PyOS_AfterFork_Child()
            _become_program(room, preludes, request, descriptors)
        _python.PyOS_AfterFork_Parent()
        for descriptor in descriptors:
            os.close(descriptor)
        end.status = NO_CHILD  # This stays if there is none.
        _wait4(-1, status, 0, used)
        room.monitor.sendall(end)
        ctypes.memset(status, 0, ctypes.sizeof(end))


def receive(control: socket.socket) -> tuple[dict[str, Any] | None, bytes, list[int]]:
    """The next request, its frame and its descriptors; None when there will be no more."""
    head, descriptors, _, _ = socket.recv_fds(control, wire.HEAD_BYTES, 4)
    if len(head) < wire.HEAD_BYTES:
        return None, b"", descriptors
    payload = control.recv(wire.frame_length(head), socket.MSG_WAITALL)
    return wire.parse_json(payload), head + payload, descriptors


def _become_program(
    room: Room, preludes: dict[str, Prelude], request: dict[str, Any], descriptors: list[int]
) -> NoReturn:
    """In the child: give up everything but the channel, then serve it."""
    try:
        if room.seccomp is None:
            room.monitor.sendall(os.getpid().to_bytes(4, "little"))
        moved = [fcntl.fcntl(d, fcntl.F_DUPFD, 32) for d in descriptors]
        os.dup2(moved[0], program.CHANNEL)
        if len(moved) > 1:
            os.dup2(moved[1], 1)
        os.closerange(program.CHANNEL + 1, 64)
        problem = ""
        try:
            _confine(request, room.seccomp)
        except (OSError, ValueError) as error:
            problem = f"the program could not be confined: {error}"
        gc.enable()
        program.run_program(preludes, request["result_bytes"], problem)
    finally:
        os._exit(70)


def _confine(request: dict[str, Any], seccomp: Seccomp | None) -> None:
    """Set the limits and give up every privilege; raises OSError or ValueError."""
    os.chdir(request["scratch"])
    os.setsid()  # A signal to its process group must not reach ours.
    _limit(request, isolated=seccomp is not None)
    if seccomp is not None:
        program.lend_socket_pairs()
        namespaces.drop_privileges(INSIDE_USER)
        seccomp.install()


def _limit(request: dict[str, Any], *, isolated: bool) -> None:
    limits = {
        # A loose backstop: the kernel counts by ticks here, and on a busy virtual machine that is
        # more than was used. The monitor goes by the exact account.
        resource.RLIMIT_CPU: cpu_backstop_s(request["cpu_s"]),
        resource.RLIMIT_AS: request["memory_mb"] << 20,
        resource.RLIMIT_NOFILE: request["open_files"],
        resource.RLIMIT_FSIZE: request["file_mb"] << 20,
        resource.RLIMIT_CORE: 0,
    }
    if isolated:  # Elsewhere it would count all that the user runs on this machine.
        # One more than the outside asked for, so that asking for too many is seen. Where no other
        # user id is to be had, our own processes count, too.
        others = OWN_PROCESSES if os.getuid() == INSIDE_USER else 1
        limits[resource.RLIMIT_NPROC] = request["processes"] + others
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))


def cpu_backstop_s(cpu_s: float) -> int:
    """The kernel's own limit on a process's CPU seconds, where ours is `cpu_s`."""
    return 2 * math.ceil(cpu_s) + 5
