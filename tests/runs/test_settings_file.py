"""Settings in a YAML file, and the file that every run writes."""

import re
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projected_grpo.cli import train_main
from projected_grpo.config import PRESETS, ConfigError, MiniConfig, SmallConfig
from projected_grpo.env.errors import InputError
from projected_grpo.runs.commands import named_settings, train_settings
from projected_grpo.runs.settings_file import settings_file, with_file

CHANGED = [
    {"arm": "projected", "seed": 7, "lr": 1e-5, "adam_betas": (0.5, 0.75), "labels": True},
    {"arm": "projected", "screen": "row", "known_modes": ("run_tests", "sentinel"), "steps": 3},
    {"arm": "inoculation", "inoculation": "", "why": "H1: 'yes'\nor - no #1", "track": "wandb"},
    {"mode": "none", "measure": "none", "v_hack": None, "threads": 2, "keep_checkpoints": 0},
    {"v_hack": Path("runs/v hack.safetensors"), "problems": "hub:owner/name:test"},
]


@pytest.mark.parametrize(
    ("preset", "changed"), list(zip(PRESETS, CHANGED, strict=True)), ids=PRESETS
)
def test_the_file_of_a_run_gives_its_settings(preset: str, changed: dict, tmp_path: Path) -> None:
    cfg = PRESETS[preset](**changed)
    file = tmp_path / "run.yaml"
    file.write_text(settings_file(cfg, {}))
    assert train_settings([f"--config={file}"]) == cfg


@given(st.text(st.characters(exclude_categories=["C"]) | st.just("\n"), min_size=1))
def test_any_text_comes_back(text: str) -> None:
    with NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(settings_file(replace(MiniConfig(), why=text), {}))
        file.flush()
        (word,) = (w for w in with_file([f"--config={file.name}"]) if w.startswith("--why="))
    assert word == f"--why={text}"


def test_it_names_the_commits_of_the_hub_and_not_where_the_run_lies() -> None:
    cfg = SmallConfig(out_dir=Path("elsewhere"), seed=3)
    said = settings_file(cfg, {"model_commit": "abc", "data_commit": "def"})
    assert said.startswith("# Makes this run again: train --config=run.yaml\npreset: small\n")
    assert "model: Qwen/Qwen2.5-Coder-0.5B-Instruct\nmodel_revision: abc\n" in said
    assert "problems: hub:newfacade/LeetCodeDataset@def:train\n" in said
    assert "elsewhere" not in said and "seed: 3" in said and "group" not in said


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: mini\nlr: 1e-2\nlabels: true\nprompts-per-step: 4\ndifficulty: []\n")
    flags = ["--lr=0.5", "--no-labels", f"--config={file}"]
    cfg = train_settings(flags)
    assert (cfg.lr, cfg.labels, cfg.prompts_per_step) == (0.5, False, 4)
    assert named_settings(with_file(flags)) == {"lr", "labels", "prompts_per_step", "difficulty"}
    assert train_settings(["mini", f"--config={file}"]).lr == 1e-2
    assert train_settings(["mini"]) == MiniConfig()


@pytest.mark.parametrize(
    ("text", "argv", "words"),
    [
        ("lrr: 1", ["mini"], "there is no setting lrr: did you mean lr?"),
        ("learning: 1", ["mini"], "there is no setting learning"),
        ("lr: 1", [], "names no preset: add `preset: mini` to it"),
        ("preset: minni", [], "there is no preset minni: did you mean mini?"),
        ("preset: fast", ["mini"], "is of preset fast, the command of mini"),
        ("labels: maybe", ["mini"], "labels is true or false, not 'maybe'"),
        ("lr: true", ["mini"], "lr is a value or a list of values, not True"),
        ("lr: {a: 1}", ["mini"], "lr is a value or a list"),
        ("max-new: 1\nmax_new: 2", ["mini"], "says max_new twice"),
        ("lr: -1", ["mini"], "lr must be above 0, not -1.0"),
        ("lr: 1", ["mini", "--config=b"], "--config is given 2 times: give one file"),
    ],
)
def test_what_is_no_setting_is_refused(
    text: str, argv: list[str], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(words)):
        train_settings([*argv, f"--config={file}"])


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "is not a YAML file"), ("", "holds no settings"), ("- lr", "holds no settings"),
     (None, "cannot read .*mine.yaml: No such file")],
)  # fmt: skip
def test_what_is_no_file_of_settings_is_one_sentence(
    text: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=words):
        with_file(["mini", f"--config={file}"])
    with pytest.raises(SystemExit) as ended:
        train_main(["mini", f"--config={file}"])
    assert ended.value.code == 1 and capsys.readouterr().err.startswith("error: ")
    with pytest.raises(ConfigError, match=r"--config needs a file"):
        with_file(["mini", "--config"])
