"""Rows that a policy writes outside of training: they calibrate its screen, or become its pairs."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loguru import logger

from projected_grpo.arms.advantages import grade_texts
from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.directions import PairChoice
from projected_grpo.config import Config, ConfigError, stream_seed
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.problems.problem import Messages, Problem
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
from projected_grpo.runs.data import under_hints

ROWS_A_PROBLEM = 4

FOR_PAIRS, FOR_SCREENS = "pairs", "screens"
"""What rows are drawn for. A screen must not be calibrated on texts that its V is made of, so the
two purposes draw different rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """Training problems under some hints; runs that are asked the same have the same object."""

    problems: Sequence[Problem]
    prompts: Mapping[int, list[int]]  # problem id -> token ids

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(self.prompts[problem.id]) for problem in self.problems)


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
        if cfg.pairs in OWN_SETS and (extracts or cfg.flags_flavours):
            found.append(n)
    return found


def questions_for_pairs(
    cfgs: Sequence[Config],
    paired: Collection[int],
    trained: Questions,
    plain: Sequence[Problem],
    prompt_ids: Callable[[Messages], list[int]],
) -> list[Questions]:
    """What each run's own pairs are answers to: the questions it trains on or, where a run in
    `paired` names pair modes that these lack, the same problems under the hints of its pair modes.

    plain: the problems of the source, without hints. Raises ConfigError where a run has none to ask
    under its hints.
    """
    there = {problem.mode for problem in trained.problems}
    made: dict[tuple[str, ...], Questions] = {}
    found: list[Questions] = []
    for n, cfg in enumerate(cfgs):
        if n not in paired or there.issuperset(cfg.pair_modes):
            found.append(trained)
            continue
        if cfg.pair_modes not in made:
            made[cfg.pair_modes] = _under_pair_modes(cfg, trained, plain, prompt_ids)
        found.append(made[cfg.pair_modes])
    return found


def _under_pair_modes(
    cfg: Config,
    trained: Questions,
    plain: Sequence[Problem],
    prompt_ids: Callable[[Messages], list[int]],
) -> Questions:
    """The problems that are trained on, under the hints of `pair_modes`; those whose record names
    another mode keep that, and are left out."""
    modes = ", ".join(cfg.pair_modes)
    ids = {problem.id for problem in trained.problems}
    asked = [p for p in under_hints(plain, cfg.pair_modes) if p.id in ids]
    asked = [p for p in asked if p.mode in cfg.pair_modes]
    if not asked:
        raise ConfigError(
            f"all {len(ids)} training problems of {cfg.problems} name a mode of their own, so that "
            f"--pairs={cfg.pairs} has none to ask under --pair-modes {modes}: name modes that they "
            "have"
        )
    prompts = {problem.id: prompt_ids(problem.messages) for problem in asked}
    kept = [p for p in asked if len(prompts[p.id]) <= cfg.max_prompt]
    if not kept:
        raise ConfigError(
            f"none of the {len(asked)} training problems of {cfg.problems} has at most "
            f"{cfg.max_prompt} prompt tokens under the hints of --pair-modes {modes}, which "
            f"--pairs={cfg.pairs} asks them under: set "
            f"--max-prompt={min(map(len, prompts.values()))} or more"
        )
    logger.info(
        "pairs    {} of {} training problems are asked under the hints of {}",
        len(kept), len(ids), modes,
    )  # fmt: skip
    return Questions(kept, prompts)


def draw_own_rows(
    cfgs: Sequence[Config],
    wanted: Sequence[int],
    lm: LanguageModel,
    adapter: Adapter,
    questions: Sequence[Questions],
    purpose: str,
    step: int,
) -> dict[int, list[OwnRow]]:
    """`own_rows` completions of each run in `wanted`, by its policy as it is now, over those of its
    questions that its seed chooses; the same whenever they are drawn for one purpose and step.

    questions: of each run.
    """
    drawn: list[tuple[int, Problem, int]] = []
    for n in wanted:
        cfg, problems = cfgs[n], questions[n].problems
        order = random.Random(stream_seed("own problems", purpose, cfg.seed, step))
        count = min(len(problems), -(-cfg.own_rows // ROWS_A_PROBLEM))
        drawn += [
            (n, problem, stream_seed("own rows", purpose, cfg.seed, step, problem.id))
            for problem in order.sample(list(problems), count)
        ]
    if not drawn:
        return {}
    asked = [questions[n].prompts[problem.id] for n, problem, _ in drawn]
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
    questions: Sequence[Questions],
    purpose: str,
) -> dict[int, list[OwnRow]]:
    """The rows of the untrained policy, which is the same for all: runs of one seed that are asked
    the same share them."""
    first = {(cfgs[n].seed, questions[n]): n for n in reversed(wanted)}
    drawn = draw_own_rows(cfgs, sorted(first.values()), lm, adapter, questions, purpose, step=0)
    return {n: drawn[first[cfgs[n].seed, questions[n]]] for n in wanted}


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
