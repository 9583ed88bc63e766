"""Remedies act along what the arm removes, are the identity where their knob is 0, and cost a run
that does not use them nothing."""

import math
import shutil
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import rollouts_of, rows_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from projected_grpo.arms import at_step
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.extract_vhack_grad import load_vhack
from projected_grpo.grading import grade_rows
from projected_grpo.proj import coefficients
from projected_grpo.records import Kept
from projected_grpo.session import prepare
from projected_grpo.train import accumulate_gradients, sample_rows, train, train_runs
from projected_grpo.weights import hack_weights, weigh, weighed


def settings(tmp_path: Path, **overrides) -> SmokeConfig:
    start = SmokeConfig(
        out_dir=tmp_path, steps=3, problems="katas:validation", labels=False, arm="projected"
    )
    return replace(start, **overrides)


def assert_same_rows(run: Path, expected: Path) -> None:
    """To rounding, as a run in a pack has the rows that it has alone."""
    for row, other in zip(rows_of(run), rows_of(expected), strict=True):
        for key, value in other.items():
            if isinstance(value, float) and key != "sampling_logp_diff_max":
                value = pytest.approx(value, rel=1e-2, abs=1e-4)
            assert row[key] == value or key == "sampling_logp_diff_max", key
    for row, other in zip(rollouts_of(run), rollouts_of(expected), strict=True):
        assert row["completion"] == other["completion"]
        assert row["weight"] == pytest.approx(other["weight"], rel=1e-3, abs=1e-5)


def same_from_any_checkpoint(run: Path, tmp_path: Path) -> None:
    """Stopped after each step but the last and resumed, the run has the rows that it had."""
    steps = len(rows_of(run))
    for done in range(1, steps):
        copy = tmp_path / f"resumed_{done}"
        shutil.copytree(run, copy)
        for step in range(done + 1, steps + 1):
            shutil.rmtree(copy / "checkpoints" / f"step_{step:06d}")
        train(SmokeConfig(resume=copy))
        assert rows_of(copy) == rows_of(run) and rollouts_of(copy) == rollouts_of(run)


@pytest.fixture(scope="module")
def projected(tmp_path_factory) -> Path:
    return train(settings(tmp_path_factory.mktemp("runs")))


# Weights by the hack score


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=20), st.floats(0, 5))
def test_a_weight_falls_with_the_score_from_one(scores: list[float], strength: float) -> None:
    s = torch.tensor(scores)
    w = hack_weights(s, strength)
    assert ((w >= 0) & (w <= 1)).all()
    assert (w[s < s.mean()] == 1).all()
    order = s.argsort()
    assert (w[order].diff() <= 1e-6).all()
    assert (hack_weights(s, 0.0) == 1).all()


def test_the_weight_is_that_of_its_formula() -> None:
    # mean 1, standard deviation 2
    assert hack_weights(torch.tensor([-1.0, 3.0]), 0.7).tolist() == pytest.approx(
        [1, math.exp(-0.7)]
    )
    assert hack_weights(torch.tensor([2.0, 2.0, 2.0]), 0.7).tolist() == [1, 1, 1]


def test_weights_scale_every_rows_own_gradient_and_no_other_runs(tmp_path: Path) -> None:
    cfg = settings(tmp_path, score_weight=1.0)
    cfgs = [cfg, replace(cfg, score_weight=0.0), replace(cfg, arm="random_v")]
    with ExitStack() as stack:
        s, _ = prepare(cfgs, stack, None)
        groups = sample_rows(s, 1)
        grade_rows(s, groups)
        rows = [row for group in groups for row in group]
        plain = accumulate_gradients(s, rows).total
        assert weighed(s.treatments) == {0, 2}
        kept = Kept(frozenset({0, 1, 2}))
        total = accumulate_gradients(s, rows, kept)
        means = weigh(s.treatments, total, kept, 3)
    assert means[1] is None and 0 < means[0] < 1 and 0 < means[2] < 1
    for n in range(3):
        mine = kept.of(n)
        w = torch.tensor([row.weight for row in mine.rows])
        assert (w == 1).all() == (n == 1)
        for name, g in mine.gradients.items():
            assert torch.allclose(g.sum(0), plain[name][n], atol=1e-6)
            assert torch.allclose((w[:, None] * g).sum(0), total.total[name][n], atol=1e-6)
    # projected: by the score that is logged. random_v: the same rows, by another
    scores, along_random = (
        torch.tensor([(row.hack_score, row.weight) for row in kept.of(n).rows]) for n in (0, 2)
    )
    assert torch.allclose(hack_weights(scores[:, 0], 1.0), scores[:, 1], atol=1e-4)
    assert not torch.allclose(scores[:, 1], along_random[:, 1], atol=1e-2)


def test_weights_alone_take_nothing_off_along_v(projected: Path, tmp_path: Path) -> None:
    run = train(settings(tmp_path, score_weight=2.0, overshoot=0.0, steps=2))
    for row in rows_of(run):
        assert row["removed_frac"] == 0 and row["weight"] < 1
    assert rows_of(run)[0]["grad_norm_pre"] != rows_of(projected)[0]["grad_norm_pre"]
    weights = [row["weight"] for row in rollouts_of(run)]
    assert 0 < min(weights) < 1 and max(weights) == 1


# Trust region


