"""A worker of the grader in an interpreter of its own.

It is started by name and not forked: the process that trains holds an accelerator and threads.
Both ends speak pickle over a socket pair that nobody else has; a completion's program never comes
near it, it runs in the worker's sandbox. A worker ends when its socket does, however the other side
ended, and belongs to a session of its own, so that a Ctrl-C is for the other side to handle.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from loguru import logger

import projected_grpo
from projected_grpo.env.grading.canonical import watched_setup
from projected_grpo.env.grading.grade import Submission, grade_completion
from projected_grpo.env.grading.reference import References
from projected_grpo.env.grading.schema import INCORRECT, Grade
from projected_grpo.env.problems.problem import PRELUDE
from projected_grpo.env.sandbox.sandbox import Limits, Outcome, Sandbox, SandboxError

MOST_CPU_S = 20.0
"""CPU seconds of this process for one completion. It takes milliseconds of honest ones."""
AGAIN_CPU_S = 1.0
"""After which it is told again: Python drops an exception that comes while a finalizer or a
callback of the garbage collector runs."""


class WorkerProcess:
    """One process with one sandbox. Use as a context manager, from one thread at a time."""

    def __init__(self, limits: Limits, kind: str) -> None:
        """As `Sandbox` has them; starts the process, which starts its sandbox meanwhile."""
        self._socket, theirs = socket.socketpair()
        package = str(Path(projected_grpo.__file__).parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                # Hashes that no program can know, so that no text can be made to collide.
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(paths),
                    "PYTHONHASHSEED": "random",
                },
            )
        self._answers = self._socket.makefile("rb")
        self._send((limits, kind))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._answers.close()
        self._socket.close()
        self.process.wait()

    def wait_until_ready(self) -> None:
        """Raises SandboxError where programs cannot be isolated."""
        self._answer()

    def grade(self, submissions: Sequence[Submission], labels: bool) -> list[Grade]:
        """Their grades; raises RuntimeError where the process failed or was killed."""
        self._send((submissions, labels))
        return self._answer()

    def _send(self, message: Any) -> None:
        try:
            self._socket.sendall(pickle.dumps(message))
        except ConnectionError as error:
            raise self._ended() from error

    def _answer(self) -> Any:
        try:
            answer = pickle.load(self._answers)
        except (EOFError, ConnectionError) as error:
            raise self._ended() from error
        if isinstance(answer, SandboxError):
            raise answer
        return answer

    def _ended(self) -> RuntimeError:
        return RuntimeError(
            f"a grader process ended (exit status {self.process.wait()}); if it was not killed,"
            " it has said on the error output why"
        )


class _TooSlowError(Exception):
    """This process itself has worked for too long on one completion."""


def _grade(sandbox: Sandbox, references: References, submission: Submission, labels: bool) -> Grade:
    """Grade one completion, giving up where its text or answers take too long to look at."""
    late = over = False

    def give_up(*_: object) -> None:
        nonlocal late
        if not over:
            late = True
            raise _TooSlowError

    signal.signal(signal.SIGPROF, give_up)  # And stays: an alarm under way would end the process.
    signal.setitimer(signal.ITIMER_PROF, MOST_CPU_S, AGAIN_CPU_S)
    try:
        try:
            return grade_completion(sandbox, references, submission, labels=labels)
        finally:
            over = True
            signal.setitimer(signal.ITIMER_PROF, 0)
    except (_TooSlowError, SystemError):
        # CPython 3.11 makes a SystemError of an exception that comes while it parses.
        over = True  # Once more: a second alarm may have come on the way to the lines above.
        signal.setitimer(signal.ITIMER_PROF, 0)
        if not late:
            raise
        sandbox.close()  # Nobody knows how far it has come; the next program gets a fresh server.
        reason = "the text, or an answer, takes too long to read"
        label = INCORRECT if labels else None
        return Grade.of(outcome=Outcome.UNPARSED, error=reason, label=label)


def main() -> None:
    """Grade what comes in until the other side is gone."""
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    with socket.socket(fileno=int(sys.argv[1])) as connection, connection.makefile("rb") as asked:
        limits, kind = pickle.load(asked)
        try:
            with Sandbox(limits, kind, (PRELUDE, watched_setup(PRELUDE))) as sandbox:
                connection.sendall(pickle.dumps(None))
                references = References(limits)
                while True:
                    submissions, labels = pickle.load(asked)
                    found = [_grade(sandbox, references, one, labels) for one in submissions]
                    connection.sendall(pickle.dumps(found))
        except SandboxError as error:
            with suppress(ConnectionError):  # gone already: another worker has said the same
                connection.sendall(pickle.dumps(error))
        except (EOFError, ConnectionError):
            return


if __name__ == "__main__":
    main()
