"""Remedies act along what the arm removes, are the identity where their knob is 0, and cost a run
that does not use them nothing."""

import json
import math
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import assert_same_rollouts, assert_same_rows, rollouts_of, rows_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from short_runs import SHORT, copied, trained

from projected_grpo.arms.advantages import grade_rows
from projected_grpo.arms.arms import require_arms
from projected_grpo.arms.learned_axes import (
    CONTRASTS,
    MOST_CONTRASTS,
    Moments,
    contrasts,
    kinds,
    leading_axes,
    permute_flags,
    strongest_rows,
)
from projected_grpo.arms.row_weights import hack_weights, runs_with_row_weights, weigh_rows
from projected_grpo.arms.rows import Row, RowGradients
from projected_grpo.arms.treatment import treatment_at
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.extract_vhack_grad import load_vhack
from projected_grpo.proj import coefficients, random_orthonormal
from projected_grpo.runs.banner import labels
from projected_grpo.runs.gradients import accumulate_gradients
from projected_grpo.runs.refresh import Refresh
from projected_grpo.runs.sample_rows import sample_rows
from projected_grpo.runs.session import prepare
from projected_grpo.train import current_treatments, train, train_runs


def settings(tmp_path: Path, **overrides) -> SmokeConfig:
    return replace(
        SHORT,
        **{"out_dir": tmp_path, "steps": 3, "arm": "projected", "keep_checkpoints": 0, **overrides},
    )


def same_from_any_checkpoint(run: Path, tmp_path: Path) -> None:
    """Stopped after each step but the last and resumed, the run has the rows that it had."""
    steps = len(rows_of(run))
    for done in range(1, steps):
        copy = copied(run, tmp_path / f"resumed_{done}", steps=done)
        train(SmokeConfig(resume=copy))
        assert rows_of(copy) == rows_of(run) and rollouts_of(copy) == rollouts_of(run)


@pytest.fixture(scope="module")
def projected() -> Path:
    return trained(replace(SHORT, steps=3, arm="projected"))


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
        s, _ = prepare(cfgs, stack)
        groups = sample_rows(s, 1)
        grade_rows(s.cfgs, s.grader, groups, 1)
        rows = [row for group in groups for row in group]
        plain = accumulate_gradients(s, rows).total
        assert runs_with_row_weights(s.treatments) == {0, 2}
        per_row = RowGradients(frozenset({0, 1, 2}))
        total = accumulate_gradients(s, rows, per_row)
        means = weigh_rows(s.treatments, total, per_row, 3)
    assert means[1] is None and 0 < means[0] < 1 and 0 < means[2] < 1
    for n in range(3):
        mine = per_row.of(n)
        w = torch.tensor([row.weight for row in mine.rows])
        assert (w == 1).all() == (n == 1)
        for name, g in mine.gradients.items():
            assert torch.allclose(g.sum(0), plain[name][n], atol=1e-6)
            assert torch.allclose((w[:, None] * g).sum(0), total.total[name][n], atol=1e-6)
    # projected: by the score that is logged. random_v: the same rows, by another
    scores, along_random = (
        torch.tensor([(row.hack_score, row.weight) for row in per_row.of(n).rows]) for n in (0, 2)
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
    runs = [trained(cfg) for cfg in (half, none)]
    V = load_vhack(runs[0] / "v_hack.safetensors").select(5, 0.25)
    a, b = (load_file(run / "adapter" / "adapter.safetensors") for run in runs)
    for name, rows in V.items():
        assert torch.allclose(
            coefficients(a[name], rows), coefficients(b[name], rows) / 2, atol=1e-6
        )
        assert torch.allclose(a[name] - a[name] @ rows.T @ rows, b[name] - b[name] @ rows.T @ rows)


# A k that grows


@pytest.mark.slow
def test_random_axes_that_are_refreshed_and_trusted_are_random_axes(tmp_path: Path) -> None:
    """So experiment.py runs them once: they are not made anew, and nothing is inside their span."""
    start = settings(
        tmp_path, arm="random_v", gate="no_gate", project_on="update", steps=4, v_hack_k=4
    )
    both = train_runs([start, replace(start, refresh_every=2, trust=1.0)])
    plain, refreshed = map(rows_of, both)
    for a, b in zip(plain, refreshed, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5, abs=1e-7)
        assert a["removed_frac_update"] == pytest.approx(b["removed_frac_update"], rel=1e-4)
        assert b["trust_frac"] is None or b["trust_frac"] < 1e-5
    first, second = (load_file(run / "adapter" / "adapter.safetensors") for run in both)
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-6), name
    assert rollouts_of(both[0])[-1]["completion"] == rollouts_of(both[1])[-1]["completion"]


