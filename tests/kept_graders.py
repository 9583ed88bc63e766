"""Graders that runs in one process hand on: to start one takes longer than most runs' grading."""

import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Self

from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import Grade

KEPT = ("processes", "_open", "_pool", "_idle", "_grades", "_problems")
"""What opening a grader makes, and what it has graded."""
_kept: dict[Any, list[dict[str, Any]]] = defaultdict(list)


class KeptGrader(Grader):
    """Is not closed with its run but opened again by the next one of the same settings and
    environment, as if there were one long run. After an error of its own it is closed, and where
    something that it began is not done."""

    _failed = False

    def __enter__(self) -> Self:
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        # A process that was forked from this one shares sockets with it and must use none of them.
        self._kept_as = (
            os.getpid(), self.workers, self._limits, self._sandbox, *sorted(environment.items()),
        )  # fmt: skip
        if not _kept[self._kept_as]:
            return super().__enter__()
        vars(self).update(_kept[self._kept_as].pop())
        return self

    def grade(self, submissions: Iterable[Submission], *, labels: bool = True) -> list[Grade]:
        self._failed = True
        grades = super().grade(submissions, labels=labels)
        self._failed = False
        return grades

    def __exit__(self, *exc: object) -> None:
        alive = all(process.process.poll() is None for process in self.processes)
        if self._failed or self._begun or self._open is None or not alive:
            super().__exit__(*exc)
            return
        _kept[self._kept_as].append({name: vars(self)[name] for name in KEPT})
        self.processes, self._open, self._pool = [], None, None


def end_kept_graders() -> None:
    """Those of this process."""
    for key, graders in _kept.items():
        for kept in graders if key[0] == os.getpid() else ():
            kept["_open"].close()
    _kept.clear()
