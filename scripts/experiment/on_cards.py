"""Run a plan of experiment.py on several GPUs of one host: seeds are dealt out, a process a card.

    uv run python scripts/experiment/on_cards.py --cards 4 --minutes 9 --out runs/screens \
        --seeds 1 2 3 4 -- screens --base=small --device=cuda --eval-problems=0

What follows -- goes to experiment.py. When the minutes are over, every process is told to stop: it
ends its step, saves, and writes its rows (OUT/card0.jsonl.gz, ...). The same command goes on.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

EXPERIMENT = Path(__file__).with_name("experiment.py")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run a plan of experiment.py on several GPUs at once; its own arguments follow --."""

    cards: int
    """GPUs."""
    seeds: tuple[int, ...]
    """Of the plan; each card gets its part."""
    out: Path
    """Folder of runs, rows and logs, a folder a card."""
    minutes: float = 0.0
    """Stop all after so many; 0: never."""
    grace_s: float = 90.0
    """Seconds that a process has to end its step and to save, before it is killed."""


def commands(args: Arguments, rest: Sequence[str]) -> dict[int, list[str]]:
    """Card -> its command line; a card that gets no seed has none."""
    found: dict[int, list[str]] = {}
    for card in range(args.cards):
        if mine := args.seeds[card :: args.cards]:
            found[card] = [
                *(sys.executable, str(EXPERIMENT), *rest),
                *("--seeds", *map(str, mine), "--out", str(args.out / f"card{card}")),
                *("--rows", str(args.out / f"card{card}.jsonl.gz")),
            ]
    return found


def run_all(
    by_card: Mapping[int, Sequence[str]], out: Path, minutes: float, grace_s: float
) -> dict[int, int]:
    """Run them side by side, each with its GPU alone, until all have ended or the time is over;
    card -> exit code (130: it was stopped, and has saved)."""
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    started: dict[int, subprocess.Popen[bytes]] = {}
    for card, command in by_card.items():
        with (out / f"card{card}.log").open("ab") as log:
            environment = os.environ | {"CUDA_VISIBLE_DEVICES": str(card)}
            started[card] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    while any(p.poll() is None for p in started.values()) and time.monotonic() < end:
        time.sleep(0.2)
    for process in started.values():
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    last = time.monotonic() + grace_s
    for process in started.values():
        try:
            process.wait(max(0.0, last - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return {card: process.returncode for card, process in started.items()}


def main() -> None:
    """Run, and say how each card ended."""
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    args = tyro.cli(Arguments, args=words[:cut])
    codes = run_all(commands(args, words[cut + 1 :]), args.out, args.minutes, args.grace_s)
    for card, code in codes.items():
        lines = (args.out / f"card{card}.log").read_text(errors="replace").splitlines()
        print(f"card {card}: exit {code}: {lines[-1] if lines else ''}")
    sys.exit(max(codes.values(), key=abs, default=0))


if __name__ == "__main__":
    main()
