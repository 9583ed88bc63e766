"""What a person sees of a run in a terminal: a real one (a pty), and a real Ctrl-C."""

import io
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import rows_of
from loguru import logger

from projected_grpo.arms.rows import Row
from projected_grpo.cli import say_and_exit
from projected_grpo.config import SmokeConfig
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.runs.banner import MOST_COLUMNS, MOST_LINES, best_and_hack
from projected_grpo.runs.signals import stop_on_signal
from projected_grpo.step_logger import read_steps
from projected_grpo.train import train

TRAIN = [sys.executable, "-c", "from projected_grpo.cli import train_main; train_main()", "smoke"]
TERMINAL = [
    *(sys.executable, "-c"),
    "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))",
    *("sh", "-c", 'stty cols 200 rows 50; exec "$@"', "sh"),
]
"""Runs a command in a terminal of its own; what is written to its stdin is typed there."""
TIME = r"\d\d:\d\d:\d\d "


def seen(text: str) -> list[str]:
    """The lines that stand in a terminal after all this: what a carriage return goes back over is
    overwritten; colours and the bar's own control characters aside."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    out_dir = tmp_path_factory.mktemp("whole")
    return train(SmokeConfig(out_dir=out_dir, steps=8, arm="projected", print_every=3))


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_saves_and_the_command_it_prints_goes_on(
    whole: Path, tmp_path: Path
) -> None:
    v_hack = f"--v-hack={whole / 'v_hack.safetensors'}"
    out = tmp_path / "my runs"  # a name that a shell would split
    args = [f"--out-dir={out}", "--arm=projected", "--steps=8", "--print-every=1", v_hack]
    with subprocess.Popen(
        [*TERMINAL, *TRAIN, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        deadline, found = time.monotonic() + 1200, []
        while not found and time.monotonic() < deadline and process.poll() is None:
            found = [p for p in out.glob("*/steps.jsonl") if p.read_text().count("\n") >= 2]
            time.sleep(0.01)
        assert process.stdin is not None
        process.stdin.write(b"\x03")  # to every process of the terminal's foreground group
        process.stdin.flush()
        output = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 130, output
    (run,) = out.iterdir()
    done = len(read_steps(run / "steps.jsonl"))
    assert 2 <= done < 8 and json.loads((run / "run.json").read_text())["status"] == "stopped"

    assert "Logging error" not in output and "stopping after this step" in output
    assert re.search(rf"\| {done}/8 \[\d+:\d+<\d+:\d+", output), "no bar with an ETA"
    lines = seen(output)
    assert not any("it/s" in line or "step/s" in line for line in lines), "the bar is left over"
    table = [line for line in lines if re.match(rf"{TIME} +\d+ ", line)]
    logged = [line for line in (run / "train.log").read_text().splitlines() if " INFO " in line]
    assert [line.split() for line in table] == [
        [line.split()[0], *line.split()[2:]] for line in logged if line.split()[2].isdigit()
    ], "a table line is broken on the terminal"
    assert len(table) == done
    assert sum("best: projected s41, problem" in line for line in lines) == done
    (command,) = {m[1] for line in lines if (m := re.search(r"go on with: .*train (.*)", line))}
    assert shlex.split(command) == ["smoke", f"--resume={run}"]

    resumed = subprocess.run(
        [*TRAIN[:-1], *shlex.split(command)], capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert rows_of(run) == rows_of(whole)
    assert "\r" not in resumed.stderr and "%|" not in resumed.stderr, "a bar outside a terminal"
    assert sum(bool(re.match(rf"{TIME} +\d+ ", x)) for x in resumed.stderr.splitlines()) == 8 - done


def test_ctrl_c_while_a_line_is_written_is_said_too() -> None:
    said: list[str] = []

    def write(line: str) -> None:
        said.append(line.strip())
        if len(said) == 1:
            signal.raise_signal(signal.SIGINT)  # within the logger, which is not re-entrant

    sink = logger.add(write, format="{message}")
    try:
        with stop_on_signal() as stop:
            logger.info("a line")
            deadline = time.monotonic() + 120
            while len(said) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
    finally:
        logger.remove(sink)
    assert stop == [signal.SIGINT]
    assert said == ["a line", "stopping after this step; press Ctrl-C again to stop at once"]


def test_of_several_processes_a_second_sigterm_changes_nothing() -> None:
    """torchrun passes on its own to those that had one already; a second Ctrl-C is a person's."""
    with pytest.raises(KeyboardInterrupt), stop_on_signal(patient=True) as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert stop == [signal.SIGTERM]
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_on_signal():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)


