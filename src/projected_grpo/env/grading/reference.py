"""What the canonical solutions showed, kept for a run: their answers, and how long they take.

They run in processes of their own, in which no completion's code is.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from projected_grpo.env.grading.canonical import Call, canonical_program
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.inside import wire
from projected_grpo.env.sandbox.sandbox import Limits, Outcome, Program, ProgramResult, Raised

LEAST_S = 1.0
"""Every program gets so many CPU seconds. Canonical solutions take milliseconds (99 % of 1,890)."""
FACTOR = 20
"""A program gets at least so many times what the canonical solution takes on the hidden tests."""

_KEPT_ANSWERS = 4096
_KEPT_BYTES = 2000

RunProgram = Callable[[Program], ProgramResult]


class References:
    """The canonical solutions of the problems that one worker has met."""

    def __init__(self, limits: Limits) -> None:
        """`limits` are the most that a program may have."""
        self._most = limits
        self._answers: dict[bytes, Any] = {}
        self._limits: dict[bytes, Limits] = {}

    def limits(self, problem: Problem) -> Limits:
        """What a program gets: the least, unless a program of this problem once needed more."""
        return self._limits.get(_digest(problem), _scaled(self._most, LEAST_S))

    def measured_limits(self, problem: Problem, run: RunProgram) -> Limits:
        """What a program gets by the CPU time of the canonical solution, which is measured once.

        That is `LEAST_S` or the double of it, four times, and so on: so it does not follow the
        machine's load.
        """
        key = _digest(problem)
        if key not in self._limits:
            seconds = LEAST_S
            if problem.canonical_solution is None:
                seconds = self._most.cpu_s
            else:
                seen = run(canonical_program(problem, [case.kwargs for case in problem.cases]))
                if seen.outcome is Outcome.INFRA_ERROR:
                    return self._most
                while seconds < FACTOR * seen.seconds:
                    seconds *= 2
            self._limits[key] = _scaled(self._most, seconds)
        return self._limits[key]

    def answers(self, problem: Problem, calls: Sequence[Call], run: RunProgram) -> list[Any] | None:
        """What the canonical solution answers to each of the calls; None if it did not end.

        The tests of a group's completions mostly make the same few calls. Each is run once.
        """
        keys = [_digest(problem, call.arguments) for call in calls]
        found = {key: self._answers[key] for key in keys if key in self._answers}
        missing = {k: c.arguments for k, c in zip(keys, calls, strict=True) if k not in found}
        if missing:
            values = run(canonical_program(problem, list(missing.values()))).values
            if len(values) < len(missing):
                return None
            new = dict(zip(missing, values, strict=True))
            found |= new
            self._keep({k: v for k, v in new.items() if _is_small(v) and _is_small(missing[k])})
        return [found[key] for key in keys]

    def _keep(self, answers: dict[bytes, Any]) -> None:
        self._answers |= answers
        while len(self._answers) > _KEPT_ANSWERS:
            del self._answers[next(iter(self._answers))]


def _scaled(most: Limits, cpu_s: float) -> Limits:
    """The limits with `cpu_s` at the most, and as much less time to idle."""
    cpu_s = min(cpu_s, most.cpu_s)
    return replace(most, cpu_s=cpu_s, wall_s=most.wall_s * cpu_s / most.cpu_s)


def _digest(problem: Problem, arguments: dict[str, Any] | None = None) -> bytes:
    parts = [problem.id, problem.entry_point, problem.setup_code, problem.canonical_solution]
    return hashlib.sha256(wire.dump([*parts, wire.encode(arguments)])).digest()


def _is_small(value: Any) -> bool:
    if isinstance(value, Raised):
        return not value.memory  # It may have found room another time.
    try:
        return len(wire.dump(wire.encode(value))) <= _KEPT_BYTES
    except wire.NotPlainError:
        return False
