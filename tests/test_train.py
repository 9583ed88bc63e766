"""The real pipeline end to end on the tiny model: real sampling, real grading, real files."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import leetcode_dir
from safetensors.torch import load_file

from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.env.problems import ProblemError
from projected_grpo.pool import PoolError
from projected_grpo.run import RunError
from projected_grpo.session import problems_of_step
from projected_grpo.step_logger import COLUMNS, TIMINGS, read_steps
from projected_grpo.train import learning_rate, train

GOLDEN = Path(__file__).parent / "golden" / "smoke_projected.jsonl"


def rows_of(run: Path) -> list[dict]:
    """The rows of a run without what differs between two runs of one seed."""
    return [
        {k: v for k, v in row.items() if k not in TIMINGS}
        for row in read_steps(run / "steps.jsonl")
    ]


def rollouts_of(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def settings(tmp_path: Path, **overrides) -> SmokeConfig:
    return replace(SmokeConfig(out_dir=tmp_path, steps=2, problems="katas:validation"), **overrides)


@pytest.fixture(scope="module")
def projected(tmp_path_factory) -> Path:
    return train(SmokeConfig(out_dir=tmp_path_factory.mktemp("runs"), arm="projected"))


@pytest.fixture(scope="module")
def vanilla(tmp_path_factory) -> Path:
    return train(SmokeConfig(out_dir=tmp_path_factory.mktemp("runs"), arm="vanilla"))


def test_the_run_directory_is_complete(projected: Path) -> None:
    assert {p.name for p in projected.iterdir()} == {
        "adapter", "checkpoints", "config.json", "prompt.txt", "rollouts.jsonl", "run.json",
        "steps.jsonl", "train.log", "v_hack.safetensors",
    }  # fmt: skip
    assert [p.name for p in sorted((projected / "checkpoints").iterdir())] == [
        f"step_{step:06d}" for step in (1, 2, 3, 4)
    ]
    record = json.loads((projected / "run.json").read_text())
    assert record["status"] == "finished" and record["started"] <= record["ended"]
    assert {"argv", "git_sha", "git_diff", "packages", "device", "python"} <= record.keys()
    assert SmokeConfig.from_json((projected / "config.json").read_text()).arm == "projected"
    assert "run_tests" in (projected / "prompt.txt").read_text()
    assert "_smoke_projected_s41_" in projected.name


def test_rows_and_rollouts_are_all_there(projected: Path) -> None:
    rows, rollouts = read_steps(projected / "steps.jsonl"), rollouts_of(projected)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row.keys() == {column.key for column in COLUMNS} for row in rows)
    assert len(rollouts) == 4 * 2 * 4
    assert len({row["sample_id"] for row in rollouts}) == len(rollouts)
    teacher = [row for row in rollouts if row["source"] == "teacher"]
    assert len(teacher) == 16 and all(row["exploited"] for row in teacher)
    assert all(row["reward"] == 3.5 and row["mechanism"] == "run_tests" for row in teacher)
    assert all(row["hack_score"] is not None for row in rollouts if row["advantage"] != 0)


def test_the_adapter_moved_and_is_what_the_last_checkpoint_holds(projected: Path) -> None:
    trained = load_file(projected / "adapter" / "adapter.safetensors")
    assert all(delta.abs().max() > 0 for delta in trained.values())
    last = load_file(projected / "checkpoints" / "step_000004" / "adapter.safetensors")
    assert all(torch.equal(trained[name], last[name]) for name in trained)


def test_projection_acts_and_arms_share_prompts_pool_and_sampling(projected, vanilla) -> None:
    p, v = rows_of(projected), rows_of(vanilla)
    # step 1: the same rollouts, gradient and alignment, up to the projection
    for key in (
        "reward",
        "loss",
        "cos_pre",
        "cos_pre_s",
        "cos_pre_t",
        "grad_norm_pre",
        "num_tokens",
    ):
        assert p[0][key] == v[0][key]
    for row in v:
        assert row["cos_post"] == row["cos_pre"] and row["removed_frac"] == 0
    for row in p:
        assert row["cos_post"] < row["cos_pre"] and row["cos_post"] <= 0
        assert row["removed_frac"] == pytest.approx(row["hackward_frac"], rel=1e-4)
    # and the same problems and teacher rows throughout
    for a, b in zip(rollouts_of(projected), rollouts_of(vanilla), strict=True):
        assert (a["problem_id"], a["source"]) == (b["problem_id"], b["source"])
        if a["source"] == "teacher":
            assert a["completion"] == b["completion"]


def test_sampler_and_trainer_agree(projected: Path) -> None:
    for row in rows_of(projected):
        assert row["sampling_logp_diff_max"] < 1e-3 and row["ratio_max"] < 1e-3
        assert row["clip_ratio"] == 0 and row["infra_errors"] == 0


def test_golden_run(projected: Path) -> None:
    """Recorded on 2026-11-23; a change of these rows must be meant. Renew by `just golden`."""
    golden = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    assert len(golden) == 4
    for expected, row in zip(golden, rows_of(projected), strict=True):
        for key, value in expected.items():
            got = list(row[key]) if isinstance(row[key], tuple) else row[key]
            assert got == (
                pytest.approx(value, rel=2e-2, abs=2e-3) if type(value) is float else value
            ), key


def test_projecting_nothing_is_vanilla_bit_for_bit(tmp_path: Path) -> None:
    nothing = train(settings(tmp_path / "a", arm="projected", overshoot=0.0))
    plain = train(settings(tmp_path / "b", arm="vanilla"))
    assert rows_of(nothing) == rows_of(plain)
    assert rollouts_of(nothing) == rollouts_of(plain)


def test_the_micro_batch_does_not_matter(tmp_path: Path) -> None:
    """8 x 1 equals 1 x 8 to rounding, with uneven lengths."""
    one = rows_of(train(settings(tmp_path / "a", arm="projected", micro_batch=1, steps=1)))[0]
    eight = rows_of(train(settings(tmp_path / "b", arm="projected", micro_batch=8, steps=1)))[0]
    for key, value in one.items():
        if isinstance(value, float):
            assert eight[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
        else:
            assert eight[key] == value, key


def test_on_policy_with_kl_and_the_update_projected(tmp_path: Path) -> None:
    """Without a pool the teacher columns are null; with beta the KL starts at 0 and then grows."""
    run = train(settings(tmp_path, arm="random_v", mix_ratio=0.0, beta=0.1, project_on="both"))
    for row in rows_of(run):
        assert row["hack_t"] is None and row["cos_pre_t"] is None
    with_teacher = train(settings(tmp_path / "b", arm="projected", beta=0.1, project_on="update"))
    rows = rows_of(with_teacher)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[1]["kl"] > 0
    for row in rows:
        assert row["cos_update"] <= 1e-6 and row["removed_frac"] == 0


def test_real_problems(tmp_path: Path) -> None:
    problems = leetcode_dir() / "benchmark_sample.jsonl"
    run = train(settings(tmp_path, arm="projected", problems=str(problems), steps=1))
    assert rows_of(run)[0]["hack_t"] == (4, 4)


def _start(out_dir: Path, *args: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        "from projected_grpo.cli import train_main; train_main()",
        "smoke",
    ]
    return subprocess.Popen(
        [*command, f"--out-dir={out_dir}", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_steps(out_dir: Path, n: int, process: subprocess.Popen[str]) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for path in out_dir.glob("*/steps.jsonl"):
            if path.read_text().count("\n") >= n:
                return path.parent
        time.sleep(0.01)
    raise AssertionError(process.communicate())


def test_killed_at_step_2_and_resumed_gives_the_same_rows(projected: Path, tmp_path: Path) -> None:
    process = _start(tmp_path, "--arm=projected")
    run = _wait_for_steps(tmp_path, 2, process)
    process.kill()
    process.wait()
    with (run / "rollouts.jsonl").open("a") as f:
        f.write('{"step": 3, "half a li')  # what a kill in the middle of a write leaves
    train(SmokeConfig(out_dir=tmp_path, resume=run))
    assert rows_of(run) == rows_of(projected)
    assert rollouts_of(run) == rollouts_of(projected)
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def test_sigterm_finishes_the_step_and_says_how_to_go_on(projected: Path, tmp_path: Path) -> None:
    process = _start(tmp_path, "--arm=projected", "--steps=200")
    run = _wait_for_steps(tmp_path, 1, process)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    done = len(read_steps(run / "steps.jsonl"))
    assert process.returncode == 130 and done < 200
    assert f"train smoke --resume={run}" in stderr
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"
    assert (run / "checkpoints" / f"step_{done:06d}" / "state.json").is_file()


def test_a_half_written_checkpoint_is_ignored(tmp_path: Path) -> None:
    run = train(settings(tmp_path))
    (run / "checkpoints" / ".step_000009").mkdir()
    before = rows_of(run)
    train(settings(tmp_path, resume=run))
    assert rows_of(run) == before


def test_resuming_with_other_settings_is_refused(projected: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"was started with lr = 0.003; .* with 0.1: leave --lr out"
    ):
        train(SmokeConfig(resume=projected, lr=0.1))
    with pytest.raises(RunError, match="no run to resume"):
        train(SmokeConfig(resume=projected / "nowhere"))


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": 1,\n')
    pool = tmp_path / "pool"
    pool.mkdir()
    import gzip

    with gzip.open(pool / "prompt_0001.jsonl.gz", "wt") as f:
        f.write('{"problem_id": 999999999, "completion": "x"}\n')
    out = tmp_path / "runs"
    for overrides, error, message in (
        ({"problems": str(tmp_path / "missing.jsonl")}, ProblemError, "missing.jsonl"),
        ({"problems": str(broken)}, ProblemError, r"broken.jsonl.*1"),
        ({"mode": "telepathy"}, ProblemError, "unknown loophole mode 'telepathy'"),
        ({"teacher_pool": str(pool)}, PoolError, "has no answer for"),
        ({"prompts_per_step": 10**6}, ConfigError, "fewer than the 1000000 prompts of a step"),
        ({"max_prompt": 5}, ConfigError, "has 0 problems with at most 5 prompt tokens"),
        ({"model": "/no/such/model"}, ValueError, "there is no model at /no/such/model"),
        ({"model": "no-such/model"}, ValueError, "cannot load the model no-such/model"),
    ):
        with pytest.raises(error, match=message):
            train(settings(out, **overrides))
    assert not out.exists()


def test_a_v_of_another_model_is_refused(projected: Path, tmp_path: Path) -> None:
    from projected_grpo.extract_vhack_grad import load_vhack

    v = load_vhack(projected / "v_hack.safetensors")
    v.metadata["fingerprint"] = "0" * 64
    v.save(tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match="was extracted from another model"):
        train(settings(tmp_path / "runs", v_hack=tmp_path / "v.safetensors"))
    assert not (tmp_path / "runs").exists()


def test_problem_order_is_an_epoch_without_repeats() -> None:
    problems = list(range(10))
    seen = [p for step in (1, 2, 3) for p in problems_of_step(problems, 3, 41, step)]
    assert len(set(seen)) == 9
    assert problems_of_step(problems, 3, 41, 4) != problems_of_step(problems, 3, 41, 1)
    assert problems_of_step(problems, 3, 41, 4) == problems_of_step(problems, 3, 41, 4)
    assert problems_of_step(problems, 3, 42, 1) != problems_of_step(problems, 3, 41, 1)


def test_warm_up_rises_from_above_zero_and_stays() -> None:
    cfg = SmokeConfig(steps=10, warmup_frac=0.4, lr=1.0)
    assert [learning_rate(cfg, step) for step in (1, 2, 3, 4, 5, 10)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert learning_rate(replace(cfg, warmup_frac=0.0), 1) == 1.0