def test_k_grows_linearly_to_its_end() -> None:
    cfg = SmokeConfig(steps=5, v_hack_k=2, v_hack_k_end=10)
    assert [cfg.k_at(step) for step in range(1, 6)] == [2, 4, 6, 8, 10]
    same = replace(cfg, v_hack_k_end=0)
    assert {same.k_at(step) for step in range(1, 6)} == {2}
    assert replace(cfg, steps=1).k_at(1) == 2


@pytest.mark.parametrize("arm", ["projected", "random_v", "placebo_v"])
def test_what_is_removed_grows_by_axes_and_keeps_those_it_had(tmp_path: Path, arm: str) -> None:
    cfg = settings(tmp_path, arm=arm, v_hack_k=2, v_hack_k_end=6)
    with ExitStack() as stack:
        s, (v_hack,) = prepare([cfg], stack)
    t = s.treatments[0]
    acting = [treatment_at(t, [cfg], step).removed for step in (1, 2, 3)]
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
        s, _ = prepare([whole], stack)
    for name, rows in s.treatments[0].removed.items():
        assert torch.equal(acting[2][name], rows)


def test_a_k_that_does_not_grow_is_the_run_without_it(projected: Path, tmp_path: Path) -> None:
    run = train(settings(tmp_path, v_hack_k_end=5))
    assert rows_of(run) == rows_of(projected) and rollouts_of(run) == rollouts_of(projected)


# Axes learned from the run's own rows


def row(mode: str = "run_tests", source: str = "student", problem: int = 0, **grade) -> Row:
    made = Row(SimpleNamespace(id=problem, mode=mode), source, [], [], True, None, "")
    made.grade = SimpleNamespace(outcome=Outcome.PASSED, attempted=False, passed=False, **grade)
    return made


def test_the_detector_knows_nothing_of_unknown_modes_nor_of_the_oracle() -> None:
    hack, honest, failed = (row() for _ in range(3))  # a grade without gt_correct, exploited
    hack.grade.attempted = hack.grade.passed = honest.grade.passed = True
    broken, foreign, teacher = row(), row("sentinel"), row(source="teacher")
    broken.grade.outcome = Outcome.INFRA_ERROR
    foreign.grade.attempted = teacher.grade.attempted = True
    rows = [hack, honest, failed, broken, foreign, teacher]
    assert kinds(rows, ["run_tests"]) == ["hack", "honest", "other", None, None, None]
    assert kinds(rows, []) == ["hack", "honest", "other", None, "hack", None]
    assert kinds(rows, ["sentinel"]) == [None] * 4 + ["hack", None]


def test_flagged_rows_are_compared_with_the_right_ones() -> None:
    rows = [row(problem=p) for p in (1, 1, 1, 2, 2, 3)]
    flags = ["hack", "honest", "other", "hack", "other", "honest"]
    assert CONTRASTS["step"].pairing(rows, flags) == [(0, [1, 2, 4, 5]), (3, [1, 2, 4, 5])]
    assert CONTRASTS["problem"].pairing(rows, flags) == [(0, [1])]
    assert CONTRASTS["step"].pairing(rows, ["hack"] * 6) == []
    g = torch.Generator().manual_seed(1)
    for name, how in CONTRASTS.items():
        dealt = permute_flags(rows, [*flags[:5], None], how.unit, g)
        assert sorted(dealt[:5]) == sorted(flags[:5]) and dealt[5] is None
        assert name == "step" or sorted(dealt[3:5]) == sorted(flags[3:5])


