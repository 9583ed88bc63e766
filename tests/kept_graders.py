"""Graders that runs in one process hand on: to start one takes longer than most runs' grading."""

import os
from collections import defaultdict
from typing import Any, Self

from projected_grpo.env.grading.pool import Grader

OPENED = ("processes", "_open", "_pool", "_idle")
"""What opening a grader makes."""
_kept: dict[Any, list[dict[str, Any]]] = defaultdict(list)


class KeptGrader(Grader):
    """Is not closed with its run but opened again by the next one of the same settings and
    environment, as if there were one long run. After an error it is closed."""

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

    def __exit__(self, kind: type[BaseException] | None = None, *exc: object) -> None:
        alive = all(process.process.poll() is None for process in self.processes)
        if kind is not None or self._open is None or not alive:
            super().__exit__(kind, *exc)
            return
        _kept[self._kept_as].append({name: vars(self)[name] for name in OPENED})
        self.processes, self._open, self._pool = [], None, None


def end_kept_graders() -> None:
    """Those of this process."""
    for key, graders in _kept.items():
        for opened in graders if key[0] == os.getpid() else ():
            opened["_open"].close()
    _kept.clear()
