"""Arms: what a run does to its gradient. Variants are data; the loop never asks which arm it runs.

Every arm of one seed shares prompts, pool draws and sampling seeds, and logs its alignment with the
measured hack basis, so `vanilla` is also the measurement that the others are compared with.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from projected_grpo.proj import Basis, random_orthonormal
from projected_grpo.seeds import stream_seed


def _nothing(v_hack: Basis, seed: int) -> dict[str, Tensor]:
    return {}


def _v_hack(v_hack: Basis, seed: int) -> dict[str, Tensor]:
    return dict(v_hack)


def _random(v_hack: Basis, seed: int) -> dict[str, Tensor]:
    basis: dict[str, Tensor] = {}
    for name, V in v_hack.items():
        generator = torch.Generator().manual_seed(stream_seed("random_v", seed, name))
        basis[name] = random_orthonormal(V.shape[0], V.shape[1], generator).to(V)
    return basis


@dataclass(frozen=True, slots=True)
class Arm:
    """One treatment. The defaults are the identity, which is vanilla GRPO."""

    meaning: str
    basis: Callable[[Basis, int], dict[str, Tensor]] = _nothing
    """(measured hack basis, seed) -> the basis that is projected out; an empty one projects
    nothing."""


ARMS: dict[str, Arm] = {
    "vanilla": Arm("plain GRPO"),
    "projected": Arm("the hack directions are projected out", _v_hack),
    "random_v": Arm(
        "control: random orthonormal rows, as many in each module as the hack basis has", _random
    ),
}
