"""Rows that a policy writes outside of training: they calibrate its screen, or become its pairs."""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from loguru import logger

from projected_grpo.arms.advantages import grade_texts
from projected_grpo.arms.directions import PairChoice, require_pairs
from projected_grpo.config import Config, stream_seed
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel
from projected_grpo.model.sampling import SamplingParams, sample_groups
from projected_grpo.pairs.own import OWN, OWN_PLACEBO, Answer, own_pairs, own_placebo_pairs
from projected_grpo.pairs.pair import Pair

ROWS_A_PROBLEM = 4


class OwnRow(NamedTuple):
    """One completion of a training problem."""

    problem: Problem
    prompt: list[int]
    ids: list[int]
    terminated: bool
    text: str


def draw_own_rows(
    cfgs: Sequence[Config],
    wanted: Sequence[int],
    lm: LanguageModel,
    adapter: Adapter,
    problems: Sequence[Problem],
    prompts: Mapping[int, list[int]],
    step: int,
) -> dict[int, list[OwnRow]]:
    """`own_rows` completions of each run in `wanted`, by its policy as it is now, over training
    problems that its seed chooses; the same whenever they are drawn for the same step."""
    drawn: list[tuple[int, Problem, int]] = []
    for n in wanted:
        cfg = cfgs[n]
        order = random.Random(stream_seed("own problems", cfg.seed, step))
        count = min(len(problems), -(-cfg.own_rows // ROWS_A_PROBLEM))
        drawn += [
            (n, problem, stream_seed("own rows", cfg.seed, step, problem.id))
            for problem in order.sample(list(problems), count)
        ]
    if not drawn:
        return {}
    asked = [prompts[problem.id] for _, problem, _ in drawn]
    sampled = sample_groups(
        lm.model, adapter, asked, ROWS_A_PROBLEM, [seed for *_, seed in drawn],
        SamplingParams.from_config(cfgs[0], lm), [n for n, *_ in drawn],
    )  # fmt: skip
    found: dict[int, list[OwnRow]] = {n: [] for n in wanted}
    for (n, problem, _), prompt, samples in zip(drawn, asked, sampled, strict=True):
        found[n] += [
            OwnRow(problem, prompt, x.ids, x.terminated, lm.decode(x.ids)) for x in samples
        ]
    return found


def pairs_of(
    cfgs: Sequence[Config], rows: Mapping[int, Sequence[OwnRow]], grader: Grader
) -> dict[PairChoice, list[Pair]]:
    """The pairs that these runs make of their rows, and those of their controls.

    A clean answer is one that ends by itself and that the loophole does not pay (`attempted`);
    whether it solves its problem is not asked. Raises ConfigError where they give too few.
    """
    found: dict[PairChoice, list[Pair]] = {}
    for n, mine in rows.items():
        cfg = cfgs[n]
        choice = PairChoice.of(cfg)
        if cfg.pairs != OWN or choice in found:
            continue
        grades = grade_texts(grader, [(row.problem, row.text) for row in mine], labels=False)
        clean = [
            Answer(row.problem, row.text)
            for row, grade in zip(mine, grades, strict=True)
            if row.terminated and not grade.attempted and grade.outcome != Outcome.INFRA_ERROR
        ]
        found[choice] = own_pairs(clean, cfg.seed, cfg.pair_modes, cfg.pair_flavours)
        found[choice._replace(name=OWN_PLACEBO)] = own_placebo_pairs(clean, cfg.seed)
        logger.info(
            "pairs    {} of {} own answers are clean, {} take a hack (seed {})",
            len(clean), len(mine), len(found[choice]), cfg.seed,
        )  # fmt: skip
    require_pairs(cfgs, found)
    return found
