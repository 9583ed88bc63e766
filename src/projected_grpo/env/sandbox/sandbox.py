"""Run an untrusted program away from everything that matters.

`Sandbox` owns one fork server (`inside/server.py`) and runs one program at a time in it.

Covered under "namespaces" (Linux; made with bubblewrap where it is installed and works, directly
elsewhere, with the same result): each program has fresh PID numbers, is alone in its user, mount,
network, IPC, UTS and cgroup namespaces with the fork server, and sees a read-only view that holds
a copy of the standard library, /dev/null and a fresh size-capped tmpfs as its working directory. It
has no environment, no capabilities, no descriptor that leads anywhere but its channel, some 130
system calls, no way to start another program, and limits on CPU time, address space, resident
memory of all its processes together, stack, processes, open files, file size and output. When its
first process ends, or a limit is passed, the kernel kills everything it started, and its files are
gone.

What it can do: compute, read the standard library's sources and ask the kernel for its version and
the time. Not covered: kernel bugs reachable through the calls that the seccomp filter lets through,
and side channels between programs that run at the same time (docs/environment.md has the tables).

Under "process" there are limits, an empty environment and a temporary directory, but host files,
the network and other processes of the user are in reach. It has to be asked for by name.

What a program says comes back through one socket as plain data (`inside/wire.py`), one answer for
each call and under that call's nonce. Nobody inside knows what the right answer is.
"""

from collections.abc import Collection
from typing import Self

from loguru import logger

from projected_grpo.env.sandbox.client import Client, Judge
from projected_grpo.env.sandbox.forkserver import ForkServer, SandboxError, ServerError
from projected_grpo.env.sandbox.programs import (
    Limits,
    NotPlain,
    Outcome,
    Program,
    ProgramResult,
    Raised,
)

__all__ = [
    "Judge",
    "Limits",
    "NotPlain",
    "Outcome",
    "Program",
    "ProgramResult",
    "Raised",
    "Sandbox",
    "SandboxError",
]


class Sandbox:
    """Runs programs, one at a time, in a fork server that is started when first needed.

    Not thread-safe: one for each thread. Use as a context manager.
    """

    def __init__(
        self, limits: Limits, kind: str = "namespaces", ours: Collection[str] = ()
    ) -> None:
        """`kind` is namespaces | process; or bubblewrap | unshare, to insist on one of both ways.

        `ours` are setup codes that are part of this package: they are trusted, and run once for all
        programs. A record's runs anew in each. Nothing is started yet.
        """
        self.limits = limits
        self.kind = kind
        self.ours = ours
        self._server: ForkServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the fork server now; raises SandboxError where that is impossible."""
        if self._server is None:
            self._server = ForkServer(self.kind, self.limits, self.ours)

    def close(self) -> None:
        """End the fork server and all that runs in it."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def run(
        self, program: Program, judge: Judge | None = None, limits: Limits | None = None
    ) -> ProgramResult:
        """Run `program`; no program makes this raise, hang, or take longer than its limits.

        `limits` may be lower than the sandbox's own, which hold without them.
        `judge` sees each value as it comes in; if it says no to any, the outcome is FAILED. The
        calls go on all the same, so that the program does not learn what it says. A fault of ours
        is tried once more with a fresh server before it becomes INFRA_ERROR.
        """
        limits = limits or self.limits
        result = self._try(program, judge, limits)
        if result.outcome is Outcome.INFRA_ERROR:
            logger.warning("sandbox: {}; trying once more with a fresh server", result.error)
            result = self._try(program, judge, limits)
        return result

    def _try(self, program: Program, judge: Judge | None, limits: Limits) -> ProgramResult:
        try:
            self.start()
            assert self._server is not None
            with Client(self._server, program, limits) as client:
                result = client.run(judge)
        except (ServerError, SandboxError, OSError) as error:  # OSError: no descriptors, no memory
            result = ProgramResult(outcome=Outcome.INFRA_ERROR, error=str(error))
        if result.outcome is Outcome.INFRA_ERROR and self._server is not None:
            self._server.kill()
            self._server = None
        return result
