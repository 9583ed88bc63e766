"""Arm routed: what is removed goes to a second vector that acts in training and nowhere else."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import rollouts_of, rows_of
from safetensors.torch import load_file
from short_runs import SHORT, copied, trained

from projected_grpo.arms.arms import require_arms
from projected_grpo.arms.quarantine import quarantine_for
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.env.problems.load import load_problems
from projected_grpo.extract_vhack_grad import load_vhack
from projected_grpo.runs.evaluate import EvalPlan, evaluate
from projected_grpo.runs.session import prepare
from projected_grpo.train import train, train_runs


def settings(tmp_path: Path, **overrides) -> SmokeConfig:
    return replace(SHORT, **{"out_dir": tmp_path, "arm": "routed", **overrides})


def delta_of(run: Path, part: str = "adapter") -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / f"{part}.safetensors")


@pytest.mark.parametrize("project_on", ["grad", "update"])
def test_routing_nothing_is_vanilla_bit_for_bit(tmp_path: Path, project_on: str) -> None:
    cfg = settings(tmp_path, overshoot=0.0, project_on=project_on)
    run, plain = train(cfg), trained(replace(cfg, arm="vanilla"))
    assert rows_of(run) == rows_of(plain) and rollouts_of(run) == rollouts_of(plain)
    assert not (run / "adapter" / "quarantine.safetensors").exists()


def test_on_the_update_both_vectors_together_are_vanilla(tmp_path: Path) -> None:
    """Training is vanilla's; what is deployed lies off V, what is not lies in it."""
    cfg = settings(tmp_path, project_on="update", gate="no_gate")
    run, plain = train(cfg), trained(SHORT)
    kept, other, both = delta_of(run), delta_of(run, "quarantine"), delta_of(plain)
    V = load_vhack(run / "v_hack.safetensors").select(cfg.v_hack_k, cfg.v_hack_drop_bottom_frac)
    for name, delta in both.items():
        assert torch.allclose(kept[name] + other[name], delta, atol=1e-6)
        inside = other[name] @ V[name].T @ V[name] if name in V else torch.zeros_like(delta)
        assert torch.allclose(other[name], inside, atol=1e-6)
        assert name not in V or (kept[name] @ V[name].T).abs().max() < 1e-6
    for a, b in zip(rollouts_of(run), rollouts_of(plain), strict=True):
        assert a["completion"] == b["completion"]


def test_on_the_gradient_the_kept_vector_starts_as_the_projected_arms(tmp_path: Path) -> None:
    cfg = settings(tmp_path, steps=1)
    run, projected = train(cfg), trained(replace(cfg, arm="projected"))
    kept, same, other = delta_of(run), delta_of(projected), delta_of(run, "quarantine")
    assert all(torch.equal(kept[name], same[name]) for name in same)
    assert any(value.any() for value in other.values())


def test_without_its_quarantine_the_policy_is_that_of_delta_s(tmp_path: Path) -> None:
    with ExitStack() as stack:
        s, _ = prepare([settings(tmp_path)], stack)
        g = torch.Generator().manual_seed(0)
        ids = torch.arange(1, 30)[None]

        def logits() -> torch.Tensor:
            with torch.no_grad(), s.adapter.rows(torch.zeros(1, dtype=torch.long)):
                return s.lm.model(input_ids=ids).logits

        with torch.no_grad():
            for delta in s.adapter.delta_S.values():
                delta.copy_(0.1 * torch.randn(delta.shape, generator=g))
        s.adapter.fold()
        kept = logits()
        plan = EvalPlan(modes=["run_tests"], samples=2, max_new=24)
        problems = load_problems("katas:validation", 1)
        before = evaluate(s.lm, s.adapter, problems, plan, s.grader)
        with torch.no_grad():
            for value in s.adapter.quarantine.values():
                value.copy_(0.1 * torch.randn(value.shape, generator=g))
        s.adapter.fold()
        full = logits()
        assert (full - kept).abs().max() > 1e-2
        with s.adapter.ablate():
            assert torch.equal(logits(), kept)
        assert torch.equal(logits(), full)
        assert evaluate(s.lm, s.adapter, problems, plan, s.grader) == before
        assert torch.equal(
            s.adapter.merge().get_submodule(name := next(iter(s.adapter.modules))).weight,
            s.adapter.modules[name].weight + s.adapter.modules[name].get_delta_weight(0),
        )


def test_runs_that_do_not_route_are_left_alone(tmp_path: Path) -> None:
    """A pack: the step of the second vector is zero where the arm does not route."""
    cfgs = [settings(tmp_path), settings(tmp_path, arm="projected", lr=1e-3)]
    with ExitStack() as stack:
        s, _ = prepare(cfgs, stack)
    assert quarantine_for(s.adapter, cfgs[1:]) is None and s.quarantine is not None
    ones = {name: torch.ones_like(p) for name, p in s.adapter.delta_S.items()}
    s.quarantine.step(ones, ones, lr=[3e-3, 1e-3], grad_clip=1.0)
    for value in s.quarantine.values.values():
        # AdamW's first step is the rate, and the whole of what was moved
        assert torch.allclose(value[0], torch.full_like(value[0], -1.003), atol=1e-4)
        assert not value[1].any()


def test_stopped_and_resumed_it_gives_the_same_rows(tmp_path: Path) -> None:
    whole = train(settings(tmp_path, steps=3, project_on="both"))
    stopped = copied(whole, tmp_path / "stopped", steps=2)
    train(SmokeConfig(resume=stopped))
    assert rows_of(stopped) == rows_of(whole)
    for part in ("adapter", "quarantine"):
        mine, expected = delta_of(stopped, part), delta_of(whole, part)
        assert all(torch.equal(mine[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_pack_gives_the_rows_of_the_runs_alone_and_any_goes_on_alone(tmp_path: Path) -> None:
    cfg = settings(tmp_path / "pack", arms=("routed", "projected", "vanilla"), steps=2)
    for one, path in zip(cfg.runs(), train_runs(cfg.runs()), strict=True):
        alone = train(replace(one, out_dir=tmp_path / "alone", steps=3))
        config = (path / "config.json").read_text().replace('"steps": 2', '"steps": 3')
        (path / "config.json").write_text(config)
        train(SmokeConfig(resume=path))
        for row, expected in zip(rows_of(path), rows_of(alone), strict=True):
            for key, value in expected.items():
                if isinstance(value, float) and key != "sampling_logp_diff_max":
                    assert row[key] == pytest.approx(value, rel=1e-2, abs=1e-4), key
        made = (path / "checkpoints" / "step_000002" / "quarantine.safetensors").exists()
        assert made == (one.arm == "routed")


@pytest.mark.slow
def test_v_is_extracted_again_from_the_policy_without_its_quarantine(tmp_path: Path) -> None:
    """Two vectors that are vanilla's together, so a V of the whole policy would be vanilla's."""
    cfg = settings(tmp_path, project_on="update", gate="no_gate", steps=3, refresh_every=2)
    run, plain = train(cfg), train(replace(cfg, arm="vanilla"))
    ours, theirs = rows_of(run)[2], rows_of(plain)[2]
    assert abs(ours["v_overlap"] - theirs["v_overlap"]) > 1e-4


def test_what_would_be_put_back_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave --preserve-magnitude out"):
        require_arms(settings(tmp_path, preserve_magnitude=True))
    with pytest.raises(ConfigError, match="leave --preserve-magnitude out"):
        both = settings(tmp_path, arm="vanilla", arms=("vanilla", "routed"))
        require_arms(replace(both, preserve_magnitude=True))
