"""What a running program uses, read from /proc by its monitor.

CPU seconds cannot be hidden: a process's own are in its file until it has been waited for, and then
in its parent's, because nobody can ignore the end of a child (`seccomp.py`). Nor can memory: only
private pages and the files of the scratch directory are to be had, and these are capped apart.
"""

import os
from dataclasses import dataclass

from . import wire

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
# Fields of /proc/<pid>/stat after the command's closing parenthesis.
_STATE, _PARENT, _UTIME, _CSTIME, _RSS = 0, 1, 11, 14, 21


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over all of a program's living processes."""

    cpu_s: float
    """CPU seconds, with those of children that were waited for."""
    rss_mb: float
    """Resident MiB, less what each process shares with the template that it was forked from."""
    processes: int
    runnable: bool
    """Is any of its threads running, or ready to run and waiting for a core?"""


class IdleClock:
    """Seconds in which a program idled while the outside waited for its answer.

    The outside says so as long as it is (`wire.WAITING`). When it is held up itself, it says
    nothing, and the program, which may be waiting for its next request, is not charged.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._heard = 0
        self._unheard_s = 0.0

    def hear(self) -> None:
        """The outside said that it waits."""
        self._heard += 1

    def look(self, idle_s: float) -> None:
        """The program has idled for `idle_s` seconds since the last look, whoever owed what."""
        self._unheard_s += idle_s
        if self._heard:
            # Twice, because beats come late; not more, because one may end a long silence.
            self.seconds += min(self._unheard_s, 2 * wire.BEAT_S * self._heard)
            self._unheard_s = 0.0
            self._heard = 0


def processes(proc: int) -> dict[int, list[str]]:
    """The fields of /proc/<pid>/stat (from the state on) of each process, by pid."""
    found: dict[int, list[str]] = {}
    for name in os.listdir(proc):
        if name.isdecimal():
            try:
                text = _read(proc, f"{name}/stat")
            except (FileNotFoundError, ProcessLookupError):
                continue  # It ended meanwhile.
            found[int(name)] = text[text.rindex(")") + 2 :].split()
    return found


def descendants(proc: int, root: int) -> dict[int, list[str]]:
    """Those of `processes` that `root` or its descendants started."""
    table = processes(proc)
    family: dict[int, list[str]] = {}
    fresh = {root}
    while fresh:
        fresh = {p for p, fields in table.items() if int(fields[_PARENT]) in fresh} - set(family)
        family |= {pid: table[pid] for pid in fresh}
    return family


def children(proc: int, parent: int) -> list[int]:
    """Process ids of those that `parent` has started and not yet waited for."""
    return [p for p, fields in processes(proc).items() if int(fields[_PARENT]) == parent]


def usage(proc: int, monitor: int, template: int) -> Usage:
    """What the program that `template`, a child of `monitor`, has forked uses now."""
    table = descendants(proc, monitor)
    base_mb = resident_mb(table.pop(template)) if template in table else 0.0
    ticks = sum(sum(map(int, fields[_UTIME : _CSTIME + 1])) for fields in table.values())
    rss = sum(max(0.0, resident_mb(fields) - base_mb) for fields in table.values())
    return Usage(ticks / _TICKS, rss, len(table), any(_runnable(proc, pid) for pid in table))


def _runnable(proc: int, pid: int) -> bool:
    try:
        task = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
    except (FileNotFoundError, ProcessLookupError):
        return False  # It ended meanwhile.
    try:
        return any(fields[_STATE] == "R" for fields in processes(task).values())
    finally:
        os.close(task)


def resident_mb(fields: list[str]) -> float:
    """Resident memory of a process by its fields in `processes`."""
    return int(fields[_RSS]) * _PAGE_MB


def _read(proc: int, path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY, dir_fd=proc)
    try:
        return os.read(descriptor, 4096).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
