"""A run that is extended, and the checkpoints that stay."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import assert_same_rollouts, assert_same_rows

from projected_grpo.config import ConfigError, MiniConfig, SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.runs.checkpoints import rotate
from projected_grpo.runs.directory import RunDir, extended, resumed_config
from projected_grpo.train import train

DATA = Path(__file__).parents[1] / "data" / "f542cc8"


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run of six steps, with checkpoints of steps 3 and 6."""
    return Path(shutil.copytree(DATA / "finished", tmp_path / "finished"))


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """The same run as if it had been asked for three steps."""
    run = Path(shutil.copytree(DATA / "finished", tmp_path / "short"))
    settings = json.loads((run / "config.json").read_text()) | {"steps": 3}
    (run / "config.json").write_text(json.dumps(settings))
    for name in ("steps.jsonl", "rollouts.jsonl"):
        rows = (run / name).read_text().splitlines(keepends=True)
        (run / name).write_text("".join(row for row in rows if json.loads(row)["step"] <= 3))
    shutil.rmtree(run / "checkpoints" / "step_000006")
    return run


def test_a_finished_run_goes_on_as_one_that_was_asked_for_more_steps(
    short: Path, tmp_path: Path
) -> None:
    cache = shutil.copytree(DATA / "cache" / "svd", tmp_path / "cache")
    train(SmokeConfig(resume=short, steps=6, svd_cache=Path(cache), keep_checkpoints=1))
    assert_same_rows(short, DATA / "finished")
    assert_same_rollouts(short, DATA / "finished", "reward", "hack_score")
    record = json.loads((short / "run.json").read_text())
    assert record["status"] == "finished" and record["resumed"][-1]["after_step"] == 3
    assert RunDir.open(short).stored_config().steps == 6
    assert [path.name for path in (short / "checkpoints").iterdir()] == ["step_000006"]


def test_as_many_steps_warm_up_as_did() -> None:
    longer = extended(MiniConfig(), 160)
    assert longer.steps == 160 and longer.warmup_steps == MiniConfig().warmup_steps == 3


def test_where_first_steps_depend_on_their_number_a_run_is_not_extended(finished: Path) -> None:
    stored = json.loads((finished / "config.json").read_text())

    def refused(words: str, **settings: object) -> None:
        (finished / "config.json").write_text(json.dumps(stored | settings))
        with pytest.raises(ConfigError, match=words):
            resumed_config(SmokeConfig(resume=finished, steps=9), RunDir.open(finished))

    refused("cannot be extended to 9: under lr_schedule cosine every step", lr_schedule="cosine")
    refused("its k grows to v_hack_k_end 9 at the last step", v_hack_k_end=9)
    (finished / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match="steps = 6; it cannot be resumed with 5"):
        resumed_config(SmokeConfig(resume=finished, steps=5), RunDir.open(finished))


def test_the_lock_goes_over_to_the_new_settings(finished: Path) -> None:
    run = RunDir.open(finished)
    with run.locked(), ExitStack() as stack:
        run.extend(8, stack)
        assert RunDir.open(finished).stored_config().steps == 8
        with pytest.raises(InputError, match="running in another process"), run.locked():
            pass
    with run.locked():
        assert not (finished / "config.json.tmp").exists()


def test_the_last_whole_checkpoint_stays(finished: Path) -> None:
    folder = finished / "checkpoints"
    newest = folder / "step_000006" / "adapter.safetensors"
    whole = newest.read_bytes()
    newest.write_bytes(whole[:-9])
    rotate(folder, finished, 1)
    assert len(list(folder.iterdir())) == 2, "the newest is damaged"
    newest.write_bytes(whole)
    for keep in (0, 2, 3):
        rotate(folder, finished, keep)
        assert len(list(folder.iterdir())) == 2
    rotate(folder, finished, 1)
    assert [path.name for path in folder.iterdir()] == ["step_000006"]


def test_a_checkpoint_that_cannot_be_removed_ends_no_run(finished: Path) -> None:
    (finished / "checkpoints" / ".step_000003").write_text("in the way")
    rotate(finished / "checkpoints", finished, 1)
    assert len(list((finished / "checkpoints").glob("step_*"))) == 2
