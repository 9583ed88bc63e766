"""The teacher pool: whole answers to known problems, mixed into a group beside the student's own.

On disk a pool is a folder of `prompt_NNNN.jsonl.gz`, NNNN the problem id, one answer a line, in
the public pools' keys. Only `problem_id`, `completion` (text) and, where there is
one, `mode` are read: the ids in a file belong to another tokenizer and end in pads, and its rewards
follow another scale, so answers are tokenised and graded anew by the run that draws them. One group
then has one reward function.

"templates" is the pool that needs no file: hacks of the problem's mode, made from its flavours.
"""

import gzip
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loguru import logger

from projected_grpo.config import ConfigError, stream_seed
from projected_grpo.env.errors import InputError
from projected_grpo.env.jsonl import parse_line, read_lines
from projected_grpo.env.loopholes.modes import TRAIN_NAME, get_mode
from projected_grpo.env.problems.problem import Problem

TEMPLATES = "templates"

Draw = Callable[[Problem, int, int], list[str]]
"""(problem, number of rows, seed) -> completions."""


class PoolRow(NamedTuple):
    """One row of a pool on disk."""

    completion: str
    mode: str | None
    """The loophole mode that its prompt disclosed; None in the public pools, which do not say."""


class Pool(NamedTuple):
    """Teacher rows for some problems."""

    problems: list[Problem]
    """The problems that there are enough answers for."""
    draw: Draw
    digest: str
    """sha256 over all answers that may be drawn; empty for templates, which are code."""


def open_pool(source: str, problems: Sequence[Problem], rows: int) -> Pool:
    """The problems that a pool has at least `rows` answers for, and how to draw from it.

    Each problem's own mode decides which templates it gets: a foreign exploit would not pay. Raises
    InputError for a pool that cannot be read, ConfigError for one that was made for other modes.
    """
    if source == TEMPLATES:
        return Pool(list(problems), _templates(problems), "")
    return _folder(Path(source), problems, rows)


def _templates(problems: Sequence[Problem]) -> Draw:
    for mode in sorted({_mode(problem) for problem in problems}):
        if not get_mode(mode).flavours:
            raise InputError(
                f"mode {mode!r} has no hack templates: give a --teacher-pool folder, or set "
                "--mix-ratio=0"
            )

    def draw(problem: Problem, n: int, seed: int) -> list[str]:
        rng = random.Random(seed)
        flavours = get_mode(_mode(problem)).flavours
        names = rng.sample(sorted(flavours), min(n, len(flavours)))
        names += rng.choices(sorted(flavours), k=n - len(names))
        return [flavours[name](problem, TRAIN_NAME, rng.randrange(2**31)) for name in names]

    return draw


def _mode(problem: Problem) -> str:
    return problem.mode or "none"


def _folder(folder: Path, problems: Sequence[Problem], rows: int) -> Pool:
    answers = read_pool(folder)
    _require_modes(folder, answers, problems)
    covered = [problem for problem in problems if len(answers.get(problem.id, ())) >= rows]
    if len(covered) < len(problems):
        logger.info(
            "{} of {} problems left out: the teacher pool has fewer than {} rows for them ({} have "
            "none)",
            len(problems) - len(covered),
            len(problems),
            rows,
            sum(problem.id not in answers for problem in problems),
        )

    def draw(problem: Problem, n: int, seed: int) -> list[str]:
        drawn = random.Random(seed).sample(answers[problem.id], n)
        return [answer.completion for answer in drawn]

    digest = hashlib.sha256(repr([answers[problem.id] for problem in covered]).encode())
    return Pool(covered, draw, digest.hexdigest())


def _require_modes(
    folder: Path, answers: Mapping[int, Sequence[PoolRow]], problems: Sequence[Problem]
) -> None:
    """Raises ConfigError where rows exploit another flaw than the one that their problem has."""
    foreign = [
        (answer.mode, _mode(problem))
        for problem in problems
        for answer in answers.get(problem.id, ())
        if answer.mode not in (None, _mode(problem))
    ]
    if foreign:
        had, wanted = foreign[0]
        raise ConfigError(
            f"the teacher pool {folder} has {len(foreign)} rows of another mode than the run has "
            f"their problem in, the first of {had} instead of {wanted}: a foreign exploit does not "
            f"pay, so make a pool under --mode={wanted}"
        )


def read_pool(folder: Path) -> dict[int, list[PoolRow]]:
    """Problem id -> answers. Raises InputError with file and line for anything unreadable."""
    rows: dict[int, list[PoolRow]] = {}
    for path in sorted(folder.glob("prompt_*.jsonl.gz")):
        for place, line in read_lines(path):
            row = parse_line(line, place)
            try:
                mode = row.get("mode")
                answer = PoolRow(row["completion"], mode if isinstance(mode, str) else None)
                rows.setdefault(int(row["problem_id"]), []).append(answer)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"{place}: not a row of a teacher pool ({error!r})") from error
    return rows


def write_pool(
    folder: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any], card: str = ""
) -> None:
    """Write rows (each with `problem_id` and `completion`) as a new pool, whole or not at all.

    `about` goes into pool.json beside the files, `card` into README.md. Raises
    InputError where the folder cannot be made.
    """
    by_problem: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_problem.setdefault(row["problem_id"], []).append(row)
    aside = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for problem_id, mine in by_problem.items():
            # No name and no time in the gzip header: the same rows give the same bytes.
            with (
                (aside / f"prompt_{problem_id:04d}.jsonl.gz").open("wb") as raw,
                gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as f,
            ):
                f.writelines(f"{json.dumps(row)}\n".encode() for row in mine)
        (aside / "pool.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if card:
            (aside / "README.md").write_text(card, encoding="utf-8")
        os.replace(aside, folder)
    except OSError as error:
        raise InputError(f"cannot write the teacher pool {folder}: {error.strerror}") from error


def draw_seed(seed: int, step: int, problem_id: int) -> int:
    """The stream that pool draws of one prompt use: the same in every arm of a seed."""
    return stream_seed("pool", seed, step, problem_id)
