"""Rows that a policy writes outside of training: they calibrate its screen, or become its pairs."""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from loguru import logger

from projected_grpo.arms.advantages import grade_texts
from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.directions import PairChoice
from projected_grpo.config import Config, stream_seed
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel
from projected_grpo.model.sampling import SamplingParams, sample_groups
from projected_grpo.pairs.own import (
    OWN_PLACEBO,
    OWN_REPORTS,
    OWN_SETS,
    CleanAnswer,
    own_pairs,
    own_placebo_pairs,
)
from projected_grpo.pairs.pair import Pair

ROWS_A_PROBLEM = 4

FOR_PAIRS, FOR_SCREENS = "pairs", "screens"
"""What rows are drawn for. A screen must not be calibrated on texts that its V is made of, so the
two purposes draw different rows."""


class OwnRow(NamedTuple):
    """One completion of a training problem."""

    problem: Problem
    prompt: list[int]
    ids: list[int]
    terminated: bool
    text: str


def own_pair_runs(cfgs: Sequence[Config], *, has_v: bool, resuming: bool) -> list[int]:
    """The runs that make pairs of what the untrained policy writes. has_v: V is read from a file;
    a resumed run has what its arm extracted in its directory."""
    found = []
    for n, cfg in enumerate(cfgs):
        arm = ARMS[cfg.arm]
        extracts = cfg.measure == "v" and not has_v
        extracts |= bool(arm.concept or cfg.refresh_every or (arm.extraction and not resuming))
        if cfg.pairs in OWN_SETS and extracts:
            found.append(n)
    return found


def draw_own_rows(
    cfgs: Sequence[Config],
    wanted: Sequence[int],
    lm: LanguageModel,
    adapter: Adapter,
    problems: Sequence[Problem],
    prompts: Mapping[int, list[int]],
    purpose: str,
    step: int,
) -> dict[int, list[OwnRow]]:
    """`own_rows` completions of each run in `wanted`, by its policy as it is now, over training
    problems that its seed chooses; the same whenever they are drawn for one purpose and step."""
    drawn: list[tuple[int, Problem, int]] = []
    for n in wanted:
        cfg = cfgs[n]
        order = random.Random(stream_seed("own problems", purpose, cfg.seed, step))
        count = min(len(problems), -(-cfg.own_rows // ROWS_A_PROBLEM))
        drawn += [
            (n, problem, stream_seed("own rows", purpose, cfg.seed, step, problem.id))
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


def draw_first_rows(
    cfgs: Sequence[Config],
    wanted: Sequence[int],
    lm: LanguageModel,
    adapter: Adapter,
    problems: Sequence[Problem],
    prompts: Mapping[int, list[int]],
    purpose: str,
) -> dict[int, list[OwnRow]]:
    """The rows of the untrained policy; runs of one seed share them, as it is the same for all."""
    first = {cfgs[n].seed: n for n in reversed(wanted)}
    drawn = draw_own_rows(
        cfgs, sorted(first.values()), lm, adapter, problems, prompts, purpose, step=0
    )
    return {n: drawn[first[cfgs[n].seed]] for n in wanted}


def pairs_of(
    cfgs: Sequence[Config], rows: Mapping[int, Sequence[OwnRow]], grader: Grader
) -> dict[PairChoice, list[Pair]]:
    """The pairs that these runs make of their rows, and those of their controls.

    A clean answer is one that ends by itself and that the loophole does not pay (`attempted`);
    whether it solves its problem is not asked.
    """
    found: dict[PairChoice, list[Pair]] = {}
    for n, mine in rows.items():
        cfg = cfgs[n]
        choice = PairChoice.of(cfg)
        if cfg.pairs not in OWN_SETS or choice in found:
            continue
        grades = grade_texts(grader, [(row.problem, row.text) for row in mine], labels=False)
        clean = [
            CleanAnswer(row.problem, row.text)
            for row, grade in zip(mine, grades, strict=True)
            if row.terminated and not grade.attempted and grade.outcome != Outcome.INFRA_ERROR
        ]
        found[choice] = own_pairs(
            clean,
            cfg.seed,
            cfg.pair_modes,
            cfg.pair_flavours,
            against_reports=cfg.pairs == OWN_REPORTS,
        )
        found[choice._replace(name=OWN_PLACEBO)] = own_placebo_pairs(
            clean, cfg.seed, cfg.pair_modes
        )
        logger.info(
            "pairs    {} of {} own answers are clean, {} take a hack (seed {})",
            len(clean), len(mine), len(found[choice]), cfg.seed,
        )  # fmt: skip
    return found