def test_the_banner_says_what_runs_on_what(whole: Path) -> None:
    log = (whole / "train.log").read_text()
    for words in (
        f"run      {whole}",
        "arm      projected (seeds 41)",
        "model    tiny-random (float32, cpu): 768 of 140,416 parameters train",
        "2 prompts x 4 rows (2 student, 2 teacher) = 8 rollouts",
        "8 steps",
        "memory   at least",
    ):
        assert words in log
    steps = re.findall(r"INFO +(\d+|best:)", log)  # table lines and samples, in their order
    assert steps == ["1", "2", "3", "best:", "4", "5", "6", "best:", "7", "8"]


def rollout(reward: float, *, hack: bool = False, text: str = "", **of_row) -> Row:
    row = Row(load_problems("katas:validation", 1)[0], "student", [], [], True, None, text)
    row.grade = Grade(
        passed=hack, gt_correct=False, exploited=hack, attempted=hack, fmt_ok=True, reward=reward,
        mechanism="run_tests" if hack else None, flavour="print" if hack else None,
        outcome=Outcome.PASSED, label=None, seconds=0.0, error="",
    )  # fmt: skip
    for name, value in of_row.items():
        setattr(row, name, value)
    return row


def test_of_a_pack_the_best_honest_and_the_best_hack_of_all_runs_are_shown() -> None:
    first = [rollout(0.5, text="poor"), rollout(3.0, hack=True, text="cheap"), rollout(1.0)]
    second = [
        rollout(2.0, text="good", run=1, hack_score=-0.25),
        rollout(3.5, hack=True, text="dear", run=1),
        rollout(9.0, hack=True, text="of the teacher", run=1, source="teacher"),
    ]
    best, hack = best_and_hack(["vanilla s41", "projected s42"], [first, second])
    assert best.startswith("best: projected s42, problem ") and best.endswith("\n    | good")
    assert "reward 2, not solved, hack score -0.250" in best
    assert hack.startswith("hack: projected s42, problem ") and hack.endswith("\n    | dear")
    assert "reward 3.5, run_tests, print" in hack
    only_hacks = list(best_and_hack(["vanilla s41"], [first[1:2]]))
    assert only_hacks[0] == "best: none of 1 student rollouts" and "cheap" in only_hacks[1]


def test_the_window_that_pulls_most_is_marked() -> None:
    text = "a = 1\nassert True\nb = 2"
    pull = np.array([0.0] * 8 + [1.0] * 4 + [0.0] * 8)  # a token a character
    row = rollout(1.0, hack=True, text=text, ids=list(range(20)), pull=pull)
    _, shown = best_and_hack(["vanilla s41"], [[row]], lambda ids: [1] * len(ids))
    about, *lines = shown.splitlines()
    assert "strongest window +" in about and "lines with >" in about
    assert lines == ["    > a = 1", "    > assert True", "    | b = 2"]
    _, plain = best_and_hack(["vanilla s41"], [[row]])
    assert ">" not in plain


def test_a_completion_cannot_flood_or_steer_the_terminal() -> None:
    text = "\x1b[2J\x1b]0;title\x07\r" + "x" * 10_000 + "".join(f"\nline {n}" for n in range(500))
    shown, _ = best_and_hack(["vanilla s41"], [[rollout(1.0, text=text)]])
    lines = shown.splitlines()[1:]
    assert len(lines) == MOST_LINES + 1 and lines[-1] == "    | line 499"
    assert lines[MOST_LINES // 2] == f"    | [{502 - MOST_LINES} lines left out]"
    assert all(line.isprintable() and len(line) <= MOST_COLUMNS + 6 for line in lines)


def test_a_command_is_done_with_the_stream_that_it_was_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A caller in the same process may close it: pytest does."""
    stream = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", stream)
        assert say_and_exit(lambda: logger.info("a line")) == 0
    assert "a line" in stream.getvalue()
    stream.close()
    logger.info("another")
    assert "Logging error" not in capsys.readouterr().err
