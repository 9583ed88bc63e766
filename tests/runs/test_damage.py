"""Damage to run directories: each kind is a sentence, and the last whole checkpoint is used where
there is one."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import assert_same_rows, rollouts_of, rows_of
from loguru import logger
from short_runs import SHORT, forked, run_command, trained

from projected_grpo.config import SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.runs.begin import restore
from projected_grpo.runs.directory import RunDir, resumed_config
from projected_grpo.runs.session import Session, prepare
from projected_grpo.runs.sweep.command import status
from projected_grpo.train import train

EARLIER = Path(__file__).parents[1] / "data" / "f542cc8"
SETTINGS = replace(SHORT, arm="projected", steps=4, checkpoint_every=2)
Damage = Callable[[Path], object]


# --- What can happen to a file


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def missing(file: Path) -> None:
    file.unlink()


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


def flipped(file: Path) -> None:
    """One bit, in the middle: of the adapter a number that is still one."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def written(text: str) -> Damage:
    return lambda file: file.write_text(text)


def with_values(**values: object) -> Damage:
    """Some values of a JSON object changed; None takes them out."""

    def damage(file: Path) -> None:
        record = {**json.loads(file.read_text()), **values}
        file.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))

    return damage


def line(number: int, text: str | None) -> Damage:
    """A line (from 1) replaced; None takes it out."""

    def damage(file: Path) -> None:
        lines = file.read_text().splitlines(keepends=True)
        lines[number - 1 : number] = [] if text is None else [f"{text}\n"]
        file.write_text("".join(lines))

    return damage


def edited(file: Path) -> None:
    """A digit of the last row."""
    text = file.read_text().rstrip("\n")
    place = max(text.rfind(digit) for digit in "12345678")
    file.write_text(f"{text[:place]}{int(text[place]) + 1}{text[place + 1 :]}\n")


def at(name: str, damage: Damage) -> Damage:
    return lambda run: damage(run / name)


NEWEST = "checkpoints/step_000004"
FILES = ("adapter.safetensors", "optimizer.pt", "state.json")
SIMPLE = (truncated, empty, missing, garbage, flipped, folder)

# name -> damage, the step that is gone on from or the refusal, what is warned of
TABLE: dict[str, tuple[Damage, int | str, str]] = {
    **{
        f"{file} {damage.__name__}": (at(f"{NEWEST}/{file}", damage), 2, "step_000002 is used")
        for file in FILES
        for damage in SIMPLE
    },
    "state.json of another step": (
        at(f"{NEWEST}/state.json", with_values(step=3)), 2, "state.json was changed",
    ),
    "state.json of other tokens": (
        at(f"{NEWEST}/state.json", with_values(num_tokens=1)), 2, "state.json was changed",
    ),
    "state.json without its digest": (
        at(f"{NEWEST}/state.json", with_values(sha256=None, step=3)), 2, "is of step 3",
    ),
    "state.json is a list": (at(f"{NEWEST}/state.json", written("[]")), 2, "no JSON object"),
    "a newer folder that is empty": (
        lambda run: (run / "checkpoints/step_000005").mkdir(), 4, "not step_000005: state.json",
    ),
    "a newer folder under another number": (
        lambda run: (run / NEWEST).rename(run / "checkpoints/step_000009"), 2, "is of step 4",
    ),
    "a file named step_zzz": (
        lambda run: (run / "checkpoints/step_zzz").write_text(""), 4, "",
    ),
    "a file named step_000009": (
        lambda run: (run / "checkpoints/step_000009").write_text(""), 4, "",
    ),
    "a checkpoint half written": (
        lambda run: (run / "checkpoints/.step_000006").mkdir(), 4, "",
    ),
    "the newest checkpoint removed": (lambda run: shutil.rmtree(run / NEWEST), 2, ""),
    "checkpoints/ removed": (
        lambda run: shutil.rmtree(run / "checkpoints"), 0, "has no checkpoint: it begins again",
    ),
    "every checkpoint damaged": (
        lambda run: [flipped(f) for f in run.glob("checkpoints/*/adapter.safetensors")],
        "no checkpoint of .* can be used .*adapter.safetensors was changed.*restore", "",
    ),
    "run.json truncated": (at("run.json", truncated), "run.json is damaged", ""),
    "run.json empty": (at("run.json", empty), "run.json is damaged", ""),
    "run.json missing": (at("run.json", missing), r"no run at .* \(no run.json\)", ""),
    "run.json a list": (at("run.json", written("[]")), "is damaged .no JSON object", ""),
    "run.json without its data": (
        at("run.json", with_values(data=None)), "does not say which data", "",
    ),
    "run.json with a number as data": (
        at("run.json", with_values(data=3)), "does not say which data", "",
    ),
    "run.json of other data": (
        at("run.json", with_values(data="0" * 64)), "are not those that", "",
    ),
    "run.json in no UTF-8": (
        at("run.json", lambda file: file.write_bytes(b'{"data": "\xff"}')), "is damaged", "",
    ),
    "config.json truncated": (at("config.json", truncated), "damaged or of another", ""),
    "config.json a list": (at("config.json", written("[]")), "damaged or of another", ""),
    "config.json with an unknown setting": (
        at("config.json", with_values(x=1)), "damaged or of another", "",
    ),
    "config.json missing": (at("config.json", missing), r"no run at .* \(no config.json\)", ""),
    **{
        f"{file}: {name}": (at(file, damage), outcome, warned)
        for file in ("steps.jsonl", "rollouts.jsonl")
        for name, damage, outcome, warned in (
            ("empty", empty, f"no checkpoint of .*{file} has lost rows", ""),
            ("missing", missing, "no run at", ""),
            ("first row garbage", line(1, "}garbage{"), f"no checkpoint of .*{file}", ""),
            ("first row taken out", line(1, None), f"no checkpoint of .*{file}", ""),
            ("last row taken out", line(-1, None), 2, "step_000002 is used"),
            ("last row edited", edited, 2, f"rows of {file} were changed"),
            ("in no UTF-8", lambda f: f.write_bytes(b"\xff" + f.read_bytes()[1:]), "no check", ""),
        )
    },
    "steps.jsonl: third row garbage": (
        at("steps.jsonl", line(3, '{"step": 3, "hal')), 2, "steps.jsonl",
    ),
    "steps.jsonl: shorter than the checkpoint": (
        at("steps.jsonl", lambda file: file.write_bytes(file.read_bytes()[:-30])), 2, "lost rows",
    ),
    "steps.jsonl: half a line after it": (
        at("steps.jsonl", lambda file: file.open("a").write('{"step": 5, "ha')), 4, "",
    ),
    "v_hack.safetensors flipped": (
        at("v_hack.safetensors", flipped), "no checkpoint of .* v_hack.safetensors was changed", "",
    ),
    "v_hack.safetensors missing": (
        at("v_hack.safetensors", missing), "no checkpoint of .*v_hack.safetensors: No such", "",
    ),
}  # fmt: skip


