"""The monitor of one program: forks it, watches what it uses, reports how it ended, and ends.

It is forked from the fork server for each program, and is the only process inside that learns how
a program behaves.
"""

import contextlib
import fcntl
import gc
import math
import os
import resource
import select
import shutil
import signal
import socket
import tempfile
import time
from dataclasses import dataclass
from types import CodeType
from typing import Any, NoReturn

from . import namespaces, program, watch, wire
from .seccomp import Seccomp

INODES = 256
INSIDE_USER = 1000
"""In namespaces, the user id of programs as they see it themselves."""

OWN_PROCESSES = 4
"""The fork server, its parent outside the PID namespace, the monitor, and one to spare."""

STARVED = 10
"""A program is given up as starved of CPU (our fault) after so many times its wall-clock limit."""

_FIRST_TICK_S, _TICK_S = 0.02, 0.05


@dataclass(frozen=True, slots=True)
class Room:
    """What the fork server has prepared for programs."""

    control: socket.socket
    proc: int
    """Descriptor of /proc; -1 where there is none."""
    seccomp: Seccomp | None
    """None: programs are not isolated."""
    scratch: str
    """Where programs have their working directories."""


def run(
    room: Room, preludes: dict[str, CodeType], request: dict[str, Any], descriptors: list[int]
) -> NoReturn:
    """As a fresh child of the fork server: run one program from its start to its end."""
    status = 1
    try:
        if room.seccomp is not None:
            namespaces.die_with_parent()
        _Monitor(room, preludes, request, descriptors).run()
        status = 0
    finally:
        os._exit(status)


