"""Which reader a source of problems goes to."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from loguru import logger

from projected_grpo.env.errors import InputError
from projected_grpo.env.problems.dataset import parts_of, read_hub
from projected_grpo.env.problems.katas import kata_problems
from projected_grpo.env.problems.leetcode import read_file
from projected_grpo.env.problems.problem import Problem

MOST_LEFT_OUT = 0.05
"""Share of a source's records that may be unusable: with more it is of another kind."""
MOST_TOLD = 20
"""Records of a source that are named when they are left out."""


def load_problems(source: str | Path, limit: int | None = None) -> list[Problem]:
    """Load a source's problems, in a fixed order, at most `limit`.

    `"katas"` is `"katas:train"`; `"katas:validation"`, `"katas:test"` and `"katas:train:7"` (seed
    7) are the others. `"hub:owner/name"`, with `@revision` and then `:split` if wanted, is read
    through `datasets`. All else is a path to a .jsonl or .jsonl.gz file of benchmark or
    LeetCodeDataset records.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    text = str(source)
    if text == "katas" or text.startswith("katas:"):
        split, seed = kata_source(text)
        return kata_problems(split, seed=seed, limit=limit)
    if text.startswith("hub:"):
        return check_unique(usable(read_hub(*parts_of(text)), text, limit))
    return check_unique(usable(read_file(Path(source)), text, limit))


def usable(
    read: Iterable[tuple[str, Problem | InputError]], source: str, limit: int | None = None
) -> Iterator[tuple[str, Problem]]:
    """(place, problem) of the records that can be used, at most `limit`.

    Each of the others is left out with a sentence. Raises InputError where these are more than
    `MOST_LEFT_OUT` of all, or there are no records.
    """
    faults: list[InputError] = []
    count = 0
    for place, found in read:
        if isinstance(found, InputError):
            faults.append(found)
            continue
        yield place, found
        count += 1
        if count == limit:
            break
    total = count + len(faults)
    if not total:
        raise InputError(f"{source}: holds no records")
    if len(faults) > MOST_LEFT_OUT * total:
        raise InputError(
            f"{faults[0]}; {len(faults)} of {total} records cannot be used, more than "
            f"{MOST_LEFT_OUT:.0%}"
        )
    for fault in faults[:MOST_TOLD]:
        logger.warning("left out: {}", fault)
    if len(faults) > MOST_TOLD:
        logger.warning("{} more records of {} are left out", len(faults) - MOST_TOLD, source)


def check_unique(numbered: Iterable[tuple[str, Problem]]) -> list[Problem]:
    """Return the problems of (place, problem) pairs; an id used twice is an InputError."""
    problems: list[Problem] = []
    places: dict[int, str] = {}
    for place, problem in numbered:
        if problem.id in places:
            raise InputError(
                f"{place}: id {problem.id} was already used at {places[problem.id]};"
                " ids must be unique"
            )
        places[problem.id] = place
        problems.append(problem)
    return problems


def kata_source(text: str) -> tuple[str, int]:
    """The split and the seed of "katas", "katas:test" or "katas:train:7". Raises InputError."""
    parts = text.split(":")[1:]
    split = parts[0] if parts else "train"
    if split not in ("train", "validation", "test") or len(parts) > 2:
        raise InputError(f"{text!r}: katas come as katas:train, katas:validation or katas:test")
    if len(parts) == 2 and not parts[1].isdecimal():
        raise InputError(f"{text!r}: the seed after the split must be a whole number")
    return split, int(parts[1]) if len(parts) == 2 else 0
