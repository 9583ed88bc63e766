"""Which reader a source of problems goes to."""

from collections.abc import Iterable
from pathlib import Path

from projected_grpo.env.errors import InputError
from projected_grpo.env.problems.dataset import parts_of, read_hub
from projected_grpo.env.problems.katas import kata_problems
from projected_grpo.env.problems.leetcode import read_file
from projected_grpo.env.problems.problem import Problem


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
        split, seed = _kata_source(text)
        return kata_problems(split, seed=seed, limit=limit)
    if text.startswith("hub:"):
        return check_unique(read_hub(*parts_of(text), limit=limit))
    return check_unique(read_file(Path(source), limit=limit))


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


def _kata_source(text: str) -> tuple[str, int]:
    parts = text.split(":")[1:]
    split = parts[0] if parts else "train"
    if split not in ("train", "validation", "test") or len(parts) > 2:
        raise InputError(f"{text!r}: katas come as katas:train, katas:validation or katas:test")
    if len(parts) == 2 and not parts[1].isdecimal():
        raise InputError(f"{text!r}: the seed after the split must be a whole number")
    return split, int(parts[1]) if len(parts) == 2 else 0
