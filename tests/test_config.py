import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
import tyro

from projected_grpo.config import (
    PRESETS,
    Config,
    ConfigError,
    FastConfig,
    FullConfig,
    GateName,
    SmokeConfig,
)


def parse(*args: str) -> Config:
    return tyro.extras.subcommand_cli_from_dict(PRESETS, args=args)


def test_the_command_of_the_readme_parses() -> None:
    cfg = parse("fast", "--arm=vanilla", "--lr=3e-3")
    assert isinstance(cfg, FastConfig) and cfg.arm == "vanilla" and cfg.lr == 3e-3


def test_the_presets_are_what_the_issue_names() -> None:
    fast = FastConfig()
    assert (fast.steps, fast.group, fast.max_new, fast.prompts_per_step) == (20, 4, 512, 4)
    assert (fast.lr, fast.adam_betas, fast.mix_ratio, fast.grad_clip) == (
        3e-3,
        (0.5, 0.9),
        0.5,
        500.0,
    )
    assert fast.model == "Qwen/Qwen3-4B" and (fast.teacher_rows, fast.student_rows) == (2, 2)
    full = FullConfig()
    assert (full.steps, full.beta, full.prompts_per_step * full.group) == (200, 1e-3, 256)
    assert (Config().grad_clip, Config().preset_name) == (1.0, "")
    assert [preset().preset_name for preset in PRESETS.values()] == [
        "smoke",
        "mini",
        "fast",
        "full",
    ]


def test_presets_override_defaults_only() -> None:
    names = {f.name for f in dataclasses.fields(Config)}
    for preset in PRESETS.values():
        assert {f.name for f in dataclasses.fields(preset)} == names
        assert preset.__doc__


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"group": 1}, "a group of 1 has no advantage"),
        ({"mix_ratio": 0.1}, "rounds to no teacher row: set it to 0.25"),
        ({"mix_ratio": 0.9}, "leaves none of the 4 rows of a group to the student: set it to 0.75"),
        ({"mix_ratio": 1.0}, "leaves none of the 4 rows"),
        ({"mix_ratio": 1.5}, r"lie in \[0, 1\], not 1.5"),
        ({"teacher_pool": "/nowhere"}, "/nowhere holds no prompt_"),
        ({"warmup_frac": 1.0}, r"warmup_frac must lie in \[0, 1\)"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"lr": float("nan")}, "lr must be above 0, not nan"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"adam_betas": (0.5, 1.0)}, "adam_betas"),
        ({"overshoot": -1.0}, "overshoot must not be negative"),
        ({"refresh_every": -1}, "refresh_every must not be negative, it is -1"),
    ],
)
def test_contradictions_are_refused_with_their_numbers(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SmokeConfig(**settings)


def test_json_round_trip_and_the_preset_must_match() -> None:
    cfg = FastConfig(v_hack=Path("a/b"), seed=3, adam_betas=(0.1, 0.2))
    assert FastConfig.from_json(cfg.to_json()) == cfg
    with pytest.raises(ConfigError, match="resume it with `train fast`"):
        SmokeConfig.from_json(cfg.to_json())


def test_names_in_the_config_are_the_names_in_the_code() -> None:
    from projected_grpo.proj import GATES

    assert set(get_args(GateName)) == set(GATES)


def run_help(*args: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import sys; from projected_grpo.cli import train_main\n"
        "try: train_main(sys.argv[1:])\n"
        "finally:\n"
        "    heavy = ('torch', 'transformers', 'datasets')\n"
        "    print('heavy:', [m for m in heavy if m in sys.modules])"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("args", [("--help",), ("fast", "--help"), ("smoke", "--group=1")])
def test_help_and_refusals_do_not_import_torch(args: tuple[str, ...]) -> None:
    done = run_help(*args)
    assert "heavy: []" in done.stdout, done.stderr
    assert done.returncode == (0 if "--help" in args else 2)


def test_help_answers_at_once() -> None:
    """Half a second where it was measured, and torch alone takes several. In multiples of what the
    command line's library takes to import, best of five in turn: neither a slow machine nor its
    other load decides."""
    help_s, library_s = [], []
    for _ in range(5):
        for times, call in (
            (help_s, lambda: run_help("fast", "--help")),
            (library_s, lambda: subprocess.run([sys.executable, "-c", "import tyro"], check=True)),
        ):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    assert min(help_s) < 5 * min(library_s), (help_s, library_s)


def test_every_field_has_a_sentence_in_the_help() -> None:
    text = " ".join(run_help("fast", "--help").stdout.replace("│", " ").split())
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in text
    assert text.count("(default:") >= len(dataclasses.fields(Config)) - 2


@pytest.mark.parametrize(
    "args,code,sentence",
    [
        (("fast", "--arm=projeted"), 2, "there is no arm projeted: did you mean projected?"),
        (("fast", "--lerning-rate=1"), 2, "--lerning-rate"),
        (("fast", "--group=1"), 2, "a group of 1 has no advantage"),
        (("smoke", "--mix-ratio=1", "--teacher-pool=/empty"), 2, "leaves none of the 4 rows"),
        (("smoke", "--teacher-pool=/empty"), 2, "/empty holds no prompt_"),
    ],
)
def test_a_bad_command_line_gets_one_sentence_and_exit_code_2(
    args, code, sentence, tmp_path
) -> None:
    done = run_help(*args, f"--out-dir={tmp_path / 'runs'}")
    assert done.returncode == code
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
