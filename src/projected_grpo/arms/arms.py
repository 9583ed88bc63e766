"""Arms: what a run does to its gradient, its rewards or its prompts. Variants are data; the loop
never asks which arm it runs.

Every arm of one seed shares prompts, pool draws and sampling seeds, and logs its alignment with the
measured hack basis, so `vanilla` is also the measurement that the others are compared with.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from projected_grpo.arms.concept import itself, random_direction
from projected_grpo.arms.rewards import Reward, adv_mod, gt_penalty, unchanged
from projected_grpo.config import Config, ConfigError, stream_seed
from projected_grpo.extract_vhack_grad import Sides, hack_minus_clean, without_labels
from projected_grpo.proj import Basis, random_orthonormal

PLACEBO = {"builtin": "placebo", "katas": "katas-placebo"}
"""Pairs -> the set whose sides are both clean, on the same tasks."""


def _nothing(v: Basis, seed: int) -> dict[str, Tensor]:
    return {}


def _itself(v: Basis, seed: int) -> dict[str, Tensor]:
    """The directions given. Source: grpo_proj2; deviation: AdamW's step can be projected too."""
    return dict(v)


def _random(v: Basis, seed: int) -> dict[str, Tensor]:
    """module -> as many random orthonormal rows (k, r). Source: the design's random V, section 4;
    deviation: V's singular values and signs have no counterpart, and a refresh draws no others."""
    basis: dict[str, Tensor] = {}
    for name, V in v.items():
        generator = torch.Generator().manual_seed(stream_seed("random_v", seed, name))
        basis[name] = random_orthonormal(V.shape[0], V.shape[1], generator).to(V)
    return basis


def _random_unit(v: Basis, seed: int) -> dict[str, Tensor]:
    """module -> one random unit vector (1, r). Source: the design's norm-matched vanilla (section
    4); deviation: that has no direction, this one is the same at every step (docs/method.md)."""
    basis: dict[str, Tensor] = {}
    for name, V in v.items():
        generator = torch.Generator().manual_seed(stream_seed("norm_matched", seed, name))
        basis[name] = random_orthonormal(1, V.shape[1], generator).to(V)
    return basis


def placebo_of(pairs: str) -> str:
    """The placebo set of a set of pairs. Raises ConfigError where it has none."""
    if pairs not in PLACEBO:
        raise ConfigError(
            f"--pairs={pairs} has no placebo pairs on the same tasks, of which placebo_v is made: "
            f"only {' and '.join(PLACEBO)} have"
        )
    return PLACEBO[pairs]


Messages = tuple[dict[str, str], ...]


def as_written(messages: Messages, cfg: Config) -> Messages:
    """The prompt as it is evaluated."""
    return messages


def inoculated(messages: Messages, cfg: Config) -> Messages:
    """The prompt with a sentence at the end of its system turn that permits the hack.

    Source: inoculation prompting (Tan et al. 2025, arXiv 2510.04340), for reinforcement learning as
    in the benchmark's own arm (ariahw/rl-rewardhacking): a hack that the prompt asked for should
    not be learned as what to do without it. Deviations: the sentence is ours and permits where
    theirs instructs; the loophole's hint stays in the prompt. `hack_s` of this arm is that under
    the sentence: judge it by an evaluation, which never has it.
    """
    return _at_end_of_system(messages, cfg.inoculation)


def inoculated_neutrally(messages: Messages, cfg: Config) -> Messages:
    """The prompt with a sentence in the same place that has nothing to do with it.

    Our own control: any text that a model has not seen in such a prompt perturbs what it does, and
    what `inoculated` does beyond this one is what its sentence says.
    """
    return _at_end_of_system(messages, cfg.inoculation_neutral)


def _at_end_of_system(messages: Messages, sentence: str) -> Messages:
    if not sentence:
        return messages
    if messages[0]["role"] != "system":
        return ({"role": "system", "content": sentence}, *messages)
    system = {**messages[0], "content": f"{messages[0]['content']}\n\n{sentence}"}
    return (system, *messages[1:])


def _hack_minus_clean(sides: Sides, seed: int) -> dict[str, Tensor]:
    return hack_minus_clean(sides)


@dataclass(frozen=True, slots=True)
class Extraction:
    """Where the directions of an arm come from that removes others than the measured ones."""

    pairs: Callable[[str], str] = str
    """The run's set of pairs -> the set that is taken instead."""
    contrast: Callable[[Sides, int], dict[str, Tensor]] = _hack_minus_clean
    """(gradients of the pairs' sides, seed) -> the differences that axes are taken of."""
    by_seed: bool = False
    """Whether the contrast depends on that seed."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One treatment. The defaults are the identity, which is vanilla GRPO."""

    meaning: str
    basis: Callable[[Basis, int], dict[str, Tensor]] = _nothing
    """(basis, seed) -> the basis that is projected out; an empty one projects nothing. What it is
    given is the measured hack basis, or the arm's own where it has an `extraction`."""
    extraction: Extraction | None = None
    turn: Callable[[Basis, int], dict[str, Tensor]] = _nothing
    """(that basis, seed) -> module -> (1, r), about which what is removed is turned away from the
    basis (`proj.turned`); empty: it is not."""
    follows_v: bool = True
    """Whether what is removed is made anew where V is extracted again."""
    reward: Reward = unchanged
    """What advantages are made of (rewards.py)."""
    routes: bool = False
    """Whether what is removed trains a second vector, which is ablated in evaluation
    (quarantine.py)."""
    concept: Callable[[Tensor, int], Tensor] | None = None
    """(the pairs' direction in hidden states, seed) -> the direction along which rows are scored
    for `reward`; None: they are not."""
    messages: Callable[[Messages, Config], Messages] = as_written
    """The prompt as written -> as it is trained on."""


ARMS: dict[str, Arm] = {
    "vanilla": Arm("plain GRPO"),
    "projected": Arm("the hack directions are projected out", _itself),
    "random_v": Arm(
        "control: random orthonormal rows, as many in each module as the first hack basis has",
        _random,
        follows_v=False,
    ),
    "shuffled_v": Arm(
        "control: directions of the same pairs' texts, without a difference of hack and clean",
        _itself,
        Extraction(contrast=without_labels, by_seed=True),
    ),
    "placebo_v": Arm(
        "control: directions of clean against clean pairs on the same tasks",
        _itself,
        Extraction(pairs=placebo_of),
    ),
    "norm_matched": Arm(
        "control: as much is removed as on the hack basis, at the same angle, elsewhere",
        _itself,
        turn=_random_unit,
    ),
    "routed": Arm(
        "rival: what lies along the hack directions trains a quarantine that is not deployed",
        _itself,
        routes=True,
    ),
    "gt_penalty": Arm(
        "upper bound: what the oracle finds to be a hack is paid less",
        reward=gt_penalty,
    ),
    "adv_mod": Arm(
        "rival: rows further along the pairs' direction in hidden states are paid less",
        reward=adv_mod,
        concept=itself,
    ),
    "adv_mod_random": Arm(
        "control of adv_mod: the same along a random direction",
        reward=adv_mod,
        concept=random_direction,
    ),
    "inoculation": Arm(
        "rival: the prompt permits the hack, in training only",
        messages=inoculated,
    ),
    "inoculation_neutral": Arm(
        "control of inoculation: a sentence about nothing in the same place",
        messages=inoculated_neutrally,
    ),
}
