"""Grade completions, many at a time: each worker has a sandbox of its own."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Self

from loguru import logger

from projected_grpo.env.errors import InputError
from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.grading.worker import WorkerProcess
from projected_grpo.env.loopholes.markers import check_variant
from projected_grpo.env.loopholes.modes import get_mode
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Limits, Outcome

LARGEST_SHARE = 8
"""Submissions that a worker takes at a time; those of one group travel with one problem."""

_KEPT_GRADES = 1 << 16

_Key = tuple[str, int, int, bytes, str, str, bool]


class Grader:
    """Grades in parallel. Use as a context manager; `grade` keeps the order of its input, `start`
    begins before its answers are needed.

    The same text is graded once for the same problem and mode, as long as the grader is open. The
    order in which hidden calls are made differs between gradings, but no grade depends on it. Only
    a program that asks the clock or races with itself could be graded otherwise a second time.
    """

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
        """One for each worker: a completion that is slow to read holds up no other, nor us."""
        self._grades: dict[_Key, Grade] = {}
        self._problems: dict[tuple[str, int], list[Problem]] = {}
        self._begun: dict[_Key, tuple[Future[list[Grade]], int]] = {}
        """What nobody has asked for yet -> the share that it is in, and its place there."""
        self._idle: SimpleQueue[WorkerProcess] = SimpleQueue()
        self._warned = False
        self._open: ExitStack | None = None
        self._pool: ThreadPoolExecutor | None = None
        if sandbox == "process":
            logger.warning(
                "--sandbox=process: completions run as plain processes with limits only; hostile"
                " code can read your files, use the network and fool the grader's clean-up"
            )

    def __enter__(self) -> Self:
        """Start the fork servers; raises SandboxError where programs cannot be isolated."""
        with ExitStack() as stack:
            self.processes = [
                stack.enter_context(WorkerProcess(self._limits, self._sandbox))
                for _ in range(self.workers)
            ]
            for process in self.processes:  # All start at the same time.
                process.wait_until_ready()
                self._idle.put(process)
            pool = ThreadPoolExecutor(self.workers, thread_name_prefix="grader")
            # After Ctrl-C only the shares under way are waited for.
            stack.callback(pool.shutdown, cancel_futures=True)
            self._pool = pool
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._open is not None:
            self._open.close()
            self._open = self._pool = None
            self.processes, self._idle, self._begun = [], SimpleQueue(), {}

    def start(self, submissions: Iterable[Submission], *, labels: bool = True) -> None:
        """Begin to grade these while the caller does something else; `grade` waits for them."""
        self._begin(list(submissions), labels)

    def _begin(self, given: Sequence[Submission], labels: bool) -> list[_Key]:
        """Hand the workers what is neither graded nor begun; the key of each."""
        if self._pool is None:
            raise RuntimeError("use Grader as a context manager: `with Grader(...) as grader:`")
        for submission in given:
            mode = get_mode(submission.mode)
            check_variant(mode.channel_name, submission.function_name)
            if not submission.problem.cases:
                raise InputError(f"problem {submission.problem.id} has no hidden tests")
        wanted = [self._key(submission, labels) for submission in given]
        new = dict(zip(wanted, given, strict=True))
        todo = [(k, s) for k, s in new.items() if k not in self._grades and k not in self._begun]
        size = max(1, min(LARGEST_SHARE, len(todo) // (4 * self.workers)))
        for at in range(0, len(todo), size):
            keys, some = zip(*todo[at : at + size], strict=True)
            share = self._pool.submit(self._grade_share, some, labels)
            self._begun |= {key: (share, number) for number, key in enumerate(keys)}
        return wanted

    def grade(self, submissions: Iterable[Submission], *, labels: bool = True) -> list[Grade]:
        """Grades in the order of `submissions`. Never hangs: every program has hard limits.

        Without `labels` no program is run that only the published category needs (about half of
        them); everything else comes out the same, and `label` is None. (A fault of ours in one of
        those programs is then not met either.)
        """
        keys = self._begin(list(submissions), labels)
        new: dict[_Key, Grade] = {}
        for key in dict.fromkeys(keys):
            if key in self._begun:
                share, number = self._begun.pop(key)
                new[key] = share.result()[number]
        found = [new[key] if key in new else self._grades[key] for key in keys]
        self._warn(found)
        # A fault of ours may not come again.
        self._grades |= {k: g for k, g in new.items() if g.outcome is not Outcome.INFRA_ERROR}
        while len(self._grades) > _KEPT_GRADES:
            del self._grades[next(iter(self._grades))]
        return found

    def _grade_share(self, some: Sequence[Submission], labels: bool) -> list[Grade]:
        process = self._idle.get()
        try:
            return process.grade(some, labels)
        finally:
            self._idle.put(process)

    def _key(self, submission: Submission, labels: bool) -> _Key:
        """What the grade depends on."""
        problem = submission.problem
        namesakes = self._problems.setdefault((problem.dataset, problem.id), [])
        if problem not in namesakes:
            namesakes.append(problem)
        text = hashlib.sha256(submission.completion.encode("utf-8", "surrogatepass")).digest()
        which = (problem.dataset, problem.id, namesakes.index(problem))
        return *which, text, submission.mode, submission.function_name, labels

    def _warn(self, grades: list[Grade]) -> None:
        """Say once, with the cause, that no program could be run at all."""
        if self._warned or not grades or any(g.outcome is not Outcome.INFRA_ERROR for g in grades):
            return
        self._warned = True
        logger.error(
            "none of {} completions could be graded: {}. This is a fault of the machine or its"
            " limits, not of the programs",
            len(grades),
            grades[0].error,
        )