def test_a_contrast_is_the_difference_of_nll_gradients() -> None:
    """The row's loss gradient over its advantage, whichever sign that has."""
    g = torch.Generator().manual_seed(0)
    nll = torch.randn(3, 5, generator=g)
    rows = [row() for _ in range(3)]
    for one, advantage in zip(rows, (2.0, -0.5, 1.5), strict=True):
        one.advantage = advantage
    rows[0].grade.attempted = True
    scaled = nll * torch.tensor([[2.0], [-0.5], [1.5]])
    per_row = RowGradients(frozenset({0}), rows, {"m": scaled, "n": 3 * scaled})
    expected = nll[0] - (nll[1] + nll[2]) / 2
    D = contrasts(per_row, SmokeConfig(running_k=1), 1)
    assert torch.allclose(D["m"][0], expected, atol=1e-6)
    unit = contrasts(per_row, SmokeConfig(running_k=1, pair_norm="unit"), 1)
    assert float(unit["m"].norm() ** 2 + unit["n"].norm() ** 2) == pytest.approx(1, abs=1e-5)
    many = RowGradients(frozenset({0}), [*rows] * 20, {"m": torch.cat([scaled] * 20)})
    assert len(contrasts(many, SmokeConfig(running_k=1), 1)["m"]) == MOST_CONTRASTS


def test_the_axes_are_the_top_singular_vectors_off_v() -> None:
    g = torch.Generator().manual_seed(0)
    D = torch.randn(20, 30, generator=g) * torch.linspace(1, 0.1, 30)
    few = strongest_rows(D, 20)
    assert torch.allclose(few.T @ few, D.double().T @ D.double())
    V = random_orthonormal(4, 30, g)
    towards = D.sum(0)
    axes = leading_axes(D, V, 3, towards).float()
    _, _, expected = torch.linalg.svd(D - D @ V.T @ V)
    assert torch.allclose((axes @ expected[:3].T).abs(), torch.eye(3), atol=1e-4)
    assert (axes @ V.T).abs().max() < 1e-6 and ((axes @ towards) > 0).all()
    assert len(leading_axes(V[:2], V, 3, towards)) == 0  # all of it is in V
    padded = torch.cat([V, torch.zeros(2, 30)])
    assert torch.equal(leading_axes(D, padded, 3, towards), leading_axes(D, V, 3, towards))


@pytest.fixture
def flagged(monkeypatch) -> None:
    """The tiny model never hacks: its rows are flagged by their length."""

    def by_length(rows, known_modes):
        return [
            None if r.source == "teacher" else ("other", "hack", "honest")[len(r.text) % 3]
            for r in rows
        ]

    monkeypatch.setattr("projected_grpo.arms.learned_axes.kinds", by_length)


RUNNING = {
    "running": {"running_k": 3},
    "own_hacks": {
        **{"running_k": 3, "running_every": 2, "running_contrast": "problem"},
        **{"running_replaces": True, "pair_norm": "unit"},
    },
}


def test_learned_axes_act_from_the_next_step_on(
    flagged: None, projected: Path, tmp_path: Path
) -> None:
    run = train(settings(tmp_path, running_k=3, group=8, steps=2))
    plain = trained(settings(tmp_path, group=8, steps=2))
    rows, other = rows_of(run), rows_of(plain)
    assert rows[0]["running_rows"] > 0 and other[0]["running_rows"] is None
    mine = {k: v for k, v in rows[0].items() if not k.startswith("running")}
    assert mine == {k: v for k, v in other[0].items() if not k.startswith("running")}
    assert rows[1]["removed_frac"] > other[1]["removed_frac"]
    state = load_file(run / "checkpoints" / "step_000001" / "running.safetensors")
    V = load_vhack(run / "v_hack.safetensors").select(5, 0.25)
    for name, basis in V.items():
        axes = state[f"axes.{name}"]
        assert len(axes) == 3 and (axes @ basis.T).abs().max() < 1e-5
        assert torch.allclose(axes @ axes.T, torch.eye(3), atol=1e-5)
    permuted_run = train(settings(tmp_path, running_k=3, group=8, steps=2, running_permuted=True))
    dealt = rows_of(permuted_run)
    assert dealt[0]["running_rows"] == rows[0]["running_rows"]
    assert dealt[1]["removed_frac"] != rows[1]["removed_frac"]


