"""What trackers have at the end, read back from their own files: a test of ours would only repeat
what we believe of them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest import rows_of
from loguru import logger
from short_runs import SHORT

from projected_grpo.config import MACHINE_SETTINGS, SmokeConfig, TrackName
from projected_grpo.env.errors import InputError
from projected_grpo.runs.trackers import PROJECT, TRACKERS, Tracker, Trackers, numbers
from projected_grpo.step_logger import COLUMNS, TIMINGS, read_steps
from projected_grpo.train import train, train_runs

Rows = list[tuple[int, dict[str, float]]]


@pytest.fixture(scope="module", autouse=True)
def _local_only(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Set before the libraries are imported and read it."""
    os.environ["WANDB_MODE"] = "offline"
    os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))


def read_tensorboard(run: Path) -> list[Rows]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    found: dict[int, dict[str, float]] = {}
    for key in events.Tags()["scalars"]:
        for event in events.Scalars(key):
            assert key not in found.setdefault(event.step, {})
            found[event.step][key] = event.value
    return [sorted(found.items(), key=lambda item: item[0])]


def wandb_records(file: Path) -> list[Any]:
    """Of a .wandb file, a LevelDB log of protobuf records."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # blocks are filled up
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if at + 7 + size > len(data):
            break  # is being written
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, or the last part
            found.append(Record.FromString(whole))
            whole = b""
    return found


def read_wandb(run: Path) -> list[Rows]:
    """Of every offline folder, once another process, of wandb's own, has written its end."""
    found, ids, latest = [], set(), time.monotonic() + 120
    for file in sorted(run.glob("wandb/offline-run-*/run-*.wandb")):
        while not (records := wandb_records(file)) or not records[-1].HasField("exit"):
            assert time.monotonic() < latest, file
            time.sleep(0.05)
        rows = []
        for record in records:
            ids |= {record.run.run_id} - {""}
            items = {"/".join(i.nested_key) or i.key: i for i in record.history.item}
            row = {key: float(json.loads(item.value_json)) for key, item in items.items()}
            if row:
                values = {k: v for k, v in row.items() if not k.startswith("_")}
                rows.append((int(row["_step"]), values))
        found.append(rows)
    assert len(ids) == 1
    return found


def read_trackio(run: Path) -> list[Rows]:
    from trackio.sqlite_storage import SQLiteStorage

    names = [name for name in SQLiteStorage.get_runs(PROJECT) if name.startswith(run.name + "-")]
    return [
        [
            (row.pop("step"), {k: v for k, v in row.items() if k != "timestamp"})
            for row in SQLiteStorage.get_logs(PROJECT, name)
        ]
        for name in names
    ]


READERS: dict[str, Callable[[Path], list[Rows]]] = {
    "tensorboard": read_tensorboard,
    "wandb": read_wandb,
    "trackio": read_trackio,
}


def assert_is(tracked: Rows, run: Path, but: tuple[str, ...] = ()) -> None:
    """What the tracker has is what steps.jsonl has, every number of it."""
    rows = read_steps(run / "steps.jsonl")
    assert [step for step, _ in tracked] == [row["step"] for row in rows]
    for (_, got), row in zip(tracked, rows, strict=True):
        expected = numbers(row)
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            # a step that was run twice is the same to rounding, which sums near 0 show most
            assert key in but or got[key] == pytest.approx(value, rel=1e-5, abs=1e-7), key


def settings(tmp_path: Path, **overrides) -> SmokeConfig:
    return replace(SHORT, out_dir=tmp_path, max_new=48, **overrides)


