"""The real pipeline end to end on the tiny model: real sampling, real grading, real files."""

import gzip
import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from datetime import datetime, tzinfo
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_same_rows, leetcode_dir, rollouts_of, rows_of
from safetensors.torch import load_file
from short_runs import SHORT, copied, forked, run_command, trained

import projected_grpo.train as training
from projected_grpo.arms.advantages import require_grades
from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.rows import Row, grade_columns
from projected_grpo.arms.treatment import Treatment, measured_axes
from projected_grpo.arms.update import optimize
from projected_grpo.cli import named_settings
from projected_grpo.config import ConfigError, FastConfig, SmokeConfig, stored_config
from projected_grpo.env.errors import InputError
from projected_grpo.env.loopholes.modes import apply_hint
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.extract_vhack_grad import VHack, load_vhack, nll_gradients
from projected_grpo.proj import Projection, cosine, random_orthonormal
from projected_grpo.runs.banner import labels
from projected_grpo.runs.data import (
    data_digests,
    fair_problems,
    hinted_problems,
    problems_digest,
    problems_of_step,
)
from projected_grpo.runs.directory import RunDir, resumed_config
from projected_grpo.runs.gradients import accumulate_gradients
from projected_grpo.runs.sample_rows import sample_rows
from projected_grpo.runs.session import Session, prepare
from projected_grpo.runs.teacher_pool import open_pool
from projected_grpo.step_logger import COLUMNS, read_steps
from projected_grpo.train import grade_rows, learning_rate, train, train_runs

GOLDEN = Path(__file__).parent / "golden" / "smoke_projected.jsonl"


def settings(out_dir: Path = Path(), **overrides) -> SmokeConfig:
    return replace(SHORT, out_dir=out_dir, **overrides)


def settings_like(run: Path, out_dir: Path, **overrides) -> SmokeConfig:
    stored = SmokeConfig.from_json((run / "config.json").read_text())
    return replace(stored, out_dir=out_dir, **overrides)


@pytest.fixture(scope="module")
def session():
    """A prepared projected run, nothing written."""
    with ExitStack() as stack:
        yield prepare([SmokeConfig(arm="projected", problems="katas:validation")], stack)[0]


@pytest.fixture(scope="module")
def graded(session: Session) -> list[list[Row]]:
    """Groups of its first step, sampled and graded."""
    groups = sample_rows(session, 1)
    grade_rows(session.cfgs, session.grader, groups, 1)
    return groups


@pytest.fixture
def groups(graded: list[list[Row]]) -> list[list[Row]]:
    """Copies of them, which a test may change."""
    return [[copy(row) for row in group] for group in graded]


@pytest.fixture(scope="module")
def projected() -> Path:
    return trained(SmokeConfig(arm="projected"))


@pytest.fixture(scope="module")
def vanilla() -> Path:
    return trained(SmokeConfig(arm="vanilla"))


@pytest.fixture(scope="module")
def short() -> Path:
    """Three steps of `settings`, projected."""
    return trained(settings(steps=3, arm="projected"))


def test_the_run_directory_is_complete(projected: Path) -> None:
    assert {p.name for p in projected.iterdir()} == {
        "adapter", "checkpoints", "config.json", "prompt.txt", "rollouts.jsonl", "run.json",
        "run.yaml", "steps.jsonl", "train.log", "v_hack.safetensors",
    }  # fmt: skip
    assert [p.name for p in sorted((projected / "checkpoints").iterdir())] == [
        f"step_{step:06d}" for step in (3, 4)
    ]
    record = json.loads((projected / "run.json").read_text())
    assert record["status"] == "finished" and record["started"] <= record["ended"]
    assert {"argv", "git_sha", "git_diff", "packages", "device", "python"} <= record.keys()
    cfg = SmokeConfig.from_json((projected / "config.json").read_text())
    assert cfg.arm == "projected" and record["model_sha256"] is None  # made here, no file
    fair = fair_problems(cfg.problems)  # of any mode
    assert record["problems_sha256"] == problems_digest(fair, fair)
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
        assert row["sampling_logp_diff_max"] < 1e-3
        assert row["clip_ratio"] == 0 and row["infra_errors"] == 0


