"""V extracted again while runs go on: what changes, what stays, and that a resumed run repeats."""

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import assert_same_rows, rollouts_of, rows_of
from safetensors.torch import load_file
from short_runs import SHORT, copied, few_pairs

from projected_grpo.arms.directions import PairChoice
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.extract_vhack_grad import hack_minus_clean, load_vhack, side_gradients
from projected_grpo.proj import Basis, subspace_overlap
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.refresh import NO_REFRESH, is_due, refresh
from projected_grpo.runs.session import Session, prepare
from projected_grpo.step_logger import read_steps
from projected_grpo.train import train, train_runs


def settings(tmp_path: Path, **overrides) -> SmokeConfig:
    start = replace(SHORT, steps=5, arm="projected", refresh_every=2, pairs=few_pairs())
    return replace(start, out_dir=tmp_path, keep_checkpoints=0, **overrides)


def same(a: Basis, b: Basis) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def move(s: Session, n: int) -> None:
    """A policy far from the start, in run n only."""
    g = torch.Generator().manual_seed(n)
    with torch.no_grad():
        for delta in s.adapter.delta_S.values():
            delta[n] = 0.3 * torch.randn(delta.shape[1], generator=g)
    s.adapter.fold()


def run_dirs(tmp_path: Path, n: int) -> list[RunDir]:
    runs = [RunDir(tmp_path / str(i)) for i in range(n)]
    for run in runs:
        run.path.mkdir()
    return runs


@pytest.fixture(scope="module")
def through(tmp_path_factory) -> Path:
    """Five steps in one go, V extracted again at the start of steps 3 and 5."""
    return train(settings(tmp_path_factory.mktemp("runs")))


def test_it_is_due_every_n_steps_after_the_first() -> None:
    assert [step for step in range(1, 9) if is_due(3, step)] == [4, 7]
    assert [step for step in range(1, 5) if is_due(1, step)] == [2, 3, 4]
    assert not any(is_due(0, step) for step in range(1, 9))


def test_where_nothing_was_learned_v_stays_the_same(tmp_path: Path) -> None:
    with ExitStack() as stack:
        s, _ = prepare([settings(tmp_path)], stack)
        assert refresh(s, 2, []) == (s, NO_REFRESH)
        again, done = refresh(s, 3, run_dirs(tmp_path, 1))
    assert same(again.treatments[0].V, s.treatments[0].V)
    assert same(again.treatments[0].removed, s.treatments[0].removed)
    assert done.overlaps[0] == pytest.approx((1.0, 1.0), abs=1e-6) and done.seconds > 0


@pytest.mark.slow
def test_every_arm_measures_the_new_v_and_random_v_keeps_what_it_removes(tmp_path: Path) -> None:
    """One pack: frozen, and refreshed in each arm; only the second run's policy moves much."""
    cfg = settings(tmp_path)
    cfgs = [
        replace(cfg, refresh_every=0),
        *(replace(cfg, arm=arm) for arm in ("projected", "vanilla", "random_v")),
    ]
    with ExitStack() as stack:
        s, _ = prepare(cfgs, stack)
        for n in (0, 1, 3):
            move(s, n)
        again, done = refresh(s, 3, run_dirs(tmp_path, 4))
        D = hack_minus_clean(
            side_gradients(
                s.lm,
                s.adapter,
                s.pair_sets[PairChoice.of(cfg)],
                temperature=0.7,
                micro_batch_tokens=4096,
                run=1,
            )
        )
    frozen, projected, vanilla, random = again.treatments
    assert frozen is s.treatments[0] and done.overlaps.keys() == {1, 2, 3}
    assert done.columns(0) == {"v_overlap": None, "v_overlap_first": None}
    for n, t in ((1, projected), (3, random)):
        assert not same(t.V, t.first) and same(t.first, s.treatments[n].V)
        assert 0.01 < done.overlaps[n][0] < 0.95
        assert done.overlaps[n] == pytest.approx((subspace_overlap(t.V, t.first),) * 2)
    assert same({name: rows[0] for name, rows in projected.removed.items()}, projected.V)
    assert same(random.removed, s.treatments[3].removed)
    assert vanilla.removed == {} and same(vanilla.V, s.treatments[2].V)  # it did not move
    # and still every axis points to where most pairs' hacks lie under the policy as it is now
    for name, V in projected.V.items():
        assert ((D[name] @ V.T).sign().sum(0) >= 0).all()