def go_on(run: Path, steps: int, **overrides) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "steps": steps}))
    train(SmokeConfig(resume=run, **overrides))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The pack without a tracker."""
    cfg = settings(tmp_path_factory.mktemp("plain"), arms=("vanilla", "projected"))
    return train_runs(cfg.runs())


def like(plain: list[Path], tmp_path: Path, **overrides) -> list[Path]:
    """The same pack, its V read instead of extracted again."""
    v_hack = plain[0] / "v_hack.safetensors"
    cfg = settings(tmp_path, arms=("vanilla", "projected"), v_hack=v_hack, **overrides)
    return train_runs(cfg.runs())


@pytest.mark.parametrize("name", READERS)
def test_a_tracker_has_every_row_once_and_goes_on_in_the_same_run(
    name: str, plain: list[Path], tmp_path: Path
) -> None:
    runs = like(plain, tmp_path, track=name)
    for run, without in zip(runs, plain, strict=True):
        (tracked,) = READERS[name](run)
        assert_is(tracked, run)
        assert rows_of(run) == rows_of(without)  # watched or not: the same rows
    # as after a kill between a row and its checkpoint: step 2 runs again, which the tracker has
    shutil.rmtree(runs[1] / "checkpoints" / "step_000002")
    go_on(runs[1], 3)
    *_, tracked = READERS[name](runs[1])
    assert len(tracked) == 3
    assert_is(tracked, runs[1], but=TIMINGS)
    assert len(READERS[name](runs[1])) == (2 if name == "wandb" else 1)  # folders of one id


def test_a_tracker_chosen_when_a_run_is_resumed_shows_all_of_it(
    plain: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(plain[0], run := tmp_path / "run")
    go_on(run, 3, track="tensorboard")
    assert len(read_steps(run / "steps.jsonl")) == 3
    assert_is(read_tensorboard(run)[0], run)


def test_a_tracker_that_fails_loses_no_row_and_no_other_run(
    plain: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str, float]] = []
    said: list[str] = []

    def breaking(run: Path, name: str, settings: object) -> Tracker:
        arm = run.name.split("_")[2]

        def log(step: int, numbers: object) -> None:
            stored = read_steps(run / "steps.jsonl")
            assert stored[-1]["step"] == step  # the row was there first
            if (arm, step) == ("vanilla", 2):
                raise OSError("the disk of the tracker is full")
            seen.append((arm, "step", step))

        return Tracker(log, lambda code: seen.append((arm, "code", code)), -1, "nowhere")

    monkeypatch.setitem(TRACKERS, "tensorboard", breaking)
    sink = logger.add(said.append, level="WARNING", format="{message}")
    try:
        runs = like(plain, tmp_path, track="tensorboard")
    finally:
        logger.remove(sink)
    assert [rows_of(run) for run in runs] == [rows_of(run) for run in plain]
    assert seen == [
        ("vanilla", "step", 1), ("projected", "step", 1), ("projected", "step", 2),
        ("projected", "code", 0),
    ]  # fmt: skip
    (warning,) = said
    assert "tensorboard failed (OSError: the disk of the tracker is full)" in warning
    assert "its rows are in steps.jsonl" in warning
    assert warning.strip() in " ".join((runs[0] / "train.log").read_text().split())


def test_a_tracker_that_does_not_open_leaves_the_run_alone(
    tmp_path: Path, plain: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(run: Path, name: str, settings: object) -> Tracker:
        raise ConnectionError("no route to host")

    monkeypatch.setitem(TRACKERS, "tensorboard", closed)
    trackers = Trackers("tensorboard")
    trackers.open(plain)
    trackers.step({run: read_steps(run / "steps.jsonl")[0] for run in plain})
    trackers.close("finished")


def test_a_fault_of_ours_is_not_called_one_of_the_tracker(
    plain: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    tracker = Tracker(lambda step, numbers: None, codes.append, -1, "nowhere")
    monkeypatch.setitem(TRACKERS, "tensorboard", lambda run, name, settings: tracker)
    trackers = Trackers("tensorboard")
    trackers.open(plain)
    with pytest.raises(KeyError):
        trackers.step({})  # no row of an open run
    trackers.close("stopped")
    assert codes == [1, 1]
    with pytest.raises(InputError, match="needs the package tensorbord"):
        Trackers("tensorbord")


@pytest.mark.slow
def test_what_a_trackio_server_has_it_is_not_given_again(plain: list[Path], tmp_path: Path) -> None:
    """A Space is such a server: nothing of what it has is on this disk."""
    serve = "import time, trackio; trackio.show(open_browser=False, block_thread=False); "
    there = {**os.environ, "TRACKIO_DIR": str(tmp_path / "there")}
    script = (
        "import sys; from pathlib import Path; from projected_grpo.runs.trackers import Trackers; "
    )
    script += "t = Trackers('trackio'); t.open([Path(sys.argv[1])]); t.close('finished')"
    count = "import sys; from trackio.sqlite_storage import SQLiteStorage as S; "
    count += (
        "print([x['step'] for n in S.get_runs(sys.argv[1]) for x in S.get_logs(sys.argv[1], n)])"
    )
    with subprocess.Popen(
        [sys.executable, "-uc", serve + "time.sleep(600)"],
        env=there,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            (url,) = next(m for line in server.stdout if (m := re.findall(r"http\S+=\S+", line)))
            here = {**os.environ, "TRACKIO_DIR": str(tmp_path / "here"), "TRACKIO_SERVER_URL": url}
            for _ in range(2):
                subprocess.run([sys.executable, "-c", script, plain[0]], env=here, check=True)
        finally:
            server.terminate()
    found = subprocess.run(
        [sys.executable, "-c", count, PROJECT],
        env=there,
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.splitlines()[-1] == "[1, 2]"


@pytest.mark.slow
def test_what_cannot_be_used_is_one_sentence_before_a_model_loads(tmp_path: Path) -> None:
    """From a shell: without the packages, then with wandb but without an account."""
    script = """
