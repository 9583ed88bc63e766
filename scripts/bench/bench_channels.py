"""What is left between programs that run side by side: bits a second through the cores.

    uv run python scripts/bench/bench_channels.py

A sender works or sleeps in slots of equal length, a receiver counts in each slot how far it comes.
Both are programs in sandboxes of their own and agree by the clock. The figure is the capacity of
a binary channel with the share of wrong bits that was seen.
"""

import math
import random
import statistics
import threading
import time
from dataclasses import dataclass

import tyro
from tabulate import tabulate

from projected_grpo.env.sandbox.programs import Limits, Program
from projected_grpo.env.sandbox.sandbox import Sandbox

SLOTS = """
import random, time
random.seed(1)
bits = [random.random() < 0.5 for _ in range(COUNT)]
def until(moment):
    while time.time() < moment: pass
start = START
time.sleep(max(0, start - time.time() - 0.02))
"""
SENDER = (
    SLOTS
    + """
for number, bit in enumerate(bits):
    end = start + (number + 1) * SLOT
    if bit: until(end)
    else: time.sleep(max(0, end - time.time()))
"""
)
RECEIVER = (
    SLOTS
    + """
for number in range(COUNT):
    end, count = start + (number + 1) * SLOT, 0
    while time.time() < end: count += 1
    print(count)
"""
)


@dataclass(frozen=True)
class Args:
    """Measure what one program can tell another."""

    slots: int = 200
    lengths_ms: tuple[int, ...] = (10, 30, 100)
    senders: int = 2
    """As many as there are cores, so that the receiver must share one."""


def through_the_cores(slots: int, slot_s: float, senders: int) -> tuple[float, float]:
    """(share of wrong bits, bits a second)."""
    start = time.time() + 1.0
    texts = [
        code.replace("COUNT", str(slots)).replace("START", repr(start)).replace("SLOT", str(slot_s))
        for code in (RECEIVER, *[SENDER] * senders)
    ]
    seen: dict[int, str] = {}

    def run(number: int) -> None:
        limits = Limits(cpu_s=60.0, wall_s=120.0)
        with Sandbox(limits) as sandbox:
            seen[number] = sandbox.run(Program(setup_code="", code=texts[number])).stdout

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = [int(line) for line in seen[0].split()]
    chance = random.Random(1)
    bits = [chance.random() < 0.5 for _ in range(slots)]
    middle = statistics.median(counts)
    wrong = sum((count < middle) != bit for count, bit in zip(counts, bits, strict=True)) / slots
    return wrong, (1 - entropy(wrong)) / slot_s


def entropy(share: float) -> float:
    """Bits of a coin that falls on one side with this probability."""
    return -sum(p * math.log2(p) for p in (share, 1 - share) if 0 < p < 1)


def main() -> None:
    """Run the benchmark."""
    args = tyro.cli(Args)
    rows: list[tuple[str, str]] = []
    for length in args.lengths_ms:
        wrong, rate = through_the_cores(args.slots, length / 1e3, args.senders)
        rows.append((f"cores, slots of {length} ms", f"{wrong:.0%} wrong, {rate:.1f} bits/s"))
    print(tabulate(rows, ("channel", "seen"), tablefmt="github"))


if __name__ == "__main__":
    main()
