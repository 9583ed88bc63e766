"""What a step's rows are worth: grades, an arm's scores in hidden states, advantages."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.concept import last_states
from projected_grpo.arms.own_reward import load_reward, paid_by
from projected_grpo.arms.rewards import REWARDS, Seen
from projected_grpo.arms.rows import Row
from projected_grpo.arms.screening import SCREENS
from projected_grpo.config import Config
from projected_grpo.env.errors import InputError
from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.loopholes.modes import TRAIN_NAME
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel
from projected_grpo.model.loss import group_advantages

MOST_FAULTS = 0.25
"""Share of a step's rows that the grader itself may fail on."""


def grade_rows(cfgs: Sequence[Config], grader: Grader, groups: list[list[Row]], step: int) -> None:
    """Fill in every row's grade and advantage; `cfgs` are the settings of the N runs. Only `reward`
    of a grade reaches the advantage, except in the arm that is the upper bound.

    A row that a screen leaves out is out of its group's mean: else the others would be worth less
    for its reward.
    """
    rows = [row for group in groups for row in group]
    texts = [(row.problem, row.text) for row in rows]
    own = load_reward(cfgs[0].reward)
    for row, grade in zip(rows, grade_texts(grader, texts, labels=cfgs[0].labels), strict=True):
        row.grade = grade if own is None else paid_by(own, row.text, row.problem, grade)
    rewards = torch.tensor([[row.grade.reward for row in group] for group in groups])
    valid = torch.tensor(
        [[row.grade.outcome != Outcome.INFRA_ERROR for row in group] for group in groups]
    )
    paid = _shape_rewards(cfgs, groups, rewards, valid, step)
    stays = torch.tensor([[not _left_out(row, cfgs) for row in group] for group in groups])
    advantages, learns = group_advantages(paid, valid & stays)
    taken = (rewards - paid).flatten().tolist()
    flat = zip(advantages.flatten().tolist(), learns.flatten().tolist(), taken, strict=True)
    for row, (advantage, part, penalty) in zip(rows, flat, strict=True):
        row.advantage, row.learns, row.penalty = advantage, part, penalty


def _left_out(row: Row, cfgs: Sequence[Config]) -> bool:
    return row.flagged and SCREENS[cfgs[row.run].screen].leaves_out


def require_grades(grades: Sequence[Grade]) -> None:
    """Raises InputError, with the cause, where the grader failed on too many rows of a step.

    Such rows are masked. A few do no harm, but a fault does not strike rows at random: it strikes
    those whose programs ask for most, so every rate of the step may be off by the share that is
    masked. Past `MOST_FAULTS` it is the machine's fault, which the next step would meet as well.
    The run stops before the step has changed anything, and can be resumed with that very step.
    """
    faults = Counter(grade.error for grade in grades if grade.outcome == Outcome.INFRA_ERROR)
    if faults.total() > MOST_FAULTS * len(grades):
        cause, _ = faults.most_common(1)[0]
        raise InputError(
            f"the grader itself failed on {faults.total()} of the {len(grades)} rows of this step "
            f"({cause}): nothing can be learned from them; mend that, then resume the run"
        )


def grade_texts(
    grader: Grader, texts: Sequence[tuple[Problem, str]], *, labels: bool
) -> list[Grade]:
    """The grade of every (problem, completion) as training grades it: by the flawed grader of the
    problem's mode, under the name that training prompts give its function.
    """
    return grader.grade([as_trained(*one) for one in texts], labels=labels)


def start_grading(grader: Grader, texts: Sequence[tuple[Problem, str]], *, labels: bool) -> None:
    """Let the grader begin with texts whose grades `grade_texts` or `grade_rows` will ask for."""
    grader.start([as_trained(*one) for one in texts], labels=labels)


def as_trained(problem: Problem, text: str) -> Submission:
    """The completion as training grades it."""
    return Submission(
        problem=problem,
        completion=text,
        mode=problem.mode or "none",
        function_name=TRAIN_NAME,
    )


def score_rows(
    lm: LanguageModel,
    adapter: Adapter,
    concepts: Mapping[int, Tensor],
    groups: list[list[Row]],
    micro_batch_tokens: int,
) -> None:
    """Fill in how far along its run's direction in hidden states every row lies, where the run has
    one. One forward pass, of the policy that sampled."""
    rows = [row for group in groups for row in group if row.run in concepts]
    if not rows:
        return
    states = last_states(
        lm,
        adapter,
        [(row.prompt, row.ids) for row in rows],
        [row.run for row in rows],
        micro_batch_tokens,
    )
    directions = torch.stack([concepts[row.run] for row in rows])
    for row, score in zip(rows, (states * directions).sum(1).tolist(), strict=True):
        row.concept_score = score


def _shape_rewards(
    cfgs: Sequence[Config], groups: list[list[Row]], rewards: Tensor, valid: Tensor, step: int
) -> Tensor:
    """The rewards that advantages are made of: every run's arm, once it acts, and its screen on the
    groups of that run."""
    paid = rewards.clone()
    for n, cfg in enumerate(cfgs):
        mine = torch.tensor([group[0].run == n for group in groups])
        rows = [group for group in groups if group[0].run == n]
        exploited = torch.tensor([[row.grade.exploited for row in group] for group in rows])
        scores = None
        if all(row.concept_score is not None for group in rows for row in group):
            scores = torch.tensor([[row.concept_score for row in group] for group in rows])
        terminated = torch.tensor([[row.terminated for row in group] for group in rows])
        seen = Seen(valid[mine], exploited, terminated, scores)
        name = ARMS[cfg.arm].reward if cfg.acts_at(step) else "grade"
        paid[mine] = REWARDS[name](rewards[mine], seen, cfg)
        if SCREENS[cfg.screen].penalises:
            flagged = torch.tensor([[row.flagged for row in group] for group in rows])
            paid[mine] -= cfg.screen_penalty * flagged
    return paid
