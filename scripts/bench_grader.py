"""Programs a second: fully isolated programs beside a plain `python` for each, interleaved.

    uv run python scripts/bench_grader.py --workers 2

Ways, all on the same trivial problem, in turn in every round, medians over rounds:
plain      one `python -c` for each program, no isolation, judged by its exit status
plain -I   the same without site and environment
oracle     Grader, mode none: one isolated program a completion
attempt    Grader, mode run_tests, a vacuous test function: oracle, channel and two stubs
honest     Grader, mode run_tests, a real test function: oracle, channel, one stub, canonical
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro
from tabulate import tabulate

from projected_grpo.env.grader import Grader, Submission
from projected_grpo.env.problems import PRELUDE, Case, Problem

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


def plain(flags: tuple[str, ...], workers: int, count: int) -> None:
    """`count` plain interpreter processes, `workers` at a time."""
    asserts = "".join(f"assert Solution().double(**{c.kwargs}) == {c.expected}\n" for c in CASES)
    command = [sys.executable, *flags, "-c", PRELUDE + SOLUTION + asserts]
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(subprocess.run, command, check=True) for _ in range(count)]:
            done.result()


def graded(grader: Grader, code: str, mode: str, count: int) -> None:
    """`count` completions through the public way in."""
    one = Submission(problem=PROBLEM, completion=f"```python\n{code}\n```", mode=mode)
    grades = grader.grade([one] * count)
    assert all(grade.gt_correct for grade in grades)


def main() -> None:
    """Run the benchmark."""
    args = tyro.cli(Args)
    with Grader(workers=args.workers) as grader:
        ways: dict[str, tuple[int, Callable[[int], None]]] = {
            "plain": (args.programs // 4, lambda n: plain((), args.workers, n)),
            "plain -I -S": (args.programs // 4, lambda n: plain(("-I", "-S"), args.workers, n)),
            "oracle": (args.programs, lambda n: graded(grader, SOLUTION, "none", n)),
            "attempt": (
                args.programs,
                lambda n: graded(grader, SOLUTION + VACUOUS, "run_tests", n),
            ),
            "honest": (
                args.programs,
                lambda n: graded(grader, SOLUTION + HONEST, "run_tests", n),
            ),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, (count, run) in ways.items():
                start = time.perf_counter()
                run(count)
                rates[name].append(count / (time.perf_counter() - start))
    rows = [
        (name, round(statistics.median(seen)), round(min(seen)), round(max(seen)))
        for name, seen in rates.items()
    ]
    header = ("way", "completions/s (median)", "min", "max")
    table = tabulate(rows, header, tablefmt="github")
    print(table)
    if args.out is not None:
        command = "uv run python scripts/bench_grader.py " + " ".join(sys.argv[1:])
        args.out.write_text(f"# Speed of the grader\n\n`{command}`\n\n{table}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
