"""A plan on several cards: who gets which seeds, and how all are stopped."""

import sys
import time
from pathlib import Path

from on_cards import Arguments, commands, run_all

SAVES = """
import os, signal, sys, time
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(130)))
if len(sys.argv) > 1: time.sleep(60)
"""


def test_every_seed_is_on_one_card_with_rows_of_its_own(tmp_path: Path) -> None:
    args = Arguments(cards=3, seeds=(1, 2, 3, 4), out=tmp_path)
    found = commands(args, ["screens", "--base=small"])
    seeds = {c: line[line.index("--seeds") + 1 : line.index("--out")] for c, line in found.items()}
    assert seeds == {0: ["1", "4"], 1: ["2"], 2: ["3"]}
    assert len({line[-1] for line in found.values()}) == 3
    assert found[0][2:4] == ["screens", "--base=small"]
    assert commands(Arguments(cards=3, seeds=(1,), out=tmp_path), []).keys() == {0}


def test_who_is_not_done_in_time_is_told_to_save(tmp_path: Path) -> None:
    wait, end = [sys.executable, "-c", SAVES, "wait"], [sys.executable, "-c", SAVES]
    started = time.monotonic()
    codes = run_all({0: end, 1: wait}, tmp_path, minutes=0.05, grace_s=20)
    assert codes == {0: 0, 1: 130} and time.monotonic() - started < 30
    assert (tmp_path / "card0.log").read_text() == "0\n"
    assert (tmp_path / "card1.log").read_text() == "1\nsaved\n"
    ignores = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    codes = run_all({0: [sys.executable, "-c", ignores]}, tmp_path, minutes=0.02, grace_s=0.5)
    assert codes == {0: -9}