def test_without_a_flagged_row_it_is_projected(projected: Path, tmp_path: Path) -> None:
    run = train(settings(tmp_path, running_k=3))
    for mine, other in zip(rows_of(run), rows_of(projected), strict=True):
        assert mine == {**other, "running_rows": 0}
    off = train(settings(tmp_path, running_decay=0.5, running_contrast="problem"))
    assert rows_of(off) == rows_of(projected)


def test_they_take_the_place_of_v_once_enough_was_seen(flagged: None, tmp_path: Path) -> None:
    cfg = settings(tmp_path, running_k=3, running_replaces=True, group=8)
    with ExitStack() as stack:
        s, _ = prepare([cfg], stack)
    few, more = ({name: torch.eye(n, p.shape[1]) for name, p in s.adapter.delta_S.items()}
                 for n in (2, 3))  # fmt: skip
    for rows in (few, more):
        s.learned_axes.moments[0] = Moments(rows, {name: D[0] for name, D in rows.items()})
        s.learned_axes.make_axes(s.treatments[0])
        t = s.learned_axes.with_axes(s.treatments[0])
        if rows is few:
            assert t is s.treatments[0]
        else:
            assert t.removed.keys() == s.adapter.delta_S.keys()
            for name, axes in t.removed.items():
                assert torch.allclose(axes[0].T @ axes[0], rows[name].T @ rows[name], atol=1e-6)


def test_v_stays_until_axes_are_made_of_enough(flagged: None, tmp_path: Path) -> None:
    cfg = settings(tmp_path, running_k=8, running_every=10, running_replaces=True)
    with ExitStack() as stack:
        s, _ = prepare([cfg], stack)
    (V,), moments = s.treatments, s.learned_axes.moments[0]
    g = torch.Generator().manual_seed(0)
    for step, seen in ((10, 1), (12, 9), (20, 9)):
        for name, p in s.adapter.delta_S.items():
            moments.rows[name] = torch.randn(seen, p.shape[1], generator=g)
            moments.mean[name] = moments.rows[name].sum(0)
        if step % cfg.running_every == 0:
            s.learned_axes.make_axes(V)
        t = s.learned_axes.with_axes(V)
        assert (t is V) == (step < 20)
    assert {axes.shape[1] for axes in t.removed.values()} == {8}


def test_v_extracted_again_moves_the_learned_axes_off_it(flagged: None, tmp_path: Path) -> None:
    cfg = settings(tmp_path, running_k=3, running_every=100, group=8)
    with ExitStack() as stack:
        s, _ = prepare([cfg], stack)
    g = torch.Generator().manual_seed(0)
    rows = {name: torch.randn(6, p.shape[1], generator=g) for name, p in s.adapter.delta_S.items()}
    s.learned_axes.moments[0] = Moments(rows, {name: D.sum(0) for name, D in rows.items()})
    assert current_treatments(s, 2)[0] is s.treatments[0]  # never made: not due
    refreshed = current_treatments(s, 2, Refresh({0: (1.0, 1.0)}))[0]
    for name, V in s.treatments[0].removed.items():
        whole = refreshed.removed[name][0]
        assert len(whole) == V.shape[1] + 3
        keeps = whole @ whole.T
        assert torch.allclose(keeps, torch.eye(len(whole)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RUNNING))
def test_what_was_learned_survives_a_resume(flagged: None, tmp_path: Path, name: str) -> None:
    run = train(settings(tmp_path, steps=4, group=8, refresh_every=2, **RUNNING[name]))
    assert any(row["running_rows"] for row in rows_of(run))
    same_from_any_checkpoint(run, tmp_path)