@pytest.mark.parametrize("judge", ["base", "policy"])
def test_own_pairs_give_the_v_of_the_model_that_scores(tmp_path: Path, judge: str) -> None:
    """The policy has moved; it writes no programs here, so that its pairs are the first ones."""
    cfg = settings(tmp_path)
    own = replace(cfg, pairs="own", screen="row", screen_fpr=0.5, screen_at=judge)
    with ExitStack() as stack:
        s, _ = prepare([cfg], stack)
        first = {PairChoice.of(own): s.pair_sets[PairChoice.of(cfg)]}
        s = replace(s, cfgs=[own], pair_sets=first)
        move(s, 0)
        _, done = refresh(s, 3, run_dirs(tmp_path, 1))
    overlap, _ = done.overlaps[0]
    assert overlap == pytest.approx(1.0, abs=1e-6) if judge == "base" else overlap < 0.95


def test_the_columns_say_when_and_how_far_v_turned(through: Path) -> None:
    rows = read_steps(through / "steps.jsonl")
    for row in rows:
        refreshed = row["step"] in (3, 5)
        assert (row["v_overlap"] is not None) == refreshed == (row["t_refresh"] > 0)
        assert (row["v_overlap_first"] is not None) == refreshed
        assert row["step_time"] > row["t_refresh"] + row["gen"]
    assert rows[2]["v_overlap"] == rows[2]["v_overlap_first"]
    assert 0 < rows[4]["v_overlap_first"] < rows[4]["v_overlap"] < 1
    found = sorted(path.name for path in through.glob("v_hack*"))
    assert found == [f"v_hack{n}.safetensors" for n in ("", "_0003", "_0005")]
    first, third, fifth = (load_vhack(through / name).select(5, 0.25) for name in found)
    assert rows[4]["v_overlap"] == pytest.approx(subspace_overlap(fifth, third))
    assert rows[4]["v_overlap_first"] == pytest.approx(subspace_overlap(fifth, first))


@pytest.mark.parametrize("done", [0, 2, 3, 4])
def test_stopped_and_resumed_it_gives_the_same_rows(
    through: Path, tmp_path: Path, done: int
) -> None:
    """After 2 steps the refresh due at step 3 is made again; after 3 and 4 its file is read. What
    lies there of later steps is not."""
    run = copied(through, tmp_path / "run", steps=done)
    for step in range(done + 1, 6):
        if (run / f"v_hack_{step:04d}.safetensors").exists():
            (run / f"v_hack_{step:04d}.safetensors").write_text("not of this run")
    train(SmokeConfig(resume=run))
    assert rows_of(run) == rows_of(through)
    assert rollouts_of(run) == rollouts_of(through)
    for name in ("v_hack_0003.safetensors", "v_hack_0005.safetensors"):
        assert same(load_file(run / name), load_file(through / name))


def test_a_run_whose_refreshed_v_is_gone_goes_on_from_before_it(
    through: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(through, run)
    (run / "v_hack_0005.safetensors").unlink()
    assert_same_rows(train(SmokeConfig(resume=run)), through)


@pytest.mark.slow
def test_a_pack_of_frozen_and_refreshed_gives_the_rows_of_the_runs_alone(
    through: Path, tmp_path: Path
) -> None:
    cfg = settings(tmp_path / "pack")
    frozen = replace(cfg, refresh_every=0)
    packed = train_runs([frozen, cfg])
    alone = [train(replace(frozen, out_dir=tmp_path / "alone")), through]
    for a, b in zip(packed, alone, strict=True):
        assert_same_rows(a, b)
    # frozen and refreshed are one run until the first refresh
    one, other = map(rows_of, packed)
    same_so_far = [abs(a["cos_pre"] - b["cos_pre"]) < 1e-4 for a, b in zip(one, other, strict=True)]
    assert same_so_far == [True, True, False, False, False]


def test_a_v_of_other_pairs_is_refused_before_the_model_is_loaded(
    through: Path, tmp_path: Path
) -> None:
    given = {"v_hack": through / "v_hack.safetensors", "pairs": "placebo"}
    out = tmp_path / "runs"
    with pytest.raises(ConfigError, match=r"from other pairs \(digest .*--pairs=placebo"):
        train(settings(out, model="/no/such/model", **given))
    assert not out.exists()
    train(settings(out, steps=1, refresh_every=0, **given))  # never extracted again: no matter


def test_a_given_v_is_refreshed_from_the_pairs_that_it_was_made_from(
    through: Path, tmp_path: Path
) -> None:
    run = train(settings(tmp_path, v_hack=through / "v_hack.safetensors", steps=3))
    assert rows_of(run) == rows_of(through)[:3]
    assert json.loads((run / "config.json").read_text())["refresh_every"] == 2
