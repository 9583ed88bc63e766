"""The problems that a run trains on: which ones, with which hints, in which order."""

import hashlib
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields

from loguru import logger

from projected_grpo.config import Config, ConfigError, stream_seed
from projected_grpo.env.grading.comparison import one_answer
from projected_grpo.env.loopholes.modes import TRAIN_NAME, apply_hint, assign_modes
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import Problem
from projected_grpo.runs.teacher_pool import Pool, open_pool

DECIDES_NOTHING = frozenset(("dataset", "difficulty", "family", "wrong_solution"))
"""Fields of a problem that reach neither a prompt nor a grade. `difficulty` may have chosen
problems, which shows in which ones there are."""


def hinted_problems(
    source: str, mode: str, limit: int | None = None, difficulty: Collection[str] = ()
) -> list[Problem]:
    """The problems of a source that can be trained on, each with the hint of its mode; `mode` is
    that of problems which name none, or several that share them out (config.py). Raises as
    `fair_problems`."""
    return under_hints(fair_problems(source, limit, difficulty), mode.split(","))


def under_hints(problems: Sequence[Problem], modes: Sequence[str]) -> list[Problem]:
    """The problems, which have no hint yet, each with that of its mode: the one that it names, or
    one of these, which the others share out."""
    of_problem = assign_modes(problems, modes, seed=0)  # of the data, not of a run
    return [apply_hint(p, of_problem[p.id], TRAIN_NAME) for p in problems]


def fair_problems(
    source: str, limit: int | None = None, difficulty: Collection[str] = ()
) -> list[Problem]:
    """The problems of a source, without those whose hidden tests all expect one value: a constant
    would be graded correct.

    difficulty: only problems of these are taken; empty takes all. Raises ConfigError for one that
    no problem has.
    """
    problems = load_problems(source, limit)
    there = {p.difficulty.lower() for p in problems}
    if unknown := {name.lower() for name in difficulty} - there:
        raise ConfigError(
            f"no problem of {source} has difficulty {sorted(unknown)[0]}: there are "
            f"{', '.join(sorted(there))}"
        )
    wanted = {name.lower() for name in difficulty} or there
    problems = [p for p in problems if p.difficulty.lower() in wanted]
    kept = [p for p in problems if not one_answer(p)]
    if len(kept) < len(problems):
        logger.info(
            "{} of {} problems left out: their tests all expect one value, a constant would pass",
            len(problems) - len(kept),
            len(problems),
        )
    return kept


def short_enough(
    cfg: Config, problems: list[Problem], prompts: dict[int, list[int]]
) -> list[Problem]:
    """The problems whose prompt fits. Raises ConfigError where fewer are left than a step needs."""
    kept = [p for p in problems if len(prompts[p.id]) <= cfg.max_prompt]
    if len(kept) < len(problems):
        logger.info(
            "{} of {} problems left out: prompt above {} tokens",
            len(problems) - len(kept),
            len(problems),
            cfg.max_prompt,
        )
    if len(kept) < cfg.prompts_per_step:
        lengths = sorted(len(prompts[p.id]) for p in problems)
        remedies = [f"--prompts-per-step={len(kept)}"] if kept else []
        if len(problems) >= cfg.prompts_per_step:
            enough = lengths[cfg.prompts_per_step - 1]
            remedies.append(f"--max-prompt={enough} or more (half of all have at most "
                            f"{lengths[len(lengths) // 2]} tokens)")  # fmt: skip
        raise ConfigError(
            f"{cfg.problems} has {len(kept)} problems with at most {cfg.max_prompt} prompt tokens, "
            f"of {len(problems)}, fewer than the {cfg.prompts_per_step} prompts of a step: set "
            f"{' or '.join(remedies) or 'another --problems'}"
        )
    return kept


def with_teacher(cfg: Config, problems: list[Problem]) -> tuple[list[Problem], Pool | None]:
    """The problems that the teacher pool has enough rows for, and that pool, None where the run
    takes no teacher rows. Raises ConfigError where fewer problems are left than a step needs."""
    if cfg.teacher_rows == 0:
        return problems, None
    pool = open_pool(cfg.teacher_pool, problems, cfg.teacher_rows)
    if len(pool.problems) < cfg.prompts_per_step:
        raise ConfigError(
            f"the teacher pool {cfg.teacher_pool} has at least {cfg.teacher_rows} rows for "
            f"{len(pool.problems)} of {len(problems)} problems, fewer than the "
            f"{cfg.prompts_per_step} prompts of a step: add rows to it, or lower --mix-ratio or "
            "--prompts-per-step"
        )
    return pool.problems, pool


def problems_of_step(problems: list[Problem], P: int, seed: int, step: int) -> list[Problem]:
    """The P different problems of a step. Each epoch has a new order; problems that would not fill
    a step wait for the next one."""
    steps_per_epoch = len(problems) // P
    epoch, position = divmod(step - 1, steps_per_epoch)
    order = random.Random(stream_seed("order", seed, epoch)).sample(problems, len(problems))
    return order[position * P : (position + 1) * P]


def problems_digest(kept: Sequence[Problem], fair: Sequence[Problem]) -> str:
    """sha256 over the problems that a run keeps, whatever its mode, tokenizer and teacher make of
    them: their order, and every field that decides prompts or grades, such as statement, prelude
    and hidden tests.

    fair: the problems as their source has them (`fair_problems`), those kept among them. Of the
    latter only ids are looked at: a hint has changed their messages and mode.
    """
    names = [one.name for one in fields(Problem) if one.name not in DECIDES_NOTHING]
    before_hints = {p.id: p for p in fair}
    h = hashlib.sha256()
    for p in kept:
        before = before_hints[p.id]
        h.update(repr([(name, getattr(before, name)) for name in names]).encode())
    return h.hexdigest()


def data_digests(
    problems: Sequence[Problem],
    prompts: Sequence[Mapping[int, list[int]]],
    pool: Pool | None,
    teacher_rows: int,
) -> list[str]:
    """For each run of a pack, sha256 over what its rows are made from: its prompts (problem id ->
    token ids), modes, hidden tests, teacher rows. Runs that share one mapping share one digest."""
    answers = [pool.draw(p, teacher_rows, 0) if pool is not None else [] for p in problems]
    found: dict[int, str] = {}
    for mine in {id(one): one for one in prompts}.values():
        h = hashlib.sha256()
        for p, drawn in zip(problems, answers, strict=True):
            h.update(repr((p.id, p.mode, mine[p.id], p.cases, drawn)).encode())
        if pool is not None:
            h.update(pool.digest.encode())
        found[id(mine)] = h.hexdigest()
    return [found[id(mine)] for mine in prompts]
