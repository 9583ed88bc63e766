"""Each arm is what its name says; the main control is random and nothing else."""

import pytest
import torch

from projected_grpo.arms import ARMS
from projected_grpo.proj import random_orthonormal


@pytest.fixture(scope="module")
def v_hack() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "a": random_orthonormal(5, 64, g),
        "b": random_orthonormal(3, 64, g),
        "c": torch.eye(5, 64),
    }


def test_vanilla_is_the_identity_and_projected_is_v(v_hack) -> None:
    assert ARMS["vanilla"].basis(v_hack, 1) == {}
    assert ARMS["projected"].basis(v_hack, 1) == v_hack


def test_random_v_has_the_rank_of_v_and_nothing_else_of_it(v_hack) -> None:
    random = ARMS["random_v"].basis(v_hack, 1)
    assert random.keys() == v_hack.keys()
    for name, V in random.items():
        k, r = v_hack[name].shape
        assert V.shape == (k, r) and V.dtype == v_hack[name].dtype
        assert torch.allclose(V @ V.T, torch.eye(k), atol=1e-6)
        overlap = float((V @ v_hack[name].T).square().sum() / k)  # 1 for V itself, k/r by chance
        assert overlap < 4 * k / r


def test_random_v_repeats_for_a_seed_and_differs_between_seeds_and_modules(v_hack) -> None:
    basis = ARMS["random_v"].basis
    first, again, other = basis(v_hack, 1), basis(v_hack, 1), basis(v_hack, 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.allclose(first[name], other[name], atol=0.1) for name in first)
    assert not torch.allclose(first["a"], first["c"], atol=0.1)


def test_every_arm_says_what_it_is() -> None:
    assert all(len(arm.meaning) > 5 for arm in ARMS.values())