def test_the_table_is_long() -> None:
    assert len(TABLE) >= 36


@pytest.fixture(scope="module")
def whole() -> Path:
    return trained(SETTINGS)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with ExitStack() as stack:
        yield prepare([SETTINGS], stack)[0]


@contextmanager
def warnings() -> Iterator[list[str]]:
    said: list[str] = []
    number = logger.add(lambda message: said.append(str(message)), level="WARNING")
    yield said
    logger.remove(number)


def reopen(run: Path, s: Session) -> int:
    """What `train --resume` does with a directory, on a model that is loaded already."""
    directory = RunDir.open(run)
    with directory.locked():
        directory.require_idle()
        resumed_config(SmokeConfig(resume=run), directory)
        with ExitStack() as stack:
            return restore(s, [directory], stack)[1]


@pytest.mark.parametrize("kind", TABLE)
def test_damage(kind: str, whole: Path, session: Session, tmp_path: Path) -> None:
    damage, outcome, warned = TABLE[kind]
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    damage(run)
    if isinstance(outcome, str):
        with pytest.raises(InputError, match=outcome) as refusal:
            reopen(run, session)
        assert "\n" not in str(refusal.value)
        return
    with warnings() as said:
        assert reopen(run, session) == outcome
    assert len(said) == bool(warned) and warned in "".join(said)
    assert rows_of(run) == rows_of(whole)[:outcome]
    assert rollouts_of(run) == [row for row in rollouts_of(whole) if row["step"] <= outcome]