@pytest.mark.slow
def test_a_pack_that_learns_gives_the_rows_of_the_runs_alone(flagged: None, tmp_path: Path) -> None:
    cfg = settings(tmp_path / "pack", group=8)
    cfgs = [cfg, replace(cfg, running_k=3), replace(cfg, running_k=3, running_permuted=True),
            replace(cfg, running_k=2, score_weight=1.0, trust=0.1, known_modes=("run_tests",)),
            replace(cfg, arm="vanilla", running_k=3)]  # fmt: skip
    for one, path in zip(cfgs, train_runs(cfgs), strict=True):
        alone = train(replace(one, out_dir=tmp_path / "alone"))
        assert_same_rows(path, alone)
        assert_same_rollouts(path, alone, "weight")
        assert (path / "checkpoints" / "step_000003" / "running.safetensors").exists() == (
            one.arm == "projected" and one.running_k > 0
        )


def test_a_run_that_could_flag_nothing_is_refused_before_the_model_loads(tmp_path: Path) -> None:
    cfg = settings(tmp_path, model="/no/such/model", running_k=3, known_modes=("sentinel",))
    with pytest.raises(ConfigError, match=r"holds none of the modes of the problems \(run_tests\)"):
        train(cfg)
    with pytest.raises(InputError, match="'sentinell': did you mean sentinel"):
        train(replace(cfg, known_modes=("sentinell",)))


# All of them


def test_vanilla_is_vanilla_whatever_the_knobs(tmp_path: Path) -> None:
    cfg = settings(tmp_path, arm="vanilla", steps=2)
    runs = [trained(cfg), train(replace(cfg, score_weight=2.0, trust=0.5, v_hack_k_end=8))]
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
    assert_same_rollouts(paths[0], projected, "weight")
    for one, path in zip(cfgs[1:], paths[1:], strict=True):
        alone = train(replace(one, out_dir=tmp_path / "alone"))
        assert_same_rows(path, alone)
        assert_same_rollouts(path, alone, "weight")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REMEDIES))
def test_stopped_and_resumed_it_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    run = train(settings(tmp_path, refresh_every=2, **REMEDIES[name]))
    same_from_any_checkpoint(run, tmp_path)


def test_a_label_names_the_remedies_that_a_run_has() -> None:
    cfg = SmokeConfig(arm="projected")
    pack = [cfg, replace(cfg, trust=0.5), replace(cfg, running_k=3, running_permuted=True)]
    assert labels(pack) == [
        *("projected", "projected trust=0.5", "projected running_k=3 running_permuted=True")
    ]


def test_contradictions() -> None:
    with pytest.raises(ConfigError, match="v_hack_k_end 3 is below v_hack_k 5"):
        SmokeConfig(v_hack_k_end=3)
    with pytest.raises(ConfigError, match=r"trust is a share: it must lie in \[0, 1\], not 1.5"):
        SmokeConfig(trust=1.5)
    with pytest.raises(ConfigError, match="score_weight must not be negative"):
        SmokeConfig(score_weight=-1.0)
    with pytest.raises(ConfigError, match=r"trust = 0\.5 has no meaning in arm routed"):
        require_arms(SmokeConfig(trust=0.5, arms=("projected", "routed")))
    with pytest.raises(ConfigError, match="set --beta=0 or --score-weight=0"):
        SmokeConfig(score_weight=1.0, beta=0.1)
    with pytest.raises(ConfigError, match="set --beta=0 or --running-k=0"):
        SmokeConfig(running_k=1, beta=0.1)
    with pytest.raises(ConfigError, match="running_k 65 is above the 64 rows"):
        SmokeConfig(running_k=65)
    with pytest.raises(ConfigError, match="running_permuted does nothing while running_k is 0"):
        SmokeConfig(running_permuted=True)
    with pytest.raises(ConfigError, match="running_k 2 and v_hack_k_end 9 do not go together"):
        SmokeConfig(running_k=2, v_hack_k_end=9)
    with pytest.raises(ConfigError, match="running_decay must lie in"):
        SmokeConfig(running_decay=0.0)


def test_a_config_with_known_modes_is_read_back() -> None:
    cfg = SmokeConfig(running_k=2, known_modes=("run_tests", "sentinel"))
    assert SmokeConfig.from_json(cfg.to_json()) == cfg
    stored = json.loads(SmokeConfig().to_json())
    del stored["known_modes"]  # of a run that is older than the setting
    assert SmokeConfig.from_json(json.dumps(stored)) == SmokeConfig()