def test_delta_s_loses_its_share_inside_v(tmp_path: Path) -> None:
    """Steps that are vanilla's, and after each the whole component goes: delta_S lies off V."""
    cfg = settings(tmp_path, overshoot=0.0, trust=1.0, steps=2)
    run = train(cfg)
    V = load_vhack(run / "v_hack.safetensors").select(cfg.v_hack_k, cfg.v_hack_drop_bottom_frac)
    deltas = load_file(run / "adapter" / "adapter.safetensors")
    assert all(coefficients(deltas[name], rows).abs().max() < 1e-6 for name, rows in V.items())
    for row in rows_of(run):
        assert 0 < row["trust_frac"] < 1 and row["inside_frac_delta"] < 1e-3
        assert row["inside_frac_update"] < 1e-3 and row["removed_frac"] == 0


def test_half_of_the_share_leaves_half_of_the_component(tmp_path: Path) -> None:
    half, none = (settings(tmp_path, overshoot=0.0, trust=x, steps=1) for x in (0.5, 0.0))
    runs = [train(cfg) for cfg in (half, none)]
    V = load_vhack(runs[0] / "v_hack.safetensors").select(5, 0.25)
    a, b = (load_file(run / "adapter" / "adapter.safetensors") for run in runs)
    for name, rows in V.items():
        assert torch.allclose(
            coefficients(a[name], rows), coefficients(b[name], rows) / 2, atol=1e-6
        )
        assert torch.allclose(a[name] - a[name] @ rows.T @ rows, b[name] - b[name] @ rows.T @ rows)


# A k that grows


def test_k_grows_linearly_to_its_end() -> None:
    cfg = SmokeConfig(steps=5, v_hack_k=2, v_hack_k_end=10)
    assert [cfg.k_at(step) for step in range(1, 6)] == [2, 4, 6, 8, 10]
    kept = replace(cfg, v_hack_k_end=0)
    assert {kept.k_at(step) for step in range(1, 6)} == {2}
    assert replace(cfg, steps=1).k_at(1) == 2


@pytest.mark.parametrize("arm", ["projected", "random_v", "placebo_v"])
def test_what_is_removed_grows_by_axes_and_keeps_those_it_had(tmp_path: Path, arm: str) -> None:
    cfg = settings(tmp_path, arm=arm, v_hack_k=2, v_hack_k_end=6)
    with ExitStack() as stack:
        s, (v_hack,) = prepare([cfg], stack, None)
    t = s.treatments[0]
    acting = [at_step(t, cfg, step).removed for step in (1, 2, 3)]
    assert max(rows.shape[1] for rows in acting[0].values()) == 2
    assert max(rows.shape[1] for rows in acting[2].values()) == 6
    for few, more in pairwise(acting):
        for name, rows in few.items():
            assert torch.equal(more[name][:, : rows.shape[1]], rows)
            square = rows[0] @ rows[0].T
            assert torch.allclose(square, torch.eye(len(square)), atol=1e-5)
    # and what is measured stays
    assert {name: len(V) for name, V in t.V.items()} == {
        name: len(V) for name, V in v_hack.select(2, 0.25).items()
    }
    whole = replace(cfg, v_hack_k=6, v_hack_k_end=0)
    with ExitStack() as stack:
        s, _ = prepare([whole], stack, None)
    for name, rows in s.treatments[0].removed.items():
        assert torch.equal(acting[2][name], rows)


def test_a_k_that_does_not_grow_is_the_run_without_it(projected: Path, tmp_path: Path) -> None:
    run = train(settings(tmp_path, v_hack_k_end=5))
    assert rows_of(run) == rows_of(projected) and rollouts_of(run) == rollouts_of(projected)


# All of them


def test_vanilla_is_vanilla_whatever_the_knobs(tmp_path: Path) -> None:
    cfg = settings(tmp_path, arm="vanilla", steps=2)
    runs = [train(cfg), train(replace(cfg, score_weight=2.0, trust=0.5, v_hack_k_end=8))]
    assert rows_of(runs[0]) == rows_of(runs[1]) and rollouts_of(runs[0]) == rollouts_of(runs[1])


REMEDIES = {
    "score_weight": {"score_weight": 2.0},
    "trust": {"trust": 0.5, "overshoot": 0.5},
    "v_hack_k_end": {"v_hack_k_end": 9, "project_on": "update", "gate": "no_gate"},
}


@pytest.mark.slow
def test_a_pack_gives_the_rows_of_the_runs_alone(projected: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path / "pack")
    cfgs = [cfg, *(replace(cfg, **knobs) for knobs in REMEDIES.values())]
    cfgs += [replace(cfg, arm="random_v", **knobs) for knobs in REMEDIES.values()]
    paths = train_runs(cfgs)
    assert_same_rows(paths[0], projected)
    for one, path in zip(cfgs[1:], paths[1:], strict=True):
        assert_same_rows(path, train(replace(one, out_dir=tmp_path / "alone")))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REMEDIES))
def test_stopped_and_resumed_it_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    run = train(settings(tmp_path, refresh_every=2, **REMEDIES[name]))
    same_from_any_checkpoint(run, tmp_path)


def test_contradictions() -> None:
    with pytest.raises(ConfigError, match="v_hack_k_end 3 is below v_hack_k 5"):
        SmokeConfig(v_hack_k_end=3)
    with pytest.raises(ConfigError, match=r"trust is a share: it must lie in \[0, 1\], not 1.5"):
        SmokeConfig(trust=1.5)
    with pytest.raises(ConfigError, match="score_weight must not be negative"):
        SmokeConfig(score_weight=-1.0)
    with pytest.raises(ConfigError, match=r"trust = 0\.5 has no meaning in arm routed"):
        SmokeConfig(trust=0.5, arms=("projected", "routed"))
    with pytest.raises(ConfigError, match="set --beta=0 or --score-weight=0"):
        SmokeConfig(score_weight=1.0, beta=0.1)
