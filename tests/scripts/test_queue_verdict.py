"""The verdict on a model of one's own: what is queued, what is left of it, and how it ends."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

import evaluation
import experiment
import plans
import queue_verdict
import tyro
from collect_rows import EVALUATED
from pueue_daemon import daemon_that_is_found
from queue_verdict import Arguments, command_of, estimate, is_done, jobs

from projected_grpo.config import Config, ConfigError
from projected_grpo.runs.sweep.job import SweepJob, python_command


def arguments(out: Path, **changed) -> Arguments:
    start = Arguments(
        model="organism", base="tiny", seeds=(401, 402), out=out, steps=9, launcher="local"
    )
    return replace(start, **changed)


def finished(asked: experiment.Arguments) -> None:
    """All runs that are asked for, as if they had been made and evaluated."""
    held_out = experiment.held_out_of(asked)
    assert held_out is not None
    for number, (_, cfg) in enumerate(experiment.asked_for(asked)):
        path = made(asked.out / "runs" / f"run{number}", cfg)
        about = json.dumps(evaluation.what_is_evaluated(cfg, held_out))
        (path / evaluation.EVALUATED_HOW).write_text(about)
        with gzip.open(path / EVALUATED, "wt"):
            pass


def made(path: Path, cfg: Config) -> Path:
    """A finished run directory whose policy hacks in no answer."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(cfg.to_json())
    about = {"git_sha": "0", "gpu": None, "device": "cpu", "status": "finished", "argv": []}
    (path / "run.json").write_text(json.dumps(about))
    rates = {key: [0, 16] for key in ("hack_s", "att_s", "gt_s", "fmt_s")}
    rows = [{"step": i + 1, **rates, "flavours": {}} for i in range(cfg.steps)]
    (path / "steps.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (path / "rollouts.jsonl").touch()
    return path


@pytest.mark.parametrize("changed", [{}, {"base": "large", "eval_problems": 8, "problems": "x"}])
def test_a_job_is_the_command_that_asks_for_a_seed(tmp_path: Path, changed: dict) -> None:
    args = arguments(tmp_path, **changed)
    for seed, job in zip(args.seeds, jobs(args), strict=True):
        read = tyro.cli(experiment.Arguments, args=job.command[1:])
        assert read == args.of_seed(seed) and read.only == plans.DECIDING
        assert python_command(job.command)[1:] == [*job.command] and not job.after


def test_it_says_beforehand_how_long_and_how_much(tmp_path: Path) -> None:
    text = estimate(arguments(tmp_path, base="large", steps=0), 3)
    assert "3 seeds x 10 runs x 100 steps at 15 s" in text and ": 12 hours on one GPU" in text
    assert "58 GiB" in text and estimate(arguments(tmp_path), 0) == "nothing is left to run"
    assert "(as given): 0.01 hours on one GPU" in estimate(arguments(tmp_path, step_s=0.2), 2)
    with pytest.raises(ConfigError, match="name two or more by --seeds"):
        queue_verdict.main(arguments(tmp_path, seeds=(401,)))


def test_the_same_command_does_what_is_left_and_ends_with_the_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = arguments(tmp_path)
    finished(args.of_seed(401))
    assert is_done(args.of_seed(401)) and not is_done(replace(args, steps=10).of_seed(401))
    assert [job.command[3] for job in jobs(args)] == ["402"]
    queue_verdict.main(replace(args, dry_run=True))
    assert "1 seeds x 10 runs" in capsys.readouterr().out
    finished(args.of_seed(402))
    for seed in args.seeds:  # finds nothing to run, and writes the rows
        experiment.main(args.of_seed(seed))
    capsys.readouterr()
    queue_verdict.main(args)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "own_hacks on organism: nothing is left to run"
    assert said[-1].startswith(
        "tiny own_hacks, steps 5-9. Exploratory, by the rule of H2: H2 untestable (vanilla hacks"
    )
    (args.folder / "seed_402" / "runs" / "run0" / EVALUATED).unlink()
    assert [job.command[3] for job in jobs(args)] == ["402"]


def test_runs_that_cannot_be_compared_lie_apart(tmp_path: Path) -> None:
    """A rehearsal first, then the runs themselves, or the other plan: by the same --out."""
    args = arguments(tmp_path, model="Qwen/Qwen3-4B")
    changes = ({}, {"steps": 0}, {"plan": "founding"}, {"base": "small"}, {"model": "/m/q.gguf"})
    asked = [replace(args, **changed).of_seed(401) for changed in changes]
    assert len({one.rows for one in asked}) == len({one.out for one in asked}) == len(asked)
    assert args.folder == tmp_path / "Qwen-Qwen3-4B_tiny_own_hacks_9_steps"
    assert asked[-1].out == tmp_path / "m-q.gguf_tiny_own_hacks_9_steps" / "seed_401"


def test_a_command_line_that_names_the_group_of_pueue_is_read() -> None:
    args = tyro.cli(Arguments, args=["--model=m", "--pueue.gpus", "0", "1"])
    assert args.pueue.group == "verdict" and args.pueue.gpus == ("0", "1")
    assert args.launcher == "pueue" and command_of(args.of_seed(1))[1] == "own_hacks"


def test_it_waits_for_what_pueue_runs_and_queues_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = daemon_that_is_found(tmp_path / "pueue", monkeypatch)
    monkeypatch.setattr(
        "projected_grpo.runs.sweep.pueue.python_command", lambda words: ["sh", "-c", *words]
    )
    args = arguments(tmp_path, launcher="pueue")
    first = SweepJob(name="first", command=(f"sleep 1; touch {tmp_path / 'one'}",))
    second = SweepJob(name="second", command=(f"touch {tmp_path / 'two'}",), after="first")
    with daemon:
        queue_verdict.launch(args, [first, second], {})
        assert (tmp_path / "one").exists() and (tmp_path / "two").exists()
        queue_verdict.launch(args, [first, second], {"first": "0", "second": "1"})
        assert len(daemon.tasks()) == 2


@pytest.mark.slow
def test_the_whole_chain_on_the_organism(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queue_verdict.main(arguments(tmp_path, eval_problems=1))
    assert "n = 2 seeds." in capsys.readouterr().out.splitlines()[-1]