class _Monitor:
    """One program's guard."""

    def __init__(
        self,
        room: Room,
        preludes: dict[str, CodeType],
        request: dict[str, Any],
        descriptors: list[int],
    ) -> None:
        self.room = room
        self.preludes = preludes
        self.request = request
        self.descriptors = descriptors
        self.isolated = room.seccomp is not None
        self.scratch = room.scratch
        self.base_mb = 0.0
        if room.proc >= 0:
            if not self.isolated:
                namespaces.adopt_orphans()
            self.base_mb = watch.resident_mb(watch.processes(room.proc)[os.getpid()])

    def run(self) -> None:
        """Start the program, wait for its end, say how it ended and hand over its files."""
        try:
            self._make_scratch()
            try:
                report, files = self._run_program()
            finally:
                if self.isolated:
                    namespaces.unmount(self.scratch)
        except OSError as error:
            report, files = {"infra": str(error)}, -1
        self._send(report, files)
        # The outside ends every program with one byte. If that was not why it ended, it is to come.
        while report.get("killed") != "asked" and self.room.control.recv(1) == wire.WAITING:
            pass

    def _make_scratch(self) -> None:
        if self.isolated:
            size_mb = self.request["file_mb"]
            namespaces.mount_scratch(self.scratch, INSIDE_USER, size_mb, INODES)
            return
        for entry in os.scandir(self.room.scratch):  # The outside has read what the last one left.
            shutil.rmtree(entry, ignore_errors=True)
        self.scratch = tempfile.mkdtemp(dir=self.room.scratch)

    def _run_program(self) -> tuple[dict[str, Any], int]:
        """A report of the program's end, and a descriptor of its files (or -1)."""
        # A child's end makes this descriptor readable, so that one poll waits for everything.
        self.ended, wake = os.pipe()
        os.set_blocking(self.ended, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.poll = select.poll()
        self.poll.register(self.ended, select.POLLIN)
        self.poll.register(self.room.control, select.POLLIN)
        files = -1
        if self.request["files"]:
            files = os.open(self.scratch, os.O_RDONLY | os.O_DIRECTORY)
        if self.isolated:
            namespaces.unshare(namespaces.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            self._become_program()
        for descriptor in self.descriptors:
            os.close(descriptor)
        reason, status, cpu_s = self._wait(pid)
        return {"killed": reason, "status": status, "cpu_s": cpu_s}, files

    def _send(self, report: dict[str, Any], files: int) -> None:
        message = wire.frame(wire.dump(report))
        if files < 0:
            self.room.control.sendall(message)
        else:
            socket.send_fds(self.room.control, [message], [files])
            os.close(files)

    def _become_program(self) -> NoReturn:
        """In the child: give up everything but the channel, then serve it."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            moved = [fcntl.fcntl(d, fcntl.F_DUPFD, 32) for d in self.descriptors]
            os.dup2(moved[0], program.CHANNEL)
            if len(moved) > 1:
                os.dup2(moved[1], 1)
            os.closerange(program.CHANNEL + 1, 64)
            problem = ""
            try:
                self._confine()
            except (OSError, ValueError) as error:
                problem = f"the program could not be confined: {error}"
            gc.enable()
            program.run_program(self.preludes, self.request["result_bytes"], problem)
        finally:
            os._exit(70)

    def _confine(self) -> None:
        """Set the limits and give up every privilege; raises OSError or ValueError."""
        os.chdir(self.scratch)
        os.setsid()  # A signal to its process group must not reach this one's.
        self._limit()
        if self.room.seccomp is not None:
            program.lend_socket_pairs()
            namespaces.drop_privileges(INSIDE_USER)
            self.room.seccomp.install()

    def _limit(self) -> None:
        request = self.request
        limits = {
            # A loose backstop: the kernel counts by ticks here, and on a busy virtual machine that
            # is more than was used. `_excess` goes by the exact account.
            resource.RLIMIT_CPU: cpu_backstop_s(request["cpu_s"]),
            resource.RLIMIT_AS: request["memory_mb"] << 20,
            resource.RLIMIT_NOFILE: request["open_files"],
            resource.RLIMIT_FSIZE: request["file_mb"] << 20,
            resource.RLIMIT_CORE: 0,
        }
        if self.isolated:  # Elsewhere it would count all that the user runs on this machine.
            # One more than the outside asked for, so that asking for too many is seen. Where no
            # other user id is to be had, our own processes count, too.
            others = OWN_PROCESSES if os.getuid() == INSIDE_USER else 1
            limits[resource.RLIMIT_NPROC] = request["processes"] + others
        for kind, value in limits.items():
            resource.setrlimit(kind, (value, value))

    def _wait(self, pid: int) -> tuple[str | None, int, float]:
        """Until the program has ended: why we killed it (None: we did not), status, CPU seconds."""
        reason: str | None = None
        start = last = time.monotonic()
        check = start + _FIRST_TICK_S
        clock = watch.IdleClock()
        while True:
            events = dict(self.poll.poll(max(0.0, check - time.monotonic()) * 1000))
            if self.ended in events:
                os.read(self.ended, 4096)
            done, status, used = os.wait4(pid, os.WNOHANG)
            if done:
                break
            if self.room.control.fileno() in events:
                if self.room.control.recv(1) == wire.WAITING:
                    clock.hear()
                else:  # The outside has heard enough. Or it is gone, and so are we soon.
                    reason = "asked"
            elif (now := time.monotonic()) >= check:
                # At moments that no program can foresee: it would look busy just then.
                check = now + _TICK_S * (0.5 + os.urandom(1)[0] / 255)
                reason = self._excess(pid, now - start, now - last, clock)
                last = now
            if reason is not None:
                os.kill(pid, signal.SIGKILL)
                _, status, used = os.wait4(pid, 0)
                break
        if not self.isolated:
            self._sweep(pid)
        return reason, os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime

    def _excess(
        self, pid: int, wall_s: float, since_s: float, clock: watch.IdleClock
    ) -> str | None:
        """Which limit the running program is over, if any; `since_s` after the last look."""
        request = self.request
        if self.room.proc < 0:
            clock.look(since_s)
            return "wall" if clock.seconds > request["wall_s"] else None
        used = watch.usage(self.room.proc, os.getpid(), self.base_mb)
        if used.cpu_s >= request["cpu_s"]:
            return "cpu"
        if used.rss_mb > request["memory_mb"]:
            return "memory"
        if used.processes > request["processes"]:
            return "processes"
        # A part of it that waits for a core is not idle: load on the machine does not count.
        clock.look(0.0 if used.runnable else since_s)
        if clock.seconds > request["wall_s"]:
            return "wall"
        return "starved" if wall_s > STARVED * request["wall_s"] else None

    def _sweep(self, pid: int) -> None:
        """Without a PID namespace: kill what the program left running, as far as we can see it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        while self.room.proc >= 0 and (family := watch.descendants(self.room.proc, os.getpid())):
            for orphan in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def cpu_backstop_s(cpu_s: float) -> int:
    """The kernel's own limit on a process's CPU seconds, where ours is `cpu_s`."""
    return 2 * math.ceil(cpu_s) + 5
