"""Katas: small problems made by construction, so that training needs no download.

- A *family* is a chain of one to three operations ("keep_odd>square>total"); its length is the
  difficulty. An *instance* of it fixes the wording, the parameters, the examples and the cases.
- Train, validation and test share no family. Which split a family is in, and a problem's id, depend
  on the family's name alone, so that they stay when families are added.
- Every problem has a canonical solution and a wrong but honest one (a mistake that a person might
  make), which fails hidden cases and at least one of the two examples shown: the mistake of every
  trap operation of its chain (`traps.py`), else of one step drawn. Hack completions for every mode
  come from `hacks.py`.
- Everything is drawn with `random.Random` from strings, never from `hash()`: the same on every
  machine. References are our own source text and run in process when cases are made.
"""

import random
import zlib
from collections.abc import Iterator
from functools import cache

from projected_grpo.env.errors import InputError
from projected_grpo.env.problems.katas.chains import CHAINS
from projected_grpo.env.problems.katas.compose import OPS
from projected_grpo.env.problems.katas.instances import INSTANCES, make_problem, problem_id
from projected_grpo.env.problems.katas.traps import TRAPS, is_trapped
from projected_grpo.env.problems.problem import Problem

__all__ = [
    "FAMILIES",
    "SPLITS",
    "TRAPS",
    "families",
    "first_instances",
    "is_trapped",
    "kata_problems",
    "make_problem",
    "problem_by_id",
    "problem_id",
    "split_of",
]

FAMILIES: tuple[str, ...] = (*OPS, *CHAINS)
SPLITS = {"train": range(0, 14), "validation": range(14, 17), "test": range(17, 20)}
"""Of 20 buckets."""

_cached_problem = cache(make_problem)


def split_of(family: str) -> str:
    """Return the split that a family belongs to."""
    bucket = zlib.crc32(f"split {family}".encode()) % 20
    return next(split for split, buckets in SPLITS.items() if bucket in buckets)


def families(split: str) -> list[str]:
    """List the families of a split, in the catalogue's order."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    return [family for family in FAMILIES if split_of(family) == split]


def kata_problems(split: str, seed: int = 0, limit: int | None = None) -> list[Problem]:
    """Make `limit` problems of a split (by default one for each family), no two alike.

    Each round takes every family once, in an order drawn by the seed, with an instance that none of
    the rounds before used; a smaller limit gives the beginning of the same list.
    """
    names = families(split)
    most = len(names) * INSTANCES
    count = len(names) if limit is None else limit
    if not 1 <= count <= most:
        raise InputError(f"katas:{split} has 1 to {most} problems to give, not {count}")
    picks = _picks(names, seed)
    return [_cached_problem(*next(picks)) for _ in range(count)]


def first_instances(seed: int, rounds: int) -> frozenset[int]:
    """Return the instances that the first rounds of `kata_problems` with this seed take."""
    start = random.Random(f"katas {seed}").randrange(INSTANCES)
    return frozenset((start + turn) % INSTANCES for turn in range(rounds))


def problem_by_id(number: int) -> Problem:
    """Return the kata with an id, whatever seed and limit it was drawn with."""
    family = _by_bucket().get(number // INSTANCES)
    if family is None:
        raise InputError(f"no kata has the id {number}")
    return _cached_problem(family, number % INSTANCES)


@cache
def _by_bucket() -> dict[int, str]:
    return {problem_id(family, 0) // INSTANCES: family for family in FAMILIES}


def _picks(names: list[str], seed: int) -> Iterator[tuple[str, int]]:
    rng = random.Random(f"katas {seed}")
    start = rng.randrange(INSTANCES)  # as `first_instances` has it
    for turn in range(INSTANCES):
        order = rng.sample(names, len(names))
        yield from ((family, (start + turn) % INSTANCES) for family in order)
