"""What the rivals make of a reward before advantages are taken: pure functions on tensors.

Projection leaves the reward alone and changes the gradient; these do the opposite. Each returns the
rewards bit for bit where its knob is 0. Axes: P prompts, G rows of a group.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from projected_grpo.config import Config

STD_FLOOR = 0.1
"""Wu & Tang's least standard deviation of a group's scores, in units of the score itself."""
TIE = 1e-4
"""|z| below it is 0. One text scored twice differs by some 4e-6, by the rounding of other padding,
and at z = 0 the multiplicative form jumps."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the rows of one run's groups, each (P, G)."""

    valid: Tensor
    """bool; False where the grader itself failed: such a row is out of its group's statistics."""
    exploited: Tensor
    """bool, the oracle's label: passed and not correct."""
    terminated: Tensor
    """bool; False where the completion was cut: its hidden state is that of a token amid the code,
    and cannot be compared with those at the end of a text."""
    scores: Tensor | None
    """Hidden states along the arm's direction; None where it has none."""


Reward = Callable[[Tensor, Seen, Config], Tensor]
"""(rewards (P, G), what else is known, settings) -> the rewards that advantages are made of."""


def keep_reward(rewards: Tensor, seen: Seen, cfg: Config) -> Tensor:
    """The grader's own rewards."""
    return rewards


def gt_penalty(rewards: Tensor, seen: Seen, cfg: Config) -> Tensor:
    """R - `gt_penalty` for every row that the oracle finds to exploit its grader.

    An upper bound and no method: whoever has the oracle's label could reward by it. Source: the
    benchmark's ground-truth penalty (ariahw/rl-rewardhacking), where 3.0 leaves a hack the .5 that
    an honest failure gets. Deviation: advantages are not divided by their standard deviation
    (model/loss.py), teacher rows are penalised like the student's.
    """
    return rewards - cfg.gt_penalty * (seen.exploited & seen.valid).to(rewards)


def group_z(scores: Tensor, valid: Tensor) -> Tensor:
    """(s - mean) / max(std, 0.1) within each group, (P, G): over its valid rows, 0 for others and
    for those at the mean (`TIE`)."""
    count = valid.sum(1, keepdim=True)
    mean = torch.where(valid, scores, 0.0).sum(1, keepdim=True) / count.clamp_min(1)
    off = torch.where(valid, scores - mean, 0.0)
    std = (off.square().sum(1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    z = off / std.clamp_min(STD_FLOOR)
    return torch.where(z.abs() < TIE, 0.0, z)


def adv_mod(rewards: Tensor, seen: Seen, cfg: Config) -> Tensor:
    """Advantage Modification (Wu & Tang 2026, arXiv 2604.01476): rows whose hidden state lies
    further along a concept direction than their group's are paid less.

    With z the score within its group (`group_z`) and alpha = `adv_mod_alpha`:
    - multiplicative: R' = R (1 - alpha sigmoid(z)) where z > 0. From alpha 1 on it takes all and
      more: at 2 the factor is -tanh(z / 2), so that about half of every group is paid nothing or
      less, whatever the direction means. Hence `adv_mod_random`.
    - additive: R' = R - alpha max(z, 0).
    A row that was cut is out of its group's mean and deviation and is not penalised.

    Deviations: the direction is made of the run's contrast pairs (prompt and code), not of 60
    sentences about shortcuts, so that it knows what V knows; the score is taken at the last token
    of prompt and completion (the paper writes the prompt's last token, which all rows of a group
    share) and cut rows are left out; advantages are Dr.GRPO's, not divided by the group's standard
    deviation (model/loss.py).
    """
    if seen.scores is None:
        raise ValueError("adv_mod needs the scores of the rows")
    z = group_z(seen.scores, seen.valid & seen.terminated).to(rewards)
    return ADV_MOD_FORMS[cfg.adv_mod_form](rewards, z, cfg.adv_mod_alpha)


def _multiplicative(rewards: Tensor, z: Tensor, alpha: float) -> Tensor:
    return rewards * (1 - alpha * torch.sigmoid(z) * (z > 0))


def _additive(rewards: Tensor, z: Tensor, alpha: float) -> Tensor:
    return rewards - alpha * torch.relu(z)


ADV_MOD_FORMS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "multiplicative": _multiplicative,
    "additive": _additive,
}
"""adv_mod_form -> (rewards, z, alpha) -> rewards."""

REWARDS: dict[str, Reward] = {
    "grade": keep_reward,
    "gt_penalty": gt_penalty,
    "adv_mod": adv_mod,
}
"""Arm.reward -> what makes of the grader's rewards those that advantages are made of."""
