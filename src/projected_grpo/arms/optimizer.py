"""AdamW over vectors with a run axis: (N, r) each, its moments and its clipping run by run."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from projected_grpo.config import Config
from projected_grpo.proj import squared_norm


def adamw(values: Mapping[str, nn.Parameter], cfg: Config) -> torch.optim.AdamW:
    """The AdamW that the settings ask for."""
    return torch.optim.AdamW(
        values.values(), lr=cfg.lr, betas=cfg.adam_betas, weight_decay=cfg.weight_decay
    )


def adamw_step(
    optimizer: torch.optim.Optimizer,
    values: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Tensor],
    lr: Sequence[float],
    grad_clip: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Step `values` along their gradients, clipped run by run; returns what they were, and every
    run's step at its own rate.

    lr (N): AdamW's step is proportional to it, weight decay included, so `values` have stepped at
    the largest; where they differ, the caller takes what is returned instead.
    """
    norm = squared_norm(gradients).sqrt()  # (N,)
    scale = (grad_clip / norm.clamp_min(1e-38)).clamp_max(1.0)[:, None]
    before = {name: value.detach().clone() for name, value in values.items()}
    for name, value in values.items():
        value.grad = gradients[name] * scale
    for settings in optimizer.param_groups:
        settings["lr"] = max(lr)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    stepped = {name: before[name] - value.detach() for name, value in values.items()}
    if min(lr) != max(lr):
        part = torch.tensor(lr, device=norm.device)[:, None] / max(lr)
        stepped = {name: step * part for name, step in stepped.items()}
    return before, stepped


def state_of_run(optimizer: torch.optim.Optimizer, n: int) -> dict[str, Any]:
    """The optimizer's state with the rows of one run only: what that run alone would have."""
    full = optimizer.state_dict()
    state = {
        index: {
            key: value[n : n + 1].clone() if value.ndim == 2 else value
            for key, value in entry.items()
        }
        for index, entry in full["state"].items()
    }
    return {"state": state, "param_groups": full["param_groups"]}


def stack_states(states: Mapping[int, Mapping[str, Any]], n_runs: int) -> dict[str, Any]:
    """The state of the optimizer of `n_runs` runs from what `state_of_run` gave of some of them:
    run -> its state. The moments of all others are zero."""
    one = next(iter(states.values()))

    def rows(index: int, key: str, like: Tensor) -> Tensor:
        if like.ndim != 2:
            return like
        zero = torch.zeros_like(like)
        each = [states[n]["state"][index][key] if n in states else zero for n in range(n_runs)]
        return torch.cat(each)

    state = {
        index: {key: rows(index, key, value) for key, value in entry.items()}
        for index, entry in one["state"].items()
    }
    return {"state": state, "param_groups": one["param_groups"]}
