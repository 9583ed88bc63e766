"""The fork server: one warm interpreter that starts a fresh child for each program.

Started by `sandbox.py` in an empty environment; imports the standard library only. It never reads
what a program says and never sees a program's text or results (those go straight between the
outside and the child), so that a child, which inherits this process's memory, finds nothing of
earlier programs in it.

Under "bubblewrap" and "unshare" it is process 1 of its own user, PID, mount, network, IPC, UTS and
cgroup namespaces (made by bubblewrap, or by itself), and each program is process 1 of a further PID
namespace with its own scratch tmpfs: when that process ends, the kernel kills everything it
started. Under "process" there are limits, a session of its own and a temporary directory, no more.
"""

# ruff: noqa: F401
# Loaded before the first fork: the usual prelude's modules, and others that programs like to use.
# Compiled extensions that need further shared libraries (ssl, sqlite3) are not to be had inside.
import array
import bisect
import cmath
import collections
import contextlib
import copy
import dataclasses
import datetime
import decimal
import enum
import fcntl
import fractions
import functools
import gc
import heapq
import itertools
import json
import math
import operator
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import string
import sys
import tempfile
import threading
import time
import traceback
import typing
import warnings
from types import CodeType
from typing import Any, NoReturn

from . import namespaces, program, watch, wire

SCRATCH = "/tmp"
INODES = 256
INSIDE_USER = 1000
"""In namespaces, the user id of programs as they see it themselves."""

STARVED = 10
"""A program is given up as starved of CPU (our fault) after so many times its wall-clock limit."""

_PRELUDES = 64
_FIRST_TICK_S, _TICK_S = 0.02, 0.05


def main(kind: str, ends: list[int]) -> None:
    """Serve an inherited socket, of which `ends` are the descriptors, until it is closed."""
    warnings.simplefilter("ignore")
    os.environ.clear()
    control, *spare = ends
    for descriptor in spare:
        with contextlib.suppress(OSError):  # bubblewrap has closed one of its two.
            os.close(descriptor)
    # Its number is high where the outside has many files open; programs close the low ones only.
    channel = socket.socket(fileno=os.dup(control))
    os.close(control)
    isolated = kind != "process"
    if kind == "bubblewrap":
        # It has made them all. But the network has a loopback interface that is up, on which one
        # program could leave ports in use for the next to find; in a fresh one nothing is.
        namespaces.unshare(namespaces.CLONE_NEWNET)
    elif isolated:
        _make_namespaces(channel)
    proc = _settle() if isolated else _enter_process_mode()
    server = _Server(isolated=isolated, control=channel, proc=proc)
    channel.sendall(b"r")
    server.serve()


def _make_namespaces(control: socket.socket) -> None:
    """Return as process 1 of fresh namespaces."""
    namespaces.unshare(namespaces.CLONE_ALL)
    control.sendall(b"m")
    if control.recv(1) != b"g":  # "Go": the outside has written the maps of user ids.
        os._exit(1)
    child = os.fork()
    if child:
        # This process stays outside the PID namespace and only waits, so that the outside sees
        # the end of process 1 and can end it by ending this one.
        control.close()
        _, status = os.waitpid(child, 0)
        os._exit(0 if status == 0 else 1)
    os.setsid()


def _settle() -> int:
    """As process 1: give up what no program may find; returns a descriptor of /proc."""
    namespaces.die_with_parent()
    proc = namespaces.build_view()
    namespaces.drop_bounding_set()
    # The kernel's out-of-memory killer should take one of ours before anything else.
    score = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=proc)
    os.write(score, b"500")
    os.close(score)
    return proc


def _enter_process_mode() -> int:
    """Prepare to run programs as plain processes; returns a descriptor of /proc, -1 without."""
    if sys.platform != "linux":
        return -1
    namespaces.adopt_orphans()
    return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)


