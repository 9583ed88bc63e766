"""The monitor: asks the template for programs, watches what each uses, and reports how it ended.

It learns how programs behave, and for that reason is never one's ancestor: no program inherits its
memory.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from . import namespaces, watch, wire
from .template import INSIDE_USER, NO_CHILD, End, receive

INODES = 256

_FIRST_TICK_S, _TICK_S = 0.02, 0.05


@dataclass(frozen=True, slots=True)
class Monitor:
    """Runs one program at a time."""

    control: socket.socket
    """Of the outside."""
    template: socket.socket
    template_pid: int
    proc: int
    """Descriptor of /proc; -1 where there is none."""
    isolated: bool
    scratch: str
    """Where programs have their working directories."""

    def serve(self) -> None:
        """Run programs until the outside closes the control socket."""
        while True:
            request, _, descriptors = receive(self.control)
            if request is None:
                return
            report, files = self._run(request, descriptors)
            message = wire.frame(wire.dump(report))
            if files < 0:
                self.control.sendall(message)
            else:
                socket.send_fds(self.control, [message], [files])
                os.close(files)
            # The outside ends every program with one byte. If that was not why, it is to come.
            while report.get("killed") != "asked" and self.control.recv(1) == wire.WAITING:
                pass

    def _run(self, request: dict[str, Any], descriptors: list[int]) -> tuple[dict[str, Any], int]:
        """Have a program run; its report and a descriptor of its files (or -1)."""
        files = -1
        try:
            scratch = self._make_scratch(request["file_mb"])
            try:
                if request["files"]:
                    files = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
                frame = wire.frame(wire.dump({**request, "scratch": scratch}))
                sent = socket.send_fds(self.template, [frame], descriptors)
                self.template.sendall(frame[sent:])
                pid = -1 if self.isolated else int.from_bytes(self.template.recv(4), "little")
                reason, end, seen_s = self._wait(request, pid)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
                if self.isolated:
                    namespaces.unmount(scratch)
        except OSError as error:
            return {"infra": str(error)}, files
        if end.status == NO_CHILD:
            return {"infra": "the program could not be forked"}, files
        waited_s = end.user_s + end.system_s + (end.user_us + end.system_us) / 1e6
        status = os.waitstatus_to_exitcode(end.status & 0xFFFF)
        # What was still alive at the end, the kernel charges to nobody.
        return {"killed": reason, "status": status, "cpu_s": max(waited_s, seen_s)}, files

    def _make_scratch(self, size_mb: int) -> str:
        if self.isolated:
            namespaces.mount_scratch(self.scratch, INSIDE_USER, size_mb, INODES)
            return self.scratch
        for entry in os.scandir(self.scratch):  # The outside has read what the last one left.
            shutil.rmtree(entry, ignore_errors=True)
        return tempfile.mkdtemp(dir=self.scratch)

    def _wait(self, request: dict[str, Any], pid: int) -> tuple[str | None, End, float]:
        """Until the program has ended: why we killed it (None: we did not), its end, and the CPU
        seconds that it had used when last looked at."""
        reason: str | None = None
        seen_s = 0.0
        start = last = time.monotonic()
        check = start + _FIRST_TICK_S
        clock = watch.IdleClock()
        poll = select.poll()
        poll.register(self.template, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        while reason is None:
            events = dict(poll.poll(max(0.0, check - time.monotonic()) * 1000))
            if self.template.fileno() in events:
                break
            if self.control.fileno() in events:
                if self.control.recv(1) == wire.WAITING:
                    clock.hear()
                else:  # The outside has heard enough. Or it is gone, and so are we soon.
                    reason = "asked"
            elif (now := time.monotonic()) >= check:
                # At moments that no program can foresee: it would look busy just then.
                check = now + _TICK_S * (0.5 + os.urandom(1)[0] / 255)
                reason, seen_s = self._excess(request, now - start, now - last, clock)
                last = now
        poll.unregister(self.control)
        while reason is not None and not poll.poll(0):
            self._kill(pid)
            poll.poll(5)
        data = self.template.recv(_END_BYTES, socket.MSG_WAITALL)
        if len(data) < _END_BYTES:
            raise OSError("the template has ended")
        if not self.isolated:
            self._sweep(pid)
        return reason, End.from_buffer_copy(data), seen_s

    def _excess(
        self, request: dict[str, Any], wall_s: float, since_s: float, clock: watch.IdleClock
    ) -> tuple[str | None, float]:
        """Which limit the running program is over, if any, `since_s` after the last look; and the
        CPU seconds that all its processes have used."""
        if self.proc < 0:
            clock.look(since_s)
            return ("wall" if clock.seconds > request["wall_s"] else None), 0.0
        used = watch.usage(self.proc, os.getpid(), self.template_pid)
        # A part of it that waits for a core is not idle: load on the machine does not count.
        clock.look(0.0 if used.runnable else since_s)
        excesses = {
            "cpu": used.cpu_s >= request["cpu_s"],
            "memory": used.rss_mb > request["memory_mb"],
            "processes": used.processes > request["processes"],
            "wall": clock.seconds > request["wall_s"],
            "starved": wall_s > wire.STARVED * request["wall_s"],
        }
        return next((name for name, over in excesses.items() if over), None), used.cpu_s

    def _kill(self, pid: int) -> None:
        """Kill the program's first process, which the template may not have made yet."""
        pids = [pid] if pid > 0 else watch.children(self.proc, self.template_pid)
        for one in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def _sweep(self, pid: int) -> None:
        """Without a PID namespace: kill what the program left running, as far as we can see it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        while self.proc >= 0:
            orphans = set(watch.descendants(self.proc, os.getpid())) - {self.template_pid}
            if not orphans:
                return
            for orphan in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


_END_BYTES = len(bytes(End()))
