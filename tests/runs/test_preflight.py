"""What is found before torch is imported, and what a run would be."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from loguru import logger
from safetensors.numpy import save_file

from projected_grpo.cli import train_main
from projected_grpo.config import PRESETS, ConfigError, MiniConfig, SmokeConfig, stored_config
from projected_grpo.env.errors import InputError
from projected_grpo.runs.command_line import parse_settings
from projected_grpo.runs.commands import PART_OF_A_SWEEP, ExtractConfig, named_settings
from projected_grpo.runs.files import require_new
from projected_grpo.runs.plan import memory, plan
from projected_grpo.runs.preflight import finished_already, require_extractable, require_startable
from projected_grpo.runs.sweep.command import extraction
from projected_grpo.runs.sweep.job import job_environment

EARLIER = Path(__file__).parents[1] / "data" / "f542cc8" / "finished"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER, tmp_path / "run"))


def files_of(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_finished_run_is_left_as_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(run)
    preset = stored_config((run / "config.json").read_text()).preset_name
    with pytest.raises(SystemExit) as stop:
        train_main([preset, f"--resume={run}"])
    assert stop.value.code == 0 and "nothing is left to do" in capsys.readouterr().err
    assert files_of(run) == before


@pytest.mark.parametrize("name", ["steps.jsonl", "rollouts.jsonl"])
def test_a_run_that_says_so_but_lacks_rows_goes_on(name: str, run: Path) -> None:
    (run / name).write_bytes((run / name).read_bytes()[:-30])
    said: list[str] = []
    sink = logger.add(lambda message: said.append(str(message)), level="WARNING")
    try:
        assert finished_already(SmokeConfig(resume=run)) is None
    finally:
        logger.remove(sink)
    (sentence,) = said
    assert f"its {name} lacks rows" in sentence and "of 6)" in sentence


def test_a_place_that_cannot_be_written_is_found_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out_dir, said in (
        (tmp_path / "file", "file is a file"),
        (tmp_path / "file" / "runs", "file is a file"),
        (Path("/proc/x"), "/proc is not writable"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(InputError, match=said):
            require_startable([SmokeConfig(out_dir=out_dir)])
    require_startable([SmokeConfig(out_dir=tmp_path / "new" / "runs")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_result_is_written_over_nothing_and_where_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out, overwrite, said in (
        ("file", None, "file is there already: name another with --out, or move it away"),
        ("file", False, "file is there already: .* or add --overwrite to replace it"),
        (".", None, "is there already: name another with --out, or move it away"),
        (".", True, "is a folder: name a file in it"),
        ("file/out", None, "Not a directory|file is a file"),
        ("/proc/out", True, "cannot write to /proc/out: /proc is not writable"),
        ("x" * 300, None, "cannot write to .*File name too long"),
    ):
        with pytest.raises(InputError, match=said):
            require_new(tmp_path / out, overwrite)
    require_new(tmp_path / "file", overwrite=True)
    require_new(tmp_path / "new" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("said", "asked", "words"),
    [
        ({}, {"v_axes": "mean"}, "v_axes svd, the run has mean: .* --v-axes=mean, .* --v-axes=svd"),
        ({}, {"pair_norm": "unit"}, "pair_norm none, the run has unit: .* --pair-norm=none"),
        ({"v_axes": "mean"}, {}, "v_axes mean, the run has svd"),
        ({"pair_norm": "unit", "v_axes": "svd"}, {}, "pair_norm unit, the run has none"),
        ({}, {"temperature": 1.0}, "temperature 0.7, the run has 1.0"),
    ],
)
def test_a_basis_made_otherwise_is_refused_before_a_model_is_loaded(
    said: dict[str, str], asked: dict[str, object], words: str, tmp_path: Path
) -> None:
    """What an older file does not name it was made with as all were then."""
    file, fits = tmp_path / "v.safetensors", {"v_hack_k": 1, "out_dir": tmp_path}
    about = {"model": "tiny-random", "temperature": "0.7", **said}
    save_file({"m.axes": np.zeros((1, 2))}, file, about)
    made_so = {name: value for name, value in said.items() if name not in asked}
    mine = SmokeConfig(v_hack=file, **fits, **made_so)
    require_startable([mine])
    other = SmokeConfig(v_hack=file, **fits, **asked)
    for cfgs in ([other], [mine, other]):
        with pytest.raises(InputError, match=f"{file} was extracted with {words}"):
            require_startable(cfgs)


def test_a_yoked_control_without_its_gate_is_refused_before_a_model_loads(
    run: Path, tmp_path: Path
) -> None:
    gate = SmokeConfig(arm="projected", screen="row", screen_fpr=0.5, out_dir=tmp_path)
    control = replace(gate, screen_fpr=0.02, screen_yoked=True, arm="random_v")
    require_startable([gate, control])
    with pytest.raises(ConfigError, match="one run beside it in the pack"):
        require_startable([control])
    (run / "config.json").write_text(control.to_json())
    require_startable([SmokeConfig(resume=run)])  # it is finished: nothing is left to do
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "stopped"}))
    with pytest.raises(ConfigError, match="one run beside it in the pack"):
        require_startable([SmokeConfig(resume=run)])


def test_a_plan_says_what_is_known_and_writes_nothing(tmp_path: Path) -> None:
    cfg = MiniConfig(arms=("vanilla", "projected"), seeds=(1, 2), lr=0.5, out_dir=tmp_path / "runs")
    said = plan(cfg)
    for words in (
        "--lr 0.5 (preset: 0.03)",
        "projected (seeds 1, 2): the hack directions",
        "40 steps: 2560 rollouts a run",
        "5.2 million numbers",
        "has no run of this shape",
        "4 folders",
    ):
        assert words in said
    assert not list(tmp_path.iterdir())


def test_a_plan_knows_how_long_runs_of_its_shape_took(run: Path) -> None:
    cfg = stored_config((run / "config.json").read_text())
    alike = type(cfg)(**{**vars(cfg), "out_dir": run.parent, "steps": 60})
    assert "s a step (median of 6 steps of this shape" in plan(alike)
    assert f"{run}: 6 of 6 steps have rows" in plan(type(cfg)(resume=run))


def test_a_job_of_a_sweep_may_have_flags_that_act_in_another_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["smoke", "--gate=reverse", f"--out-dir={tmp_path / 'runs'}", "--dry-run"]
    with pytest.raises(SystemExit) as stop:
        train_main(words)
    assert stop.value.code == 2
    monkeypatch.setenv(PART_OF_A_SWEEP, job_environment()[PART_OF_A_SWEEP])
    with pytest.raises(SystemExit) as stop:
        train_main(words)
    assert stop.value.code == 0


@pytest.mark.parametrize("name", PRESETS)
def test_the_extraction_of_a_sweep_is_a_command_that_extract_vhack_takes(
    name: str, tmp_path: Path
) -> None:
    words = extraction([PRESETS[name](device="cpu")], tmp_path / "v")[1:]
    asked = parse_settings(ExtractConfig, words, "extract-vhack")
    require_extractable(asked, named_settings(words))
    assert asked.model == PRESETS[name]().model


def test_a_model_of_which_only_the_config_is_here_has_no_known_memory(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert memory(SmokeConfig(model=str(tmp_path)), 1).startswith("not known")
