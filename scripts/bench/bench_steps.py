"""The same steps of a pack by several checkouts in turn: seconds, CPU seconds, and whether the rows
are the same.

    git worktree add ../before f542cc8
    uv run python scripts/bench/bench_steps.py --checkouts ../before . --steps 4

A process for each checkout, with its `src` and this environment's packages, holds a run of `train
mini` for each arm. Each step is made by all of them, one after another; the others wait. CPU
seconds count what torch's threads wait for one another. A row of a checkout has medians over the
steps, and the ratio to the first checkout in the same step.
"""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import benchmark
from benchmark import Result, in_words

FIGURES = ("s", "CPU s", "sampling s", "forward-backward s")


@dataclass(frozen=True, kw_only=True)
class Arguments(benchmark.Arguments):
    """What is measured."""

    checkouts: tuple[str, ...]
    arms: tuple[str, ...] = ("vanilla", "projected")
    steps: int = 4
    first: int = 2
    """The first step that counts: at step 1 no row of the organism's default seed learns."""


def make_steps(arms: list[str]) -> None:
    """Make each step that stdin asks for; figures and a digest of the rows go to stdout."""
    from loguru import logger

    from projected_grpo.config import MiniConfig
    from projected_grpo.runs.session import prepare
    from projected_grpo.train import run_step

    logger.remove()
    with ExitStack() as stack:
        session, _ = prepare([MiniConfig(arm=arm) for arm in arms], stack)
        num_tokens = [0] * len(arms)
        for line in sys.stdin:
            wall, cpu = time.perf_counter(), time.process_time()
            results = run_step(session, int(line), num_tokens)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            ids = tuple(tuple(row.ids) for _, rows in results for row in rows)
            row, _ = results[0]
            print(wall, cpu, row["gen"], row["fb"], hash(ids), flush=True)


def measure(args: Arguments) -> Result:
    """A row for each checkout."""
    workers = []
    for checkout in args.checkouts:
        environment = {**os.environ, "PYTHONPATH": str(Path(checkout).resolve() / "src")}
        workers.append(
            subprocess.Popen(
                [sys.executable, __file__, "--worker", *args.arms],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    steps: list[list[tuple[list[float], str]]] = []
    for step in range(1, args.first + args.steps):
        made = []
        for worker in workers:
            assert worker.stdin and worker.stdout
            worker.stdin.write(f"{step}\n")
            worker.stdin.flush()
            *figures, digest = worker.stdout.readline().split()
            made.append(([float(figure) for figure in figures], digest))
        steps += [made] if step >= args.first else []
    for worker in workers:
        worker.communicate()
    rows = []
    for n, checkout in enumerate(args.checkouts):
        row: dict[str, object] = {"checkout": checkout}
        for at, name in enumerate(FIGURES):
            mine, first = ([made[m][0][at] for made in steps] for m in (n, 0))
            row |= {name: median(mine), f"x {name}": in_words(mine, first)}
        same = sum(made[n][1] == made[0][1] for made in steps)
        rows.append({**row, "steps of the same rows": f"{same}/{len(steps)}"})
    what = (
        f"train mini, {' and '.join(args.arms)}, steps {args.first}-{args.first + args.steps - 1}"
    )
    return Result(what, rows, {"rows": rows, "steps": steps})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        make_steps(sys.argv[2:])
    else:
        benchmark.main(measure, Arguments, __doc__)
