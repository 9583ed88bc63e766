"""A pack that is stopped goes on as a pack."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import assert_same_rollouts, assert_same_rows, rows_of

from projected_grpo.config import Config, ConfigError, SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.train import train_runs


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Config], list[Path]]:
    """Runs with all that a checkpoint may hold: a quarantine, learned axes, a renewed V, a
    threshold."""
    one = SmokeConfig(
        out_dir=tmp_path_factory.mktemp("pack"), arm="projected", steps=3,
        problems="katas:validation", labels=False, max_new=24, v_hack_k=3,
        # of few pairs: V is made anew at every start and refresh
        pair_modes=("run_tests",), pair_flavours=("print_only",),
        gate="no_gate", known_modes=("run_tests",), keep_checkpoints=0,
    )  # fmt: skip
    cfgs = [
        replace(one, arm="vanilla"),
        replace(one, arm="routed"),
        replace(one, running_k=2),
        replace(one, arm="placebo_v", refresh_every=1),
        replace(one, screen="row", screen_fpr=0.5),
    ]
    return cfgs, train_runs(cfgs)


def stopped(runs: Sequence[Path], into: Path, done: int) -> list[Path]:
    """Copies of the runs as they were after so many steps."""
    copies = []
    for run in runs:
        copy = into / run.name
        shutil.copytree(run, copy)
        shutil.rmtree(copy / "adapter")
        for step in range(done + 1, 4):
            shutil.rmtree(copy / "checkpoints" / f"step_{step:06d}")
        copies.append(copy)
    return copies


def go_on(cfgs: Sequence[Config], runs: Sequence[Path]) -> None:
    train_runs([replace(cfg, resume=run) for cfg, run in zip(cfgs, runs, strict=True)])


@pytest.mark.parametrize("done", [1, 2])
def test_every_run_has_the_rows_that_it_would_have_had(
    pack: tuple[list[Config], list[Path]], tmp_path: Path, done: int
) -> None:
    cfgs, runs = pack
    copies = stopped(runs, tmp_path, done)
    if done == 2:  # killed while the last was written: all go on from what all have
        shutil.rmtree(copies[0] / "checkpoints" / "step_000002")
    go_on(cfgs, copies)
    for copy, run in zip(copies, runs, strict=True):
        assert_same_rows(copy, run)
        assert_same_rollouts(copy, run, "advantage")
        assert len(rows_of(copy)) == 3 and (copy / "adapter").is_dir()


def test_a_pack_goes_on_as_a_whole(pack: tuple[list[Config], list[Path]], tmp_path: Path) -> None:
    cfgs, runs = pack
    copies = stopped(runs, tmp_path, 2)
    with pytest.raises(
        ConfigError, match="1 of 2 runs are to be resumed: a pack goes on as a whole"
    ):
        train_runs([replace(cfgs[0], resume=copies[0]), cfgs[1]])
    for n, step in ((0, 1), (1, 2)):
        shutil.rmtree(copies[n] / "checkpoints" / f"step_{step:06d}")
    with pytest.raises(InputError, match="1 of the 2 runs have no whole checkpoint of step 1"):
        go_on(cfgs[:2], copies[:2])


def test_a_run_without_a_checkpoint_takes_no_steps_from_the_others(
    pack: tuple[list[Config], list[Path]], tmp_path: Path
) -> None:
    cfgs, runs = pack
    copies = stopped(runs[:2], tmp_path, 2)
    for step in (1, 2):
        shutil.rmtree(copies[1] / "checkpoints" / f"step_{step:06d}")
    with pytest.raises(InputError, match="1 of the 2 runs have no checkpoint yet, the others have"):
        go_on(cfgs[:2], copies)
    assert rows_of(copies[0]) == rows_of(runs[0])


def test_runs_of_two_commits_of_the_base_model_do_not_share_one(
    pack: tuple[list[Config], list[Path]], tmp_path: Path
) -> None:
    cfgs, runs = pack
    copies = stopped(runs[:2], tmp_path, 2)
    for copy, commit in zip(copies, ("a" * 40, "b" * 40), strict=True):
        record = json.loads((copy / "run.json").read_text())
        (copy / "run.json").write_text(json.dumps({**record, "model_commit": commit}))
    with pytest.raises(InputError, match=r"at revision a{12}, .* at b{12}: resume"):
        go_on(cfgs[:2], copies)
