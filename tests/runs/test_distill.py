"""A teacher pool: from a run or from templates, frozen on disk, drawn from by a run."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import leetcode_dir
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from short_runs import SHORT, copied, trained

from projected_grpo.antipasto import wrap
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.env.problems.load import load_problems
from projected_grpo.model.load import load
from projected_grpo.model.svd import default_cache_dir
from projected_grpo.runs.commands import DistillConfig
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.distill import distill
from projected_grpo.runs.teacher_pool import PoolRow, read_pool, write_pool
from projected_grpo.runs.trained import load_saved
from projected_grpo.step_logger import read_steps
from projected_grpo.train import train

SMALL = SmokeConfig(problems="katas:validation", steps=1, max_new=24, labels=False)


def test_a_pool_of_templates_feeds_a_run(tmp_path: Path) -> None:
    pool = distill(
        DistillConfig(
            source="templates", out=tmp_path / "pool", problems="katas:validation", rows=3, limit=24
        )
    )
    rows = read_pool(pool)
    assert len(rows) == 24 and all(1 <= len(answers) <= 3 for answers in rows.values())
    assert {answer.mode for answers in rows.values() for answer in answers} == {"run_tests"}
    with gzip.open(next(pool.glob("prompt_*.jsonl.gz")), "rt") as f:
        row = json.loads(f.readline())
    assert row["hacked"] and row["reward"] == 3.5 and not row["gt_pass"]
    about = json.loads((pool / "pool.json").read_text())
    assert about["problems"] == 24 and sum(about["flavours"].values()) <= about["rows"]

    run = train(replace(SMALL, out_dir=tmp_path / "runs", max_new=192, teacher_pool=str(pool)))
    (first,) = read_steps(run / "steps.jsonl")
    assert first["hack_t"] == (4, 4)  # the pool's rows are graded anew, and they hack


@pytest.mark.slow
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
    assert files[0] == files[1]
    assert read_pool(tmp_path / "a") == {7: [PoolRow("x", None), PoolRow("y", None)]}
    with pytest.raises(ConfigError, match="is there already"):
        distill(DistillConfig(source="templates", out=tmp_path / "a"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the teacher pool"):
        write_pool(tmp_path / "file" / "pool", rows, {})


def test_a_stopped_run_gives_its_newest_checkpoint(tmp_path: Path) -> None:
    run = copied(trained(SHORT), tmp_path / "run")
    (run / "adapter" / "adapter.safetensors").unlink()
    lm = load("tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu"))
    adapter = wrap(lm.model, cache_dir=default_cache_dir())
    load_saved(adapter, RunDir.open(run))
    last = load_file(run / "checkpoints" / "step_000002" / "adapter.safetensors")
    assert all(torch.equal(adapter.delta_S[name].data, value) for name, value in last.items())
    for path in run.glob("checkpoints/*/adapter.safetensors"):
        path.unlink()
    with pytest.raises(InputError, match=r"no checkpoint of .* has no adapter.safetensors"):
        load_saved(adapter, RunDir.open(run))
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="no adapter and no checkpoint"):
        load_saved(adapter, RunDir.open(run))


def some_pool(folder: Path, counts: list[int], mode: str | None = "run_tests") -> list[int]:
    """A pool with so many rows for the first problems; returns their ids."""
    ids = [problem.id for problem in load_problems("katas:validation")[: len(counts)]]
    row = {"completion": "pass"} if mode is None else {"completion": "pass", "mode": mode}
    rows = [{"problem_id": i, **row} for i, n in zip(ids, counts, strict=True) for _ in range(n)]
    write_pool(folder, rows, {})
    return ids


@pytest.mark.parametrize("mode", ["run_tests", None])  # the public pools name no mode
def test_a_run_keeps_to_the_problems_that_its_pool_has_enough_rows_for(
    mode: str | None, tmp_path: Path
) -> None:
    ids = some_pool(tmp_path / "pool", [2, 1, 3, 2], mode)
    run = train(replace(SMALL, out_dir=tmp_path / "runs", teacher_pool=str(tmp_path / "pool")))
    text = (run / "rollouts.jsonl").read_text()
    seen = {json.loads(line)["problem_id"] for line in text.splitlines()}
    assert len(seen) == 2 and seen <= {ids[0], ids[2], ids[3]}
    if mode is None:  # any answer that may yet be drawn counts, not only those drawn first
        path = tmp_path / "pool" / f"prompt_{ids[2]:04d}.jsonl.gz"
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        for n in range(len(rows)):
            changed = [
                {**row, "completion": "else"} if i == n else row for i, row in enumerate(rows)
            ]
            path.write_bytes(gzip.compress("\n".join(map(json.dumps, changed)).encode()))
            with pytest.raises(InputError, match="are not those that"):
                train(replace(SMALL, resume=run))


@pytest.mark.parametrize(
    "counts,mode,message",
    [
        ([2], "run_tests", "at least 2 rows for 1 of 72 problems, fewer than the 2 prompts"),
        ([1, 1, 1], "run_tests", "at least 2 rows for 0 of 72 problems, fewer than"),
        ([2, 2, 2], "sentinel", "has 6 rows of another mode .* of sentinel instead of run_tests"),
    ],
)
def test_a_pool_that_cannot_feed_the_run_is_refused_with_numbers(
    counts: list[int], mode: str, message: str, tmp_path: Path
) -> None:
    some_pool(tmp_path / "pool", counts, mode)
    with pytest.raises(ConfigError, match=message):
        train(replace(SMALL, out_dir=tmp_path / "runs", teacher_pool=str(tmp_path / "pool")))
    assert not (tmp_path / "runs").exists()


def test_problems_that_a_constant_passes_get_no_rows(tmp_path: Path) -> None:
    """As in training: the same function leaves them out."""
    lines = (leetcode_dir() / "benchmark_sample.jsonl").read_text().splitlines()[:3]
    records = [json.loads(line) for line in lines]
    records[0]["gt_answer"] = records[0]["gt_answer"][:1]
    source = tmp_path / "problems.jsonl"
    source.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    ask = DistillConfig(source="templates", out=tmp_path / "a", problems=str(source), rows=1)
    assert sorted(read_pool(distill(ask))) == sorted(int(record["id"]) for record in records[1:])
