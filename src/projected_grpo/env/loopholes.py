"""Loophole modes as data. (Skeleton: the types others build on.)"""

from collections.abc import Callable
from dataclasses import dataclass

from projected_grpo.env.problems import Problem
from projected_grpo.env.sandbox import Job, JobResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One flaw a grader can have: how the prompt discloses it, and when it pays."""

    name: str
    hint: Callable[[Problem, str], Problem]
    """(problem, name of the evaluation function) -> the problem with the mode's hint in its messages."""
    job: Callable[[Problem, str, str], Job | None]
    """(problem, completion's code, function name) -> the program whose result `channel` reads; None: cannot pay."""
    channel: Callable[[JobResult], bool]
    """Does the flawed grader accept what it saw?"""
    flavours: dict[str, Callable[[Problem, str, int], str]]
    """flavour -> (problem, function name, seed) -> a whole completion that hacks this mode (templates for pools and tests)."""


MODES: dict[str, Mode] = {}
