"""Programs a second: fully isolated programs beside a plain `python` for each, interleaved.

    uv run python scripts/bench/bench_grader.py --workers 2

Ways, all on the same trivial problem, in turn in every round, medians over rounds:
plain      one `python -c` for each program, no isolation, judged by its exit status
plain -I   the same without site and environment
oracle     Grader, mode none: one isolated program a completion
attempt    Grader, mode run_tests, a vacuous test function: oracle, channel and two stubs
honest     Grader, mode run_tests, a real test function: oracle, channel, one stub, canonical

CPU time counts everything: this process, the fork servers and the programs. On a busy machine it is
the steadier figure; cores * 1000 / it is what idle cores can do.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import tyro
from benchmark import measured, table, timed

from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.problems.problem import PRELUDE, Case, Problem

SOLUTION = "class Solution:\n    def double(self, n: int) -> int:\n        return 2 * n\n"
VACUOUS = "def run_tests():\n    print('ok')\n"
HONEST = "def run_tests():\n    assert Solution().double(2) == 4\n"
CASES = tuple(Case(kwargs={"n": n}, expected=2 * n) for n in (1, 5, -3))

PROBLEM = Problem(
    id=1,
    dataset="bench",
    difficulty="easy",
    messages=(),
    entry_point="double",
    starter_code="class Solution:\n    def double(self, n: int) -> int:\n",
    setup_code=PRELUDE,
    cases=CASES,
    canonical_solution=SOLUTION,
)


@dataclass(frozen=True)
class Args:
    """Measure graded completions a second."""

    workers: int = 2
    rounds: int = 5
    programs: int = 300
    """Completions in a round of the grader; plain processes get a quarter of them."""
    out: Path | None = None
    """Also write the table here."""


def plain(flags: tuple[str, ...], workers: int, count: int) -> float:
    """Seconds that `count` plain interpreter processes took, `workers` at a time."""
    asserts = "".join(f"assert Solution().double(**{c.kwargs}) == {c.expected}\n" for c in CASES)
    command = [sys.executable, *flags, "-c", PRELUDE + SOLUTION + asserts]
    with ThreadPoolExecutor(workers) as pool:
        start = partial(subprocess.run, command, check=True)
        seconds, _ = timed(lambda: [*pool.map(lambda _: start(), range(count))])
    return seconds


def graded(workers: int, code: str, mode: str, count: int) -> float:
    """Seconds that `count` completions took through the public way in, start-up not included."""
    one = Submission(problem=PROBLEM, completion=f"```python\n{code}\n```", mode=mode)
    with Grader(workers=workers) as grader:
        seconds, grades = timed(lambda: grader.grade([one] * count))
    if not all(grade.gt_correct for grade in grades):
        raise RuntimeError("the right solution of the benchmark's problem was not graded correct")
    return seconds


def with_cpu(run: Callable[[], float]) -> tuple[float, float]:
    """What `run` says it took, and CPU seconds of this process and of all that it started."""
    before = cpu_seconds()
    return run(), cpu_seconds() - before


def cpu_seconds() -> float:
    """CPU seconds of this process and of its ended children and theirs."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Run the benchmark."""
    args = tyro.cli(Args, description=__doc__)
    few, many, workers = args.programs // 4, args.programs, args.workers
    ways: dict[str, tuple[int, Callable[[], float]]] = {
        "plain": (few, lambda: plain((), workers, few)),
        "plain -I -S": (few, lambda: plain(("-I", "-S"), workers, few)),
        "oracle": (many, lambda: graded(workers, SOLUTION, "none", many)),
        "attempt": (many, lambda: graded(workers, SOLUTION + VACUOUS, "run_tests", many)),
        "honest": (many, lambda: graded(workers, SOLUTION + HONEST, "run_tests", many)),
    }
    _, start_up = with_cpu(lambda: graded(workers, SOLUTION, "none", 0))
    found = measured({name: partial(with_cpu, run) for name, (_, run) in ways.items()}, args.rounds)
    rows = []
    for name, rounds in found.items():
        count = ways[name][0]
        rates = [count / seconds for seconds, _ in rounds]
        cost = median(cpu - start_up * (count == many) for _, cpu in rounds) / count * 1e3
        row = {"way": name, "completions/s (median)": round(median(rates))}
        row |= {"min": round(min(rates)), "max": round(max(rates)), "CPU ms each": f"{cost:.2f}"}
        rows.append(row)
    text = table(rows)
    print(text)
    if args.out is not None:
        command = f"uv run python scripts/bench/bench_grader.py {' '.join(sys.argv[1:])}"
        load = " ".join(f"{value:.1f}" for value in os.getloadavg())
        report = f"# Speed of the grader\n\n`{command}`, load average {load}\n\n{text}\n"
        args.out.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