import sys
from projected_grpo.cli import train_main
out, *names = sys.argv[1:]
def run(name):
    try: train_main(["smoke", f"--track={name}", f"--out-dir={out}"])
    except SystemExit as ended: print(ended.code, file=sys.stderr)
for name in names:
    sys.modules[name] = None  # as if it were not installed
    run(name)
del sys.modules["wandb"]
run("wandb")
"""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "NETRC"))}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "runs"), *READERS],
        env={**own, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    for name in READERS:
        assert lines[:2] == [
            f"error: --track={name} needs the package {name}: install projected_grpo[track], or "
            "leave --track out",
            "1",
        ]
        del lines[:2]
    assert lines[-2].startswith("error: --track=wandb: No API key"), done.stderr
    assert "WANDB_MODE=offline" in lines[-2] and lines[-1] == "1"
    assert "singular axes" not in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("bad", ({"WANDB_API_KEY": "short"}, {"WANDB_MODE": "ofline"}))
def test_a_bad_setting_of_wandb_is_one_sentence(bad: dict[str, str], tmp_path: Path) -> None:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "NETRC"))}
    script = "from projected_grpo.env.errors import InputError\n"
    script += "from projected_grpo.runs.trackers import Trackers\n"
    script += "try: Trackers('wandb')\nexcept InputError as error: print(error)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**own, "HOME": str(tmp_path), **bad},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("--track=wandb: ") and line.endswith(", or set WANDB_MODE=offline")


def test_numbers_are_shares_and_counts_by_name() -> None:
    row = {column.key: None for column in COLUMNS} | {
        "step": 3, "hack_s": (3, 8), "gt_s": (0, 4), "hack_t": (0, 0), "loss": 7e-8, "fb": 2,
        "outcomes": {"passed": 3, "failed": 5},
    }  # fmt: skip
    assert numbers(row) == {
        "hack_s": 0.375, "gt_s": 0, "loss": 7e-8, "fb": 2, "outcomes/passed": 3,
        "outcomes/failed": 5,
    }  # fmt: skip


def test_names_in_the_config_are_the_names_in_the_code() -> None:
    assert set(get_args(TrackName)) == {"none", *TRACKERS}
    assert {"track", "print_every"} <= set(MACHINE_SETTINGS)
