"""Grade completions, many at a time: each worker has a sandbox of its own."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Self

from loguru import logger

from projected_grpo.env.errors import InputError
from projected_grpo.env.grading.grade import Examination, Submission
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.grading.worker import WorkerProcess
from projected_grpo.env.loopholes.markers import check_variant
from projected_grpo.env.loopholes.modes import get_mode
from projected_grpo.env.sandbox.sandbox import Limits, Sandbox

MOST_THREADS = 2
"""Workers that share this interpreter. More get a process each: reading and rewriting programs is
the interpreter's work, and threads take turns at it."""
LARGEST_SHARE = 8
"""Submissions that a worker takes at a time; those of one group travel with one problem."""

Worker = Callable[[Sequence[Submission], bool], list[Grade]]
"""(submissions, labels) -> their grades."""


class Grader:
    """Grades in parallel. Use as a context manager; `grade` keeps the order of its input."""

    def __init__(
        self,
        *,
        workers: int | None = None,
        limits: Limits | None = None,
        sandbox: str = "namespaces",
    ) -> None:
        """`workers` programs run at a time (default: one for each core)."""
        self.workers = workers if workers is not None else len(os.sched_getaffinity(0))
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        self._limits = limits if limits is not None else Limits()
        self._sandbox = sandbox
        self.processes: list[WorkerProcess] = []
        """Those of the workers, where they have their own."""
        self._hands: list[Worker] = []
        self._open: ExitStack | None = None
        if sandbox == "process":
            logger.warning(
                "--sandbox=process: completions run as plain processes with limits only; hostile"
                " code can read your files, use the network and fool the grader's clean-up"
            )

    def __enter__(self) -> Self:
        """Start the fork servers; raises SandboxError where programs cannot be isolated."""
        with ExitStack() as stack:
            if self.workers <= MOST_THREADS:
                for _ in range(self.workers):
                    sandbox = stack.enter_context(Sandbox(self._limits, self._sandbox))
                    self._hands.append(_in_thread(sandbox))
            else:
                self.processes = [
                    stack.enter_context(WorkerProcess(self._limits, self._sandbox))
                    for _ in range(self.workers)
                ]
                for process in self.processes:  # All start at the same time.
                    process.wait_until_ready()
                    self._hands.append(process.grade)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
            self.processes, self._hands = [], []

    def grade(self, submissions: Iterable[Submission], *, labels: bool = True) -> list[Grade]:
        """Grades in the order of `submissions`. Never hangs: every program has hard limits.

        Without `labels` no program is run that only the published category needs (about half of
        them); everything else comes out the same, and `label` is None. (A fault of ours in one of
        those programs is then not met either.)
        """
        if self._open is None:
            raise RuntimeError("use Grader as a context manager: `with Grader(...) as grader:`")
        todo = list(submissions)
        for submission in todo:
            mode = get_mode(submission.mode)
            check_variant(mode.channel_name, submission.function_name)
            if not submission.problem.cases:
                raise InputError(f"problem {submission.problem.id} has no hidden tests")
        grades: dict[int, Grade] = {}
        share = max(1, min(LARGEST_SHARE, len(todo) // (4 * self.workers)))
        starts = iter(range(0, len(todo), share))
        lock = threading.Lock()
        stop = threading.Event()

        def work(hand: Worker) -> None:
            while True:
                with lock:
                    start = next(starts, None)
                if start is None or stop.is_set():
                    return
                found = hand(todo[start : start + share], labels)
                grades.update(enumerate(found, start))

        with ThreadPoolExecutor(self.workers, thread_name_prefix="grader") as pool:
            try:
                for done in [pool.submit(work, hand) for hand in self._hands]:
                    done.result()
            finally:  # After Ctrl-C only the shares under way are waited for.
                stop.set()
        return [grades[number] for number in range(len(todo))]


def _in_thread(sandbox: Sandbox) -> Worker:
    return lambda todo, labels: [Examination(sandbox, one, labels).grade() for one in todo]