@pytest.mark.parametrize(
    "kind",
    ["adapter.safetensors flipped", "rollouts.jsonl: last row edited", "checkpoints/ removed"],
)
def test_what_is_run_again_gives_the_same_rows(kind: str, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    TABLE[kind][0](run)
    train(SmokeConfig(resume=run))
    assert rows_of(run) == rows_of(whole) and rollouts_of(run) == rollouts_of(whole)


# --- Checkpoints of earlier versions, which have no checksums

OF_EARLIER: dict[str, tuple[Damage, int | str]] = {
    "untouched": (lambda run: None, 6),
    **{
        f"{file} {damage.__name__}": (at(f"checkpoints/step_000006/{file}", damage), 3)
        for file in FILES
        for damage in (truncated, empty, missing, garbage, folder)
    },
    "state.json edited": (at("checkpoints/step_000006/state.json", with_values(step=5)), 3),
    "state.json without tokens": (
        at("checkpoints/step_000006/state.json", with_values(num_tokens=None)), 3,
    ),
    "steps.jsonl shorter": (at("steps.jsonl", line(-1, None)), 3),
    "steps.jsonl with a row twice": (
        at("steps.jsonl", lambda f: f.write_text(f.read_text() * 2)), 3,
    ),
    "a row taken out": (at("steps.jsonl", line(2, None)), "from step 1 to step 3"),
    "garbage in the middle": (at("steps.jsonl", line(2, "}{")), "row 2 of steps.jsonl is damaged"),
    "no rollouts": (at("rollouts.jsonl", empty), "rollouts.jsonl ends at step 0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_EARLIER)
def test_damage_to_a_run_of_an_earlier_version(kind: str, tmp_path: Path) -> None:
    damage, outcome = OF_EARLIER[kind]
    run = tmp_path / "run"
    shutil.copytree(EARLIER / "finished", run)
    damage(run)
    needed = ("adapter.safetensors", "optimizer.pt")
    if isinstance(outcome, str):
        with pytest.raises(InputError, match=outcome):
            RunDir.open(run).newest_checkpoint(needed)
        return
    found = RunDir.open(run).newest_checkpoint(needed)
    assert found is not None and found.step == outcome


# --- Two at once


def test_two_cannot_go_on_with_one_run(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    refused = pytest.raises(InputError, match="is running in another process")
    with RunDir.open(run).locked(), refused:
        train(SmokeConfig(resume=run))
    train(SmokeConfig(resume=run))  # the lock has gone with who held it


# --- Disks


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A tmpfs of that size, and how to mount it again with other options; skips without rights."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield (
            lambda options: (
                subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True) and None
            )
        )
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    said, flags = tmp_path / "said", ("--arm=projected", f"--problems={SETTINGS.problems}")
    with small_disk(tmp_path / "disk", "330k"):
        process = forked(run_command, said, "smoke", f"--out-dir={tmp_path / 'disk'}", *flags)
        process.join()
    assert process.exitcode == 1
    assert "No space left on device" in said.read_text().splitlines()[-1]
    assert "Traceback" not in said.read_text() and "Logging error" not in said.read_text()


@pytest.mark.parametrize("size", ["60k", "150k", "310k", "335k"])
def test_a_full_disk(size: str, whole: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size) as remount:
        with warnings() as said, pytest.raises(InputError, match="No space left on device"):
            train(replace(SETTINGS, out_dir=tmp_path / "disk", checkpoint_every=1))
        runs = [path.parent for path in (tmp_path / "disk").glob("*/run.json")]
        assert bool(runs) == (size in ("310k", "335k"))
        assert not list((tmp_path / "disk").glob(".*"))
        remount("size=20m")
        for run in runs:
            assert f"train smoke --resume={run}" in "".join(said)
            train(SmokeConfig(resume=run))
            assert_same_rows(run, whole)
            assert json.loads((run / "run.json").read_text())["status"] == "finished"


def test_a_disk_that_is_read_only(whole: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "20m") as remount:
        run = tmp_path / "disk" / "run"
        shutil.copytree(whole, run)
        remount("ro")
        with pytest.raises(InputError, match=r"cannot write to .*Read-only file system"):
            train(SmokeConfig(resume=run))


def test_an_svd_cache_with_a_folder_in_a_files_place(tmp_path: Path) -> None:
    for file in (EARLIER / "cache" / "svd").iterdir():
        (tmp_path / "cache" / file.name).mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write to the SVD cache .*directory"):
        train(replace(SETTINGS, out_dir=tmp_path / "runs", svd_cache=tmp_path / "cache"))
    assert not (tmp_path / "runs").exists()


def test_files_have_the_mode_that_the_umask_gives(whole: Path) -> None:
    expected = (whole / "config.json").stat().st_mode
    odd = [path for path in whole.rglob("*") if path.is_file() and path.stat().st_mode != expected]
    assert not odd


def test_one_damaged_run_does_not_end_a_list(whole: Path, tmp_path: Path) -> None:
    for name in ("good", "bad", "worse", "worst"):
        shutil.copytree(whole, tmp_path / name)
    (tmp_path / "bad" / "run.json").write_text("[]")
    (tmp_path / "worse" / "config.json").write_text("{")
    (tmp_path / "worst" / "steps.jsonl").unlink()
    with warnings() as said:
        assert "1 run in" in status(tmp_path)
    assert len(said) == 3 and all("is left out" in text for text in said)
