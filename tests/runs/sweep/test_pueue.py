"""The queue of a real pueue daemon."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import rows_of
from loguru import logger
from pueue_daemon import PueueDaemon, daemon_that_is_found

from projected_grpo.config import ConfigError
from projected_grpo.env.errors import InputError
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.sweep import pueue
from projected_grpo.runs.sweep.job import LaunchOptions, NoQueueError, SweepJob
from projected_grpo.runs.sweep.settings import PueueOptions


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PueueDaemon]:
    """A daemon that the launcher finds."""
    with daemon_that_is_found(tmp_path / "pueue", monkeypatch) as running:
        yield running


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are texts of a shell and their arguments."""
    monkeypatch.setattr(
        "projected_grpo.runs.sweep.pueue.python_command", lambda words: ["sh", "-c", *words]
    )


def job(name: str, *command: str, after: str = "", why: str = "") -> SweepJob:
    return SweepJob(name=name, command=command, after=after, why=why)


def launch(jobs: list[SweepJob], tmp_path: Path, **options: object) -> None:
    how = LaunchOptions(logs=tmp_path, pueue=PueueOptions(**options))
    pueue.run(jobs, pueue.queued(), how)


@pytest.mark.usefixtures("shell")
def test_labels_quotes_and_the_working_folder_arrive_as_they_are(
    tmp_path: Path, daemon: PueueDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a folder's $HOME"
    folder.mkdir()
    monkeypatch.chdir(folder)
    odd = 'it\'s "quoted"; $HOME `id` & more'
    command = ('pwd > place; printf %s "$1" > words', "sh", odd)
    launch([job("one", *command, why="H1; is it so? resolve: 30 points")], tmp_path)
    assert daemon.wait_for_tasks() == ["Success"]
    assert daemon.tasks()[0]["label"] == "one: why: H1; is it so? resolve: 30 points"
    assert (folder / "place").read_text().strip() == str(folder)
    assert (folder / "words").read_text() == odd


@pytest.mark.usefixtures("shell")
def test_what_waits_for_a_job_that_fails_is_dropped_and_the_rest_runs(
    tmp_path: Path, daemon: PueueDaemon
) -> None:
    first = [job("extract", "exit 3"), job("cell", "true", after="extract"), job("other", "true")]
    launch(first, tmp_path)
    assert daemon.wait_for_tasks() == ["Failed", "DependencyFailed", "Success"]
    assert pueue.queued() == {}  # all may be asked for again
    launch([job("extract", "true"), job("cell", "true", after="extract")], tmp_path)
    assert daemon.wait_for_tasks()[3:] == ["Success", "Success"]


@pytest.mark.usefixtures("shell")
def test_every_slot_of_a_group_has_a_gpu_of_its_own(tmp_path: Path, daemon: PueueDaemon) -> None:
    say = "echo $CUDA_VISIBLE_DEVICES > $1; while [ ! -e go ]; do sleep .05; done"
    jobs = [job(f"cell{i}", f"cd {tmp_path}; {say}", "sh", f"gpu{i}") for i in range(3)]
    launch(jobs, tmp_path, group="gpu", gpus=("3", "7"))
    seen = [tmp_path / "gpu0", tmp_path / "gpu1"]
    daemon.wait(lambda: all(path.exists() and path.read_text() for path in seen))
    assert {path.read_text().strip() for path in seen} == {"3", "7"}
    assert sorted(pueue.queued()) == ["cell0", "cell1", "cell2"]
    (tmp_path / "go").touch()
    assert daemon.wait_for_tasks() == ["Success"] * 3
    assert (tmp_path / "gpu2").read_text().strip() in ("3", "7")
    with pytest.raises(ConfigError, match=r"runs 2 tasks at once and --pueue.gpus names 1"):
        launch(jobs, tmp_path, group="gpu", gpus=("3",))


@pytest.mark.usefixtures("shell")
def test_after_a_daemon_was_killed_its_queue_is_known_and_said_to_be_paused(
    tmp_path: Path, daemon: PueueDaemon
) -> None:
    wait = f"cd {tmp_path}; touch began; while [ ! -e go ]; do sleep .05; done"
    launch([job("runs", wait), job("waits", "true")], tmp_path)
    daemon.wait((tmp_path / "began").exists)
    daemon.kill()
    with pytest.raises(NoQueueError, match="no pueue daemon answers: start one with `pueued"):
        pueue.queued()
    daemon.start()
    said: list[str] = []
    sink = logger.add(said.append, format="{message}")
    try:
        assert list(pueue.queued()) == ["waits"]  # pueue says of the other that it was killed
    finally:
        logger.remove(sink)
        (tmp_path / "go").touch()
    assert "group default is paused" in said[0] and "`pueue start --group default`" in said[0]
    daemon.pueue("start", "--group", "default")
    assert daemon.wait_for_tasks() == ["Killed", "Success"]


def test_what_pueue_refuses_is_its_own_sentence(tmp_path: Path, daemon: PueueDaemon) -> None:
    launch([], tmp_path)
    with pytest.raises(InputError, match=r"`pueue add` failed \(exit 1\): .*\[999\] not found"):
        pueue.run([job("a", after="b")], {"b": "999"}, LaunchOptions(logs=tmp_path))


@pytest.mark.slow
def test_the_recipe_end_to_end(tmp_path: Path, daemon: PueueDaemon) -> None:
    """Extraction, then three seeds of two arms that wait for it; one that is stopped goes on."""
    just = shutil.which("just", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert just is not None
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin" / "uv"  # `uv run sweep` with the interpreter of the tests
    uv.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -m projected_grpo "$@"\n')
    uv.chmod(0o755)
    repository = Path(__file__).parents[3]
    shutil.copy(repository / "justfile", tmp_path)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(repository / "src"), "PATH": path}

    def said(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    daemon.pueue("parallel", "2")
    tiny = ("--steps=2", "--prompts-per-step=2", "--max-new=32", "--dtype=float32")
    recipe = (just, "queue-full", "tiny-random", "katas", *tiny, "--device=cpu", "--threads=1")
    said(*recipe)
    assert len(daemon.tasks()) == 7 and daemon.tasks()[3]["dependencies"] == [0]
    assert "0 of 6 to launch" in said(*recipe)  # they are queued
    runs = tmp_path / "runs"
    daemon.wait(lambda: len(list(runs.glob("*/steps.jsonl"))) > 0, seconds=240)
    running = [n for n, task in daemon.tasks().items() if "Running" in task["status"]]
    daemon.pueue("kill", "--signal", "sigterm", *map(str, running))
    results = daemon.wait_for_tasks(seconds=400)
    assert results[0] == "Success" and set(results) <= {"Success", "Failed", "Killed"}
    states = said(sys.executable, "-m", "projected_grpo", "sweep", "status")
    assert "died" not in states and "failed" not in states  # they saved
    # Stopped in time: the same command goes on with those runs. pueue calls a task killed that had
    # ended its last step when the signal came, so the runs are asked.
    if "6 finished" not in states:
        assert "resume" in said(*recipe)
        assert set(daemon.wait_for_tasks(seconds=400)[7:]) == {"Success"}
    assert "6 finished" in said(sys.executable, "-m", "projected_grpo", "sweep", "status")
    found = [RunDir.open(path.parent) for path in runs.glob("*/config.json")]
    cfgs = sorted((run.stored_config() for run in found), key=lambda cfg: (cfg.seed, cfg.arm))
    arms = ("projected", "vanilla")
    assert [(c.seed, c.arm) for c in cfgs] == [(seed, arm) for seed in (41, 42, 43) for arm in arms]
    assert all("; resolve: " in cfg.why for cfg in cfgs)
    assert all(len(rows_of(run.path)) == 2 for run in found)
    labels = [task["label"] for task in daemon.tasks().values()]
    assert all("why: H1, " in label and "resolve: " in label for label in labels)
