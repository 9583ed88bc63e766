"""A teacher pool: from a run or from templates, frozen on disk, drawn from by a run."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from projected_grpo.antipasto import AdapterError, wrap
from projected_grpo.cli import DistillConfig
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.model import load
from projected_grpo.pool import PoolError, read_pool, write_pool
from projected_grpo.probe_distill import _load_trained, distill
from projected_grpo.run import RunDir
from projected_grpo.step_logger import read_steps
from projected_grpo.svd import default_cache_dir
from projected_grpo.train import train

SMALL = SmokeConfig(problems="katas:validation", steps=1, max_new=24)


def test_a_pool_of_templates_feeds_a_run(tmp_path: Path) -> None:
    pool = distill(
        DistillConfig(
            source="templates", out=tmp_path / "pool", problems="katas:validation", rows=3
        )
    )
    rows = read_pool(pool)
    assert len(rows) == 72 and all(1 <= len(answers) <= 3 for answers in rows.values())
    with gzip.open(next(pool.glob("prompt_*.jsonl.gz")), "rt") as f:
        row = json.loads(f.readline())
    assert row["hacked"] and row["reward"] == 3.5 and not row["gt_pass"]
    about = json.loads((pool / "pool.json").read_text())
    assert about["problems"] == 72 and sum(about["flavours"].values()) <= about["rows"]

    run = train(replace(SMALL, out_dir=tmp_path / "runs", max_new=192, teacher_pool=str(pool)))
    (first,) = read_steps(run / "steps.jsonl")
    assert first["hack_t"] == (4, 4)  # the pool's rows are graded anew, and they hack


def test_the_pool_of_a_run_is_sampled_from_its_trained_adapter(tmp_path: Path) -> None:
    run = train(replace(SMALL, out_dir=tmp_path, max_new=192))
    ask = DistillConfig(source=str(run), out=tmp_path / "a", rows=32, limit=4, keep="all")
    texts = read_pool(distill(ask))
    assert texts and texts == read_pool(distill(replace(ask, out=tmp_path / "again")))
    path = run / "adapter" / "adapter.safetensors"
    moved = {name: delta + 3.0 for name, delta in load_file(path).items()}
    save_file(moved, path, _metadata(path))
    assert read_pool(distill(replace(ask, out=tmp_path / "b"))) != texts
    with pytest.raises(ConfigError, match=r"worth keeping \(--keep=hacks\): has the run hacked"):
        distill(replace(ask, out=tmp_path / "c", keep="hacks"))


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as f:
        return f.metadata()


def test_a_pool_is_frozen_and_byte_for_byte_reproducible(tmp_path: Path) -> None:
    rows = [{"problem_id": 7, "completion": "x"}, {"problem_id": 7, "completion": "y"}]
    for name in ("a", "b"):
        write_pool(tmp_path / name, rows, {})
    files = [(tmp_path / name / "prompt_0007.jsonl.gz").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1] and read_pool(tmp_path / "a") == {7: ["x", "y"]}
    with pytest.raises(ConfigError, match="is there already"):
        distill(DistillConfig(source="templates", out=tmp_path / "a"))
    (tmp_path / "file").write_text("")
    with pytest.raises(PoolError, match="cannot write the teacher pool"):
        write_pool(tmp_path / "file" / "pool", rows, {})


def test_a_stopped_run_gives_its_newest_checkpoint(tmp_path: Path) -> None:
    run = train(replace(SMALL, out_dir=tmp_path, steps=2))
    (run / "adapter" / "adapter.safetensors").unlink()
    lm = load("tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu"))
    adapter = wrap(lm.model, cache_dir=default_cache_dir())
    _load_trained(adapter, RunDir.open(run))
    last = load_file(run / "checkpoints" / "step_000002" / "adapter.safetensors")
    assert all(torch.equal(adapter.delta_S[name].data, value) for name, value in last.items())
    for path in run.glob("checkpoints/*/adapter.safetensors"):
        path.unlink()
    with pytest.raises(AdapterError, match="no adapter and no checkpoint"):
        _load_trained(adapter, RunDir.open(run))