class _Server:
    """Starts one program at a time, watches what it uses, and reports how it ended."""

    def __init__(self, *, isolated: bool, control: socket.socket, proc: int) -> None:
        self.isolated = isolated
        self.control = control
        self.proc = proc
        self.preludes: dict[str, CodeType] = {}
        self.scratch = SCRATCH
        self.owed = False
        """The outside still has to send the byte that ends the last program."""
        self.seccomp = namespaces.Seccomp() if isolated else None
        self.own_pid_namespace = (
            os.open("self/ns/pid", os.O_RDONLY, dir_fd=proc) if isolated else -1
        )
        # A child's end makes this descriptor readable, so that one poll waits for everything.
        self.ended, wake = os.pipe()
        os.set_blocking(self.ended, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.poll = select.poll()
        self.poll.register(self.ended, select.POLLIN)
        self.poll.register(control, select.POLLIN)
        own = watch.processes(proc)[os.getpid()] if proc >= 0 else None
        self.base_mb = watch.resident_mb(own) if own else 0.0

    def serve(self) -> None:
        """Run programs until the outside closes the control socket."""
        os.dup2(1, 2)  # From here on nobody reads our errors.
        # Not a matter of safety: a program should simply not stumble over our modules.
        for name in [n for n in sys.modules if n.startswith(("inside", "ctypes", "_ctypes"))]:
            del sys.modules[name]
        sys.modules["__main__"].__dict__.clear()
        gc.collect()
        gc.freeze()
        gc.disable()
        while True:
            request, descriptors = self._receive()
            if request is None:
                self._clean()
                return
            if "prelude" in request and len(self.preludes) < _PRELUDES:
                text = request["prelude"]
                self.preludes[text] = compile(text, "<setup>", "exec", dont_inherit=True)
            report, files = self._run(request, descriptors)
            self._send(report, files)

    def _receive(self) -> tuple[dict[str, Any] | None, list[int]]:
        while self.owed and self.control.recv(1) == wire.WAITING:
            pass
        head, descriptors, _, _ = socket.recv_fds(self.control, wire.HEAD_BYTES, 4)
        if len(head) < wire.HEAD_BYTES:
            return None, descriptors
        length = wire.frame_length(head)
        payload = self.control.recv(length, socket.MSG_WAITALL)
        return wire.parse(payload), descriptors

    def _send(self, report: dict[str, Any], files: int) -> None:
        message = wire.frame(wire.dump(report))
        if files < 0:
            self.control.sendall(message)
        else:
            socket.send_fds(self.control, [message], [files])
            os.close(files)

    def _run(self, request: dict[str, Any], descriptors: list[int]) -> tuple[dict[str, Any], int]:
        """Start a program, wait for its end; its report and a descriptor of its files (or -1)."""
        self.owed = True
        files = -1
        try:
            self._make_scratch(request)
        except OSError as error:
            return {"infra": str(error)}, files
        try:
            if request["files"]:
                files = os.open(self.scratch, os.O_RDONLY | os.O_DIRECTORY)
            pid = self._fork()
            if pid == 0:
                self._become_program(request, descriptors)
            while descriptors:
                os.close(descriptors.pop())
            reason, status, cpu_s = self._wait(pid, request)
        except OSError as error:
            return {"infra": str(error)}, files
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            if self.isolated:
                namespaces.unmount(SCRATCH)
        self.owed = reason != "asked"
        return {"killed": reason, "status": status, "cpu_s": cpu_s}, files

    def _fork(self) -> int:
        if self.isolated:
            # A process can only make a PID namespace below the one that it is in itself.
            namespaces.setns(self.own_pid_namespace, namespaces.CLONE_NEWPID)
            namespaces.unshare(namespaces.CLONE_NEWPID)
        return os.fork()

    def _make_scratch(self, request: dict[str, Any]) -> None:
        if self.isolated:
            namespaces.mount_scratch(SCRATCH, INSIDE_USER, request["file_mb"], INODES)
        else:
            self._clean()
            self.scratch = tempfile.mkdtemp(prefix="grade-")

    def _clean(self) -> None:
        """Outside namespaces: remove the last program's directory (the outside has read it)."""
        if not self.isolated and self.scratch != SCRATCH:
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch = SCRATCH

    def _become_program(self, request: dict[str, Any], descriptors: list[int]) -> NoReturn:
        """In the child: give up everything but the channel, then serve it."""
        try:
            signal.set_wakeup_fd(-1)
            moved = [fcntl.fcntl(d, fcntl.F_DUPFD, 32) for d in descriptors]
            os.dup2(moved[0], program.CHANNEL)
            if len(moved) > 1:
                os.dup2(moved[1], 1)
            os.chdir(self.scratch)
            os.closerange(program.CHANNEL + 1, 64)
            os.setsid()  # A signal to its process group must not reach this server's.
            self._limit(request)
            if self.seccomp is not None:
                namespaces.drop_privileges(INSIDE_USER)
                self.seccomp.install()
            gc.enable()
            program.run_program(self.preludes, request["result_bytes"])
        finally:
            os._exit(70)

    def _limit(self, request: dict[str, Any]) -> None:
        memory = request["memory_mb"] << 20
        # As an ordinary user this server counts too, so one more than the outside asked for.
        limits = {
            # A loose backstop: the kernel counts by ticks here, and on a busy virtual machine that
            # is more than was used. `_excess` goes by the exact account.
            resource.RLIMIT_CPU: 2 * math.ceil(request["cpu_s"]) + 5,
            resource.RLIMIT_AS: memory,
            resource.RLIMIT_NOFILE: request["open_files"],
            resource.RLIMIT_FSIZE: request["file_mb"] << 20,
            resource.RLIMIT_CORE: 0,
        }
        if self.isolated:  # Elsewhere it would count all that the user runs on this machine.
            limits[resource.RLIMIT_NPROC] = request["processes"] + 1
        for kind, value in limits.items():
            resource.setrlimit(kind, (value, value))

    def _wait(self, pid: int, request: dict[str, Any]) -> tuple[str | None, int, float]:
        """Until the program has ended: why we killed it (None: we did not), status, CPU seconds."""
        reason: str | None = None
        start = time.monotonic()
        check = start + _FIRST_TICK_S
        clock = watch.IdleClock()
        while True:
            events = dict(self.poll.poll(max(0.0, check - time.monotonic()) * 1000))
            if self.ended in events:
                os.read(self.ended, 4096)
            done, status, used = os.wait4(pid, os.WNOHANG)
            if done:
                break
            if self.control.fileno() in events:
                if self.control.recv(1) == wire.WAITING:
                    clock.hear()
                else:  # The outside has heard enough. Or it is gone, and so are we soon.
                    reason = "asked"
            elif (now := time.monotonic()) >= check:
                check = now + _TICK_S
                reason = self._excess(pid, request, now - start, clock)
            if reason is not None:
                os.kill(pid, signal.SIGKILL)
                _, status, used = os.wait4(pid, 0)
                break
        if not self.isolated:
            self._sweep(pid)
        return reason, os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime

    def _excess(
        self, pid: int, request: dict[str, Any], wall_s: float, clock: watch.IdleClock
    ) -> str | None:
        """Which limit the running program is over, if any."""
        if self.proc < 0:
            clock.look(wall_s)
            return "wall" if clock.seconds > request["wall_s"] else None
        used = watch.usage(self.proc, os.getpid(), pid, self.base_mb)
        if used.cpu_s >= request["cpu_s"]:
            return "cpu"
        if used.rss_mb > request["memory_mb"]:
            return "memory"
        if used.processes > request["processes"]:
            return "processes"
        # Time in which it neither ran nor waited for a core: load on the machine does not count.
        clock.look(wall_s - used.cpu_s - used.delay_s)
        if clock.seconds > request["wall_s"]:
            return "wall"
        return "starved" if wall_s > STARVED * request["wall_s"] else None

    def _sweep(self, pid: int) -> None:
        """Without a PID namespace: kill what the program left running, as far as we can see it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        while self.proc >= 0 and (family := watch.descendants(self.proc, os.getpid())):
            for orphan in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