def test_golden_run(projected: Path) -> None:
    """Recorded on 2026-11-23; a change of these rows must be meant. Renew by `just golden`."""
    golden = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    assert len(golden) == 4
    for expected, row in zip(golden, rows_of(projected), strict=True):
        assert expected.keys() == row.keys()
        for key, value in expected.items():
            # Sums of float32 along V: up to 4e-5 apart from one CPU to another
            rounded = ("cos_", "grad_norm", "loss", "removed", "hackward", "covered", "inside")
            if key.startswith(rounded):
                value = value if value is None else pytest.approx(value, rel=1e-2, abs=1e-4)
                assert row[key] == value, key
            elif key != "sampling_logp_diff_max":  # rounding noise; bounded by another test
                got = list(row[key]) if isinstance(row[key], tuple) else row[key]
                assert got == (pytest.approx(value) if isinstance(value, float) else value), key


def test_projecting_nothing_is_vanilla_bit_for_bit(tmp_path: Path) -> None:
    nothing = train(settings(tmp_path, arm="projected", overshoot=0.0))
    plain = trained(settings(arm="vanilla"))
    assert rows_of(nothing) == rows_of(plain)
    assert rollouts_of(nothing) == rollouts_of(plain)


def test_the_micro_batch_does_not_matter(tmp_path: Path) -> None:
    """8 x 1 equals 1 x 8 to rounding, with uneven lengths."""
    one = rows_of(train(settings(tmp_path / "a", arm="projected", micro_batch_tokens=1, steps=1)))[
        0
    ]
    eight = rows_of(
        train(settings(tmp_path / "b", arm="projected", micro_batch_tokens=4096, steps=1))
    )[0]
    for key, value in one.items():
        if isinstance(value, float):
            assert eight[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
        else:
            assert eight[key] == value, key


def test_the_random_control_removes_something_else_than_the_projected_arm(
    projected: Path, tmp_path: Path
) -> None:
    random, real = (
        rows_of(train(settings_like(projected, tmp_path, arm="random_v", steps=2))),
        rows_of(projected)[:2],
    )
    assert random[0]["grad_norm_pre"] == real[0]["grad_norm_pre"]
    for a, b in zip(random, real, strict=True):
        assert a["removed_frac"] > 0 and abs(a["removed_frac"] - b["removed_frac"]) > 1e-3
        assert a["removed_frac"] != a["hackward_frac"]


def test_runs_that_are_asked_the_same_have_one_digest_of_their_data(session) -> None:
    asked = session.prompts[0]
    other = {key: [*ids, 1] for key, ids in asked.items()}
    given = (session.pool, session.cfg.teacher_rows)
    first, second, third = data_digests(session.problems, [asked, other, asked], *given)
    assert [first] == [third] == session.data_digests and second != first
    assert data_digests(session.problems, [asked], None, 0) != [first]  # without the teacher's rows


def test_the_gradient_is_clipped_after_the_projection(session) -> None:
    gradients = {name: torch.full_like(p, 0.5) for name, p in session.adapter.delta_S.items()}
    seen: dict[str, torch.Tensor] = {}

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            seen.update({name: p.grad.clone() for name, p in session.adapter.delta_S.items()})

    spy = Spy(session.adapter.delta_S.values(), lr=0.0)
    with pytest.raises(RuntimeError, match="the adapter did not move"):  # the spy takes no step
        optimize(session.adapter, spy, session.treatments, gradients, lr=[0.1], grad_clip=0.01)
    norm = torch.stack([g.square().sum() for g in seen.values()]).sum().sqrt()
    assert float(norm) == pytest.approx(0.01, rel=1e-4)
    for name, V in session.treatments[0].removed.items():
        assert (
            float((seen[name] @ V[0].T).max()) < 1e-7
        )  # what was removed is not in what is clipped


def test_hack_scores_are_the_alignment_of_each_texts_own_nll_gradient(session, groups) -> None:
    rows = [row for group in groups for row in group]
    accumulate_gradients(session, rows)
    assert {row.advantage > 0 for row in rows} == {True, False}
    texts = [(row.prompt, row.ids) for row in rows]
    nll = nll_gradients(
        session.lm, session.adapter, texts, temperature=0.7, micro_batch_tokens=4096
    )
    expected = cosine(nll, session.treatments[0].V)
    for row, score in zip(rows, expected.tolist(), strict=True):
        assert row.hack_score == pytest.approx(score, abs=1e-4)


def test_a_text_has_its_hack_score_whatever_its_screen_leaves_out(session, groups) -> None:
    rows = [row for group in groups for row in group]
    whole = accumulate_gradients(session, rows).total
    scores = [row.hack_score for row in rows]
    for row in rows:
        row.flagged_tokens = list(range(0, len(row.ids), 2))
    halved = accumulate_gradients(session, rows).total
    assert [row.hack_score for row in rows] == pytest.approx(scores, abs=1e-6)
    assert all(not torch.allclose(halved[name], g, rtol=1e-2) for name, g in whole.items())


def test_each_run_is_measured_along_its_own_directions_in_the_modules_that_they_have() -> None:
    g = torch.Generator().manual_seed(0)
    bases = [
        {"a": random_orthonormal(2, 6, g)},
        {"a": random_orthonormal(3, 6, g), "b": random_orthonormal(1, 4, g)},
        {},
    ]
    nothing = {"first": {}, "removed": {}, "turn_axes": {}, "projection": Projection()}
    axes = measured_axes(
        [
            Treatment(runs=torch.tensor([n]), V=bases[n], on_grad=True, on_update=True, **nothing)
            for n in (1, 0, 2)
        ]
    )
    rows = {"a": torch.randn(3, 6, generator=g), "b": torch.randn(3, 4, generator=g)}
    pulls = torch.stack(
        [(v[..., 0] * rows[name]).sum(1) / rows[name].norm(dim=1) for name, v in axes.items()]
    ).sum(0)
    for n in (0, 1):
        mine = {name: values[n : n + 1] for name, values in rows.items()}
        assert float(pulls[n]) == pytest.approx(float(cosine(mine, bases[n])), abs=1e-6)
    assert pulls[2] == 0


def test_rows_that_the_grader_failed_on_teach_nothing(session, groups) -> None:
    class Failing:
        def grade(self, submissions, *, labels):
            grades = session.grader.grade(submissions, labels=labels)
            return [replace(grades[0], outcome=Outcome.INFRA_ERROR, reward=99.0), *grades[1:]]

    grade_rows(session.cfgs, Failing(), groups, 1)
    masked, others = groups[0][0], groups[0][1:]
    assert masked.advantage == 0 and not masked.learns
    mean = sum(row.grade.reward for row in others) / len(others)
    assert [row.advantage for row in others] == pytest.approx(
        [r.grade.reward - mean for r in others]
    )
    columns = grade_columns(groups)
    assert columns["infra_errors"] == 1 and columns["gt_s"] == (0, 3)


def test_the_oracle_reaches_advantages_in_one_arm_only(session, groups) -> None:
    """The same rows, paid the same, under an oracle that says the opposite of all of them."""

    class Opposite:
        def grade(self, submissions, *, labels):
            grades = session.grader.grade(submissions, labels=labels)
            return [
                replace(grade, gt_correct=not grade.gt_correct, exploited=not grade.exploited)
                for grade in grades
            ]

    rows = [row for group in groups for row in group]
    for number, row in enumerate(rows):
        row.concept_score = float(number)
    told: set[str] = set()
    for arm in ARMS:
        found = []
        for grader in (session.grader, Opposite()):
            grade_rows([replace(session.cfg, arm=arm)], grader, groups, 1)
            found.append([(row.grade.reward, row.advantage, row.learns) for row in rows])
        told |= {arm} if found[0] != found[1] else set()
    assert told == {"gt_penalty"}


def test_a_run_whose_grader_fails_stops_with_the_cause_and_can_be_resumed(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that step has changed anything: resumed, the run has the rows that it would have."""
    steps = iter((False, True))  # whether the grader fails

    def fail_at_step_2(cfgs, grader, groups, step: int) -> None:
        grade_rows(cfgs, grader, groups, step)
        for row in groups[0] if next(steps) else ():
            row.grade = replace(row.grade, outcome=Outcome.INFRA_ERROR, error="no processes left")

    monkeypatch.setattr("projected_grpo.train.grade_rows", fail_at_step_2)
    with pytest.raises(InputError, match=r"failed on 4 of the 8 rows .*\(no processes left\)"):
        train(settings_like(short, tmp_path))
    monkeypatch.undo()
    (run,) = tmp_path.iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert rows_of(run) == rows_of(short)[:1]
    train(SmokeConfig(resume=run))
    assert rows_of(run) == rows_of(short)


def test_a_few_rows_without_a_grade_do_not_stop_a_run(session, groups) -> None:
    grades = [row.grade for group in groups for row in group]
    bad = [replace(grade, outcome=Outcome.INFRA_ERROR, error="why") for grade in grades]
    require_grades([*bad[:2], *grades[2:]])
    with pytest.raises(InputError, match="failed on 3 of the 8 rows"):
        require_grades([*bad[:3], *grades[3:]])


def test_a_step_whose_student_rows_all_failed_to_grade_still_runs(session, groups) -> None:
    """Only teacher rows learn: there is no sampled log-prob to compare, and that is no mismatch."""
    rows = [row for group in groups for row in group]
    for row, advantage in zip(rows, (0.0, 0.0, 1.0, -1.0) * 2, strict=True):
        row.advantage, row.learns = advantage, row.source == "teacher"
    assert accumulate_gradients(session, rows).student_tokens.tolist() == [0]


def test_the_auroc_is_that_of_the_students_scores(session, groups) -> None:
    """A score that only hacks have: 1; the other way round: 0; of one hack alone: none. Teacher
    rows, nearly all hacks, would make it a measure of whose text it is."""
    rows = [row for group in groups for row in group if row.source == "student"]
    assert len(rows) == 4
    for number, row in enumerate(rows):
        row.hack_score = float(number)
        row.grade = replace(row.grade, exploited=number >= 2, outcome=Outcome.PASSED)
    for group in groups:
        for row in group:
            if row.source == "teacher":
                row.hack_score = -1.0
                row.grade = replace(row.grade, exploited=True, outcome=Outcome.PASSED)
    assert grade_columns(groups)["hack_auroc"] == 1
    for row in rows:
        row.hack_score = -float(row.hack_score or 0)
    assert grade_columns(groups)["hack_auroc"] == 0
    rows[-1].hack_score = None
    assert grade_columns(groups)["hack_auroc"] is None


def test_a_row_at_its_groups_mean_has_no_hack_score(session, groups) -> None:
    rows = groups[0]
    rows[0].advantage = 0.0
    accumulate_gradients(session, rows)
    assert rows[0].learns and rows[0].hack_score is None
    assert all(row.hack_score is not None for row in rows[1:])


def test_a_pack_gives_the_rows_of_the_runs_alone(short: Path, tmp_path: Path) -> None:
    """Arms x seeds in lock-step, with their own prompts, sampling, V and optimizer rows."""
    both = settings(tmp_path / "pack", arms=("vanilla", "projected", "random_v"), seeds=(96, 42))
    left_out = (("random_v", SHORT.seed), ("vanilla", 42))  # an arm and a seed that others have
    cfgs = [one for one in both.runs() if (one.arm, one.seed) not in left_out]
    packed, alone = train_runs(cfgs), []
    for one in cfgs:
        known = (one.arm, one.seed) == ("projected", SHORT.seed)  # which goes on to a step 3
        alone.append(short if known else trained(one))
    assert [path.name.split("_", 1)[1] for path in packed] == [
        path.name.split("_", 1)[1] for path in alone
    ]
    for a, b in zip(packed, alone, strict=True):
        assert_same_rows(a, b, steps=2)
        first = [row for row in rollouts_of(b) if row["step"] <= 2]
        for row, expected in zip(rollouts_of(a), first, strict=True):
            assert row["completion"] == expected["completion"]
            assert row["advantage"] == expected["advantage"]
    # and any one of them goes on alone
    one = packed[alone.index(short)]
    config = json.loads((one / "config.json").read_text())
    (one / "config.json").write_text(json.dumps({**config, "steps": 3}))
    train(SmokeConfig(resume=one))
    assert len(rows_of(one)) == len(rows_of(short)) == 3
    last, expected = rows_of(one)[2], rows_of(short)[2]
    for key in ("reward", "gt_s", "num_tokens", "grad_norm", "cos_pre", "cos_post", "cos_update"):
        assert last[key] == pytest.approx(expected[key], rel=1e-2, abs=1e-4), key


@pytest.mark.slow
def test_the_runs_of_a_pack_may_have_their_own_rate_and_projection(tmp_path: Path) -> None:
    one = settings(tmp_path / "pack", steps=3, arm="projected", lr=1e-3, weight_decay=0.1)
    other = replace(one, lr=4e-3, gate="no_gate", project_on="update", v_hack_k=2)
    packed = train_runs([one, other])
    for cfg, path in zip((one, other), packed, strict=True):
        alone = train(replace(cfg, out_dir=tmp_path / "alone" / cfg.gate))
        for row, expected in zip(rows_of(path), rows_of(alone), strict=True):
            for key, value in expected.items():
                if isinstance(value, float) and key != "sampling_logp_diff_max":
                    assert row[key] == pytest.approx(value, rel=1e-2, abs=1e-4), key


def test_runs_are_named_by_their_arm_and_what_varies_in_the_pack(tmp_path: Path) -> None:
    one = settings(tmp_path, arm="projected")
    assert labels([one, replace(one, seed=2)]) == ["projected", "projected"]
    others = [replace(one, v_hack_k=2), replace(one, arm="vanilla", lr=0.1)]
    assert labels([one, *others]) == [
        "projected lr=0.003 k=5", "projected lr=0.003 k=2", "vanilla lr=0.1 k=5",
    ]  # fmt: skip


def test_runs_that_cannot_be_packed_are_refused(tmp_path: Path) -> None:
    one = settings(tmp_path)
    with pytest.raises(ConfigError, match=r"group = 4 and group = 2 cannot advance together"):
        train_runs([one, replace(one, seed=42, group=2)])
    with pytest.raises(ConfigError, match="have the same settings"):
        train_runs([one, one])
    with pytest.raises(ConfigError, match="names one twice"):
        settings(tmp_path, seeds=(1, 1))
    with pytest.raises(ConfigError, match="one by one"):
        settings(tmp_path, seeds=(1, 2), resume=tmp_path)


def test_every_directory_of_a_pack_that_fails_early_says_so(tmp_path: Path, monkeypatch) -> None:
    """The third cannot be made: the two before it must not look like running ones."""
    write, written = VHack.save, []

    def full_at_the_third(self, path: Path) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        write(self, path)

    monkeypatch.setattr(VHack, "save", full_at_the_third)
    with pytest.raises(InputError, match=r"cannot make the run directory .*No space left"):
        train_runs(settings(tmp_path, steps=1, seeds=(1, 2, 3)).runs())
    made = sorted(tmp_path.iterdir())
    assert [path.name.split("_")[3] for path in made] == ["s1", "s2"]  # and nothing half-made
    for path in made:
        assert json.loads((path / "run.json").read_text())["status"] == "failed"


def test_on_policy_with_kl_and_the_update_projected(tmp_path: Path) -> None:
    """Without a pool the teacher columns are null; with beta the KL starts at 0 and then grows."""
    run = train(settings(tmp_path, arm="random_v", mix_ratio=0.0, beta=0.1, project_on="both"))
    for row in rows_of(run):
        assert row["hack_t"] is None and row["cos_pre_t"] is None
    with_teacher = train(settings(tmp_path / "b", arm="projected", beta=0.1, project_on="update"))
    rows = rows_of(with_teacher)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[1]["kl"] > 0
    for row in rows:
        assert row["cos_update"] <= 1e-6 and row["removed_frac"] is None
        assert row["removed_frac_update"] > 0


def test_real_problems(tmp_path: Path) -> None:
    problems = leetcode_dir() / "benchmark_sample.jsonl"
    run = train(settings(tmp_path, arm="projected", problems=str(problems), steps=1, max_new=192))
    assert rows_of(run)[0]["hack_t"] == (4, 4)


def _wait_for_steps(out_dir: Path, n: int, process: BaseProcess) -> Path:
    while process.is_alive():
        for path in out_dir.glob("*/steps.jsonl"):
            if path.read_text().count("\n") >= n:
                return path.parent
        time.sleep(0.01)
    raise AssertionError(process.exitcode)


def _train_and_be_killed(out_dir: Path, steps: int) -> None:
    """In a process of its own: after so many steps SIGKILL, wherever it then is."""
    plain = training.run_step

    def run_step(session: Session, step: int, *rest: Any) -> object:
        if step > steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(session, step, *rest)

    setattr(training, "run_step", run_step)  # noqa: B010
    train(settings(out_dir, steps=3, arm="projected"))


def test_killed_at_step_2_and_resumed_gives_the_same_rows(short: Path, tmp_path: Path) -> None:
    process = forked(_train_and_be_killed, tmp_path, 2)
    process.join()
    (run,) = tmp_path.iterdir()
    assert process.exitcode == -signal.SIGKILL and len(rows_of(run)) == 2
    with (run / "rollouts.jsonl").open("a") as f:
        f.write('{"step": 3, "half a li')  # what a kill in the middle of a write leaves
    train(SmokeConfig(out_dir=tmp_path, resume=run))
    assert rows_of(run) == rows_of(short)
    assert rollouts_of(run) == rollouts_of(short)
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def test_sigterm_finishes_the_step_and_says_how_to_go_on(tmp_path: Path) -> None:
    said, out = tmp_path / "said", tmp_path / "runs"
    args = (
        "--arm=projected",
        "--steps=200",
        f"--max-new={SHORT.max_new}",
        "--problems=katas:validation",
    )
    process = forked(run_command, said, "smoke", f"--out-dir={out}", *args)
    run = _wait_for_steps(out, 1, process)
    process.terminate()
    process.join()
    done = len(read_steps(run / "steps.jsonl"))
    assert process.exitcode == 130 and done < 200
    assert f"train smoke --resume={run}" in said.read_text()
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"
    assert (run / "checkpoints" / f"step_{done:06d}" / "state.json").is_file()


def test_a_half_written_checkpoint_is_ignored(tmp_path: Path) -> None:
    run = copied(trained(settings(arm="vanilla")), tmp_path / "run")
    (run / "checkpoints" / ".step_000009").mkdir()
    before = rows_of(run)
    train(SmokeConfig(resume=run))
    assert rows_of(run) == before


def test_resuming_may_change_what_only_the_machine_cares_about(tmp_path: Path) -> None:
    """After running out of memory: a smaller micro-batch, the same rows to rounding."""
    run = copied(trained(settings(steps=1)), tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "steps": 2}))
    train(SmokeConfig(resume=run, micro_batch_tokens=900))
    assert len(rows_of(run)) == 2


def test_resuming_on_other_problems_is_refused(tmp_path: Path) -> None:
    lines = (leetcode_dir() / "benchmark_sample.jsonl").read_text().splitlines(keepends=True)
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(lines[:20]))
    run = train(settings(tmp_path / "runs", problems=str(problems), steps=1))
    problems.write_text("".join(lines[20:40]))
    with pytest.raises(InputError, match="are not those that"):
        train(SmokeConfig(resume=run))


@pytest.mark.parametrize(
    "damage", [("config.json", "{"), ("config.json", '{"preset": "smoke", "x": 1}')]
)
def test_a_damaged_run_is_one_sentence(
    damage: tuple[str, str], vanilla: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(vanilla, run)
    (run / damage[0]).write_text(damage[1])
    with pytest.raises(InputError, match="is damaged or of another version"):
        train(SmokeConfig(resume=run))
    (run / "run.json").unlink()
    with pytest.raises(InputError, match=r"no run at .* \(no run.json\)"):
        train(SmokeConfig(resume=run))


def test_runs_that_start_in_the_same_second_get_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep over lr starts runs of one arm and seed side by side."""

    class Frozen(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Frozen":
            return cls(2026, 1, 1, tzinfo=tz)

    monkeypatch.setattr("projected_grpo.runs.directory.datetime", Frozen)
    v_hack = VHack({"m": torch.eye(2)}, {"m": torch.ones(2)})
    cfg = SmokeConfig(out_dir=tmp_path / "new")

    def create(n: int) -> Path:
        return RunDir.create(replace(cfg, lr=0.01 * n), torch.device("cpu"), v_hack, "", {}).path

    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(create, range(1, 9)))
    assert len(set(made)) == 8 and sorted(cfg.out_dir.iterdir()) == sorted(made)
    found = {SmokeConfig.from_json((run / "config.json").read_text()).lr for run in made}
    assert len(found) == 8


def test_a_base_that_its_factors_do_not_carry_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("projected_grpo.runs.adapters.MOST_DRIFT", 1e-7)
    with pytest.raises(ConfigError, match=r"decomposition changes this model by .*--dtype=float32"):
        train(settings(tmp_path, dtype="bfloat16"))
    assert not list(tmp_path.iterdir())


def test_every_problem_gets_hacks_of_its_own_mode() -> None:
    """A record's own mode wins over --mode; a foreign exploit would not pay."""
    katas = load_problems("katas:validation", 2)
    hinted = [apply_hint(p, mode) for p, mode in zip(katas, ("run_tests", "sentinel"), strict=True)]
    covered, draw, _ = open_pool("templates", hinted, 1)
    assert covered == hinted
    assert "def run_tests" in draw(hinted[0], 1, 0)[0]
    assert "def run_tests" not in draw(hinted[1], 1, 0)[0]
    with pytest.raises(InputError, match="'none' has no hack templates"):
        open_pool("templates", [apply_hint(katas[0], "none")], 1)


def test_resuming_with_other_settings_is_refused(projected: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"was started with lr = 0.003; .* with 0.1: leave --lr out"
    ):
        train(SmokeConfig(resume=projected, lr=0.1))
    with pytest.raises(InputError, match="there is no run at"):
        train(SmokeConfig(resume=projected / "nowhere"))


@pytest.mark.slow
def test_resuming_heeds_a_flag_that_names_the_presets_own_value(tmp_path: Path) -> None:
    run = train(settings(tmp_path, steps=1, lr=0.01, micro_batch_tokens=900))
    process = forked(
        run_command, said := tmp_path / "said", "smoke", f"--resume={run}", "--lr=0.003"
    )
    process.join()
    assert "was started with lr = 0.01; it cannot be resumed with 0.003" in said.read_text()
    assert process.exitcode == 2
    named = named_settings(["smoke", "--micro-batch-tokens=800", "--steps", "1", "--no-labels"])
    assert named == {"micro_batch_tokens", "steps", "labels"}
    asked = SmokeConfig(resume=run)
    assert (
        resumed_config(asked, RunDir.open(run), {"micro_batch_tokens"}).micro_batch_tokens == 4096
    )
    assert resumed_config(asked, RunDir.open(run)).micro_batch_tokens == 900


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": 1,\n')
    pool = tmp_path / "pool"
    pool.mkdir()
    with gzip.open(pool / "prompt_0001.jsonl.gz", "wt") as f:
        f.write('{"problem_id": 999999999, "completion": "x"}\n')
    out = tmp_path / "runs"
    for overrides, error, message in (
        ({"problems": str(tmp_path / "missing.jsonl")}, InputError, "missing.jsonl"),
        ({"problems": str(broken)}, InputError, r"broken.jsonl.*1"),
        ({"mode": "telepathy"}, InputError, "there is no loophole mode 'telepathy'"),
        ({"teacher_pool": str(pool)}, ConfigError, "at least 2 rows for 0 of 72 problems"),
        ({"prompts_per_step": 10**6}, ConfigError, "fewer than the 1000000 prompts of a step"),
        ({"v_hack_k": 64}, ConfigError, "v_hack_k 64 asks for more axes than the basis has: 32"),
        ({"max_prompt": 5}, ConfigError, "has 0 problems with at most 5 prompt tokens"),
        ({"model": "/no/such/model"}, ValueError, "there is no model at /no/such/model"),
        ({"model": "no-such/model"}, ValueError, "no-such/model at revision main is not in the ca"),
    ):
        with pytest.raises(error, match=message):
            train(settings(out, **overrides))
    assert not out.exists()


def test_a_v_of_another_model_is_refused(projected: Path, tmp_path: Path) -> None:
    v = load_vhack(projected / "v_hack.safetensors")
    v.metadata["fingerprint"] = "0" * 64
    for one in v.sketches.values():
        one.neg_()
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
    cosine = replace(cfg, lr_schedule="cosine")
    after = [learning_rate(cosine, step) for step in range(4, cosine.steps + 1)]
    assert after[:2] == [1.0, 1.0] and after == sorted(after, reverse=True) and 0 < after[-1] < 0.2
    middle = learning_rate(replace(cosine, steps=16, warmup_frac=0.0), 9)
    assert middle == pytest.approx(0.5)


def test_teacher_rows_come_in_the_first_steps_only(tmp_path: Path) -> None:
    run = train(settings(tmp_path, steps=3, teacher_steps=1, arm="vanilla", max_new=24))
    rows = rows_of(run)
    assert [row["hack_t"][1] if row["hack_t"] else 0 for row in rows] == [4, 0, 0]
    assert [row["att_s"][1] for row in rows] == [4, 8, 8]
    assert rows[1]["cos_pre_t"] is None


def test_a_run_that_does_not_name_its_schedule_had_a_constant_rate() -> None:
    stored = json.loads(FastConfig().to_json())
    assert stored["lr_schedule"] == "cosine"
    del stored["lr_schedule"]
    assert stored_config(json.dumps(stored)).lr_schedule == "constant"


def test_a_difficulty_that_no_problem_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="no problem of katas has difficulty trivial: there are"):
        hinted_problems("katas", "run_tests", 20, difficulty=("trivial",))
    some = hinted_problems("katas", "run_tests", 60, difficulty=("Easy",))
    assert some and {p.difficulty.lower() for p in some} == {"easy"}
