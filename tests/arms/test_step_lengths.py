"""Steps that get as much shorter as their run's gradient does, and AdamW's own scales."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from projected_grpo.arms.arms import require_arms
from projected_grpo.arms.optimizer import adamw, adamw_step, entry_scales
from projected_grpo.arms.treatment import Treatment
from projected_grpo.arms.update import shorten
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.proj import Projection, project, random_orthonormal, squared_norm

N = 4


def drawn(seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(N, 10, generator=g), "b": torch.randn(N, 6, generator=g)}


def treatment(runs: list[int], **settings) -> Treatment:
    """On three axes of module a, in these runs."""
    V = random_orthonormal(3, 10, torch.Generator().manual_seed(0))
    return Treatment(
        runs=torch.tensor(runs), V={"a": V}, first={"a": V},
        removed={"a": V.expand(len(runs), 3, 10)}, turn_axes={}, projection=Projection("no_gate"),
        on_grad=False, on_update=False, **settings,
    )  # fmt: skip


def test_a_step_gets_as_much_shorter_as_the_gradient_and_keeps_its_direction() -> None:
    gradients, steps = drawn(1), drawn(2)
    gradients = {name: g.index_fill(0, torch.tensor([2]), 0.0) for name, g in gradients.items()}
    shortened, as_it_is = treatment([0, 2, 3], shortens=True), treatment([1])
    after = shorten(steps, [shortened, as_it_is], gradients)
    left = project(gradients, shortened.V, Projection("no_gate"))
    factor = (squared_norm(left) / squared_norm(gradients)).sqrt()
    assert 0.1 < factor[0] < 0.99
    for name, step in steps.items():
        for n in (0, 3):
            assert torch.allclose(after[name][n], step[n] * factor[n])
        assert torch.equal(after[name][1], step[1])  # a run that does not ask for it
        assert torch.equal(after[name][2], step[2])  # no gradient, so nothing removed


def test_runs_are_shortened_apart() -> None:
    gradients, steps = drawn(1), drawn(2)
    together = shorten(steps, [treatment([*range(N)], shortens=True)], gradients)
    for n in range(N):
        alone = shorten(steps, [treatment([n], shortens=True)], gradients)
        for name in steps:
            assert torch.allclose(alone[name][n], together[name][n])
            assert torch.equal(alone[name][n - 1], steps[name][n - 1])


def test_without_such_a_run_the_steps_are_as_they_are() -> None:
    steps = drawn(2)
    assert shorten(steps, [treatment([*range(N)])], drawn(1)) is steps


def test_the_scales_are_those_of_adamws_last_step() -> None:
    """step = lr * D * first moment, unbiased."""
    values = {name: nn.Parameter(value) for name, value in drawn(3).items()}
    cfg = SmokeConfig()
    optimizer = adamw(values, cfg)
    for seed in (4, 5, 6):
        gradients = drawn(seed)
        _, stepped = adamw_step(optimizer, values, gradients, [cfg.lr] * N, 1e9)
    D = entry_scales(optimizer, values)
    for name, value in values.items():
        first = optimizer.state[value]["exp_avg"] / (1 - cfg.adam_betas[0] ** 3)
        assert torch.allclose(stepped[name], cfg.lr * D[name] * first, rtol=1e-3, atol=1e-6)


def test_what_a_value_cannot_mean_is_refused() -> None:
    with pytest.raises(ConfigError, match="no_gate"):
        SmokeConfig(arm="projected", project_on="metric", gate="one_sided")
    with pytest.raises(ConfigError, match="preserve_magnitude"):
        SmokeConfig(arm="projected", project_on="metric", gate="no_gate", preserve_magnitude=True)
    for on in ("shortened", "length"):
        with pytest.raises(ConfigError, match="quarantine"):
            require_arms(replace(SmokeConfig(arm="routed"), project_on=on))
