"""Grade every canonical solution of LeetCodeDataset and of the benchmark's sample.

    uv run python scripts/check_canonicals.py ../shared/leetcode --workers 1 2 16 --repeats 3

Prints, and with --out writes, the share graded correct, each exception with its reason, and whether
all passes gave the same labels.
"""

import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro
from tabulate import tabulate

from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Limits

FILES = ("LeetCodeDataset-v0.2.0-train.jsonl.gz", "benchmark_sample.jsonl")


@dataclass(frozen=True)
class Args:
    """Grade all canonical solutions, several times, with several numbers of workers."""

    folder: tyro.conf.Positional[Path]
    """Where the two data files lie."""
    workers: tuple[int, ...] = (1, 2, 16)
    repeats: int = 3
    cpu_s: float = 10.0
    """CPU seconds for a program."""
    limit: int | None = None
    """Only so many problems of each file."""
    out: Path | None = None
    """Also write the report here."""


def grade_all(problems: list[Problem], workers: int, cpu_s: float) -> tuple[list[Grade], float]:
    """Grades of the canonical solutions, and the wall-clock seconds they took."""
    submissions = [
        Submission(problem=p, completion=f"```python\n{p.canonical_solution}\n```", mode="none")
        for p in problems
    ]
    with Grader(workers=workers, limits=Limits(cpu_s=cpu_s)) as grader:
        start = time.perf_counter()
        grades = grader.grade(submissions)
        return grades, time.perf_counter() - start


def signature(grade: Grade) -> tuple[str | None, bool, str]:
    """What must not depend on the number of workers."""
    return grade.label, grade.gt_correct, grade.outcome.value


def report(name: str, problems: list[Problem], args: Args) -> str:
    """All passes over one file, as Markdown."""
    rows, passes = [], []
    for workers in args.workers:
        for repeat in range(args.repeats):
            grades, seconds = grade_all(problems, workers, args.cpu_s)
            passes.append(grades)
            outcomes = Counter(grade.outcome.value for grade in grades)
            correct = sum(grade.gt_correct for grade in grades)
            counts = ", ".join(f"{name} {n}" for name, n in outcomes.most_common())
            rows.append((workers, repeat + 1, correct, len(grades), f"{seconds:.1f}", counts))
            print(name, *rows[-1], file=sys.stderr, flush=True)
    first = [signature(grade) for grade in passes[0]]
    moved = sorted(
        {
            problem.id
            for grades in passes
            for problem, grade, want in zip(problems, grades, first, strict=True)
            if signature(grade) != want
        }
    )
    wrong = [
        (problem.id, problem.entry_point, grade.outcome.value, f"{grade.seconds:.2f}", grade.error)
        for problem, grade in zip(problems, passes[0], strict=True)
        if not grade.gt_correct
    ]
    return "\n\n".join(
        [
            f"## {name}: {len(problems)} canonical solutions",
            tabulate(
                rows,
                ("workers", "pass", "correct", "of", "wall s", "outcomes"),
                tablefmt="github",
            ),
            f"Problems whose label differed between passes: {moved or 'none'}.",
            "Not graded correct (first pass):",
            tabulate(wrong, ("id", "method", "outcome", "CPU s", "why"), tablefmt="github"),
        ]
    )


def main() -> None:
    """Run the check."""
    args = tyro.cli(Args)
    parts = ["# Canonical solutions through the grader", f"Command: `{' '.join(sys.argv)}`"]
    for name in FILES:
        parts.append(report(name, load_problems(args.folder / name, limit=args.limit), args))
    text = "\n\n".join(parts) + "\n"
    print(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
