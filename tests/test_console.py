"""What a person sees of a run in a terminal: a real one (a pty), and a real Ctrl-C."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import rows_of

from projected_grpo.config import SmokeConfig
from projected_grpo.env.sandbox import Outcome
from projected_grpo.records import Row
from projected_grpo.samples import MOST_COLUMNS, MOST_LINES, best_and_hack
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
    return train(SmokeConfig(out_dir=out_dir, steps=8, arm="projected"))


def test_ctrl_c_in_a_terminal_saves_and_the_command_it_prints_goes_on(
    whole: Path, tmp_path: Path
) -> None:
    v_hack = f"--v-hack={whole / 'v_hack.safetensors'}"
    args = [f"--out-dir={tmp_path}", "--arm=projected", "--steps=8", "--print-every=1", v_hack]
    with subprocess.Popen(
        [*TERMINAL, *TRAIN, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        deadline, found = time.monotonic() + 120, []
        while not found and time.monotonic() < deadline and process.poll() is None:
            found = [p for p in tmp_path.glob("*/steps.jsonl") if p.read_text().count("\n") >= 2]
            time.sleep(0.01)
        assert process.stdin is not None
        process.stdin.write(b"\x03")  # to every process of the terminal's foreground group
        process.stdin.flush()
        output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, output
    (run,) = tmp_path.iterdir()
    done = len(read_steps(run / "steps.jsonl"))
    assert 2 <= done < 8 and json.loads((run / "run.json").read_text())["status"] == "stopped"

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
    (command,) = {m[1] for line in lines if (m := re.search(r"go on with: train (.*)", line))}
    assert command == f"smoke --resume={run}"

    resumed = subprocess.run(
        [*TRAIN[:-1], *command.split()], capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert rows_of(run) == rows_of(whole)
    assert "\r" not in resumed.stderr and "%|" not in resumed.stderr, "a bar outside a terminal"
    assert sum(bool(re.match(rf"{TIME} +\d+ ", x)) for x in resumed.stderr.splitlines()) == 8 - done


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
