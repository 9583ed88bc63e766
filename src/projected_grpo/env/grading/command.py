"""The `grade` command: grade the completions in a file (pools, old rollouts, other people's data).

    grade --problems P.jsonl --completions C.jsonl --out O.jsonl

Each line of C is an object with `problem_id`, `completion` and, if wanted, `mode` and
`function_name`. O repeats it, other keys included, and adds the facts of the
grade (schema.py), which replace keys of the same name.
"""

import contextlib
import json
import keyword
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tabulate import tabulate

from projected_grpo.env.errors import InputError
from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import LABELS, Grade
from projected_grpo.env.jsonl import parse_line, read_lines
from projected_grpo.env.loopholes.markers import check_variant
from projected_grpo.env.loopholes.modes import MODES, TRAIN_NAME, get_mode
from projected_grpo.env.names import hint
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Limits, Outcome

MAX_CPU_S, MAX_MEMORY_MB = 1e6, 1 << 30
"""What the kernel's limits can hold, with room."""


@dataclass(frozen=True, slots=True)
class Args:
    """Grade the completions in a file and write one line for each."""

    problems: str
    """A .jsonl or .jsonl.gz file of problems, `katas:<split>`, or `hub:<owner>/<name>`."""
    completions: Path
    """A .jsonl or .jsonl.gz file: problem_id, completion, optionally mode and function_name."""
    out: Path
    """Where to write the graded lines; appears only when all of them are done."""
    overwrite: bool = False
    """Replace that file where it is there already."""
    mode: str = "run_tests"
    """Loophole mode of lines, and problems, that name none (`train --list-modes`)."""
    workers: int | None = None
    """Programs that run at a time; one for each core by default."""
    sandbox: Literal["namespaces", "process"] = "namespaces"
    """Leave it at namespaces, which isolates programs. process has limits only, which hostile code
    can escape: take it where the system has no namespaces and you trust the completions."""
    cpu_s: float = 10.0
    """CPU seconds for a program."""
    memory_mb: int = 1024
    """MiB of memory for a program."""


def grade_completions(args: Args) -> None:
    """Grade everything, write the output, print the summary."""
    _check(args)
    problems = {problem.id: problem for problem in load_problems(args.problems)}
    rows = read_rows(args.completions)
    submissions = [
        _submission(row, problems, args.mode, f"{args.completions}:{number}")
        for number, row in rows
    ]
    limits = Limits(cpu_s=args.cpu_s, memory_mb=args.memory_mb)
    with _whole_file(args.out) as lines:
        start = time.perf_counter()
        with Grader(workers=args.workers, limits=limits, sandbox=args.sandbox) as grader:
            grades = grader.grade(submissions)
        seconds = time.perf_counter() - start
        for (_, row), grade in zip(rows, grades, strict=True):
            found = grade.to_record() | {"seconds": round(grade.seconds, 4)}
            lines.append(json.dumps(row | found) + "\n")
    print(summary(submissions, grades, seconds))


def _check(args: Args) -> None:
    """Refuse what would only be found wrong after the grading, or make all of it worthless."""
    get_mode(args.mode)
    if args.out.exists() and not args.out.is_file():
        raise InputError(f"{args.out}: exists and is not a file")
    if args.out.is_file():
        if args.completions.exists() and args.out.samefile(args.completions):
            raise InputError(f"--out={args.out} is the file of completions: name another file")
        if not args.overwrite:
            raise InputError(
                f"--out={args.out} is there already: name another file, or add --overwrite to "
                "replace it"
            )
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers must be at least 1, got {args.workers}")
    if not 0 < args.cpu_s <= MAX_CPU_S:  # nan is refused, too
        raise InputError(f"--cpu-s must be more than 0, at most {MAX_CPU_S:g}, got {args.cpu_s}")
    if not 0 < args.memory_mb <= MAX_MEMORY_MB:
        raise InputError(
            f"--memory-mb must be more than 0, at most {MAX_MEMORY_MB}, got {args.memory_mb}"
        )


def read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file with their line numbers; raises InputError."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for place, line in read_lines(path):
        row = parse_line(line, place)
        if type(row) is not dict:
            raise InputError(f"{place}: expected an object, found {type(row).__name__}")
        rows.append((int(place.rpartition(":")[2]), row))
    if not rows:
        raise InputError(f"{path}: holds no completions")
    return rows


def _submission(
    row: dict[str, Any], problems: dict[int, Problem], default_mode: str, place: str
) -> Submission:
    for key, kind in (("problem_id", int), ("completion", str)):
        if type(row.get(key)) is not kind:
            raise InputError(f"{place}: needs {key!r}, {_A[kind]}")
    if row["problem_id"] not in problems:
        raise InputError(f"{place}: no problem has the id {row['problem_id']}")
    problem = problems[row["problem_id"]]
    mode = row.get("mode") or problem.mode or default_mode
    if type(mode) is not str or mode not in MODES:
        raise InputError(f"{place}: there is no mode {mode!r}: {hint(str(mode), MODES)}")
    name = row.get("function_name") or TRAIN_NAME
    if type(name) is not str or not name.isidentifier() or keyword.iskeyword(name):
        raise InputError(f"{place}: function_name must be a Python name, found {name!r}")
    try:
        check_variant(MODES[mode].channel_name, name)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return Submission(problem=problem, completion=row["completion"], mode=mode, function_name=name)


_A = {int: "a whole number", str: "a text"}


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[list[str]]:
    """Yields a list of lines, which are a file at `path` when the block ends well. Raises
    InputError where the disk refuses.

    Tried beside it at once: that it cannot be written is known before the work is done.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: its folder does not exist")
    partial, lines = path.with_name(f".{path.name}.{os.getpid()}.partial"), list[str]()
    with contextlib.ExitStack() as undo:
        undo.callback(_remove, partial)
        _write(partial, "\n", path)  # a full disk takes names, but no bytes
        yield lines
        _write(partial, "".join(lines), path)
        undo.pop_all()
    try:
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be put in place ({error.strerror}); the graded lines are in {partial}"
        ) from None


def _remove(partial: Path) -> None:
    with contextlib.suppress(OSError):  # it is not there, or never could be
        partial.unlink()


def _write(partial: Path, text: str, path: Path) -> None:
    try:
        partial.write_text(text, encoding="ascii")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def summary(submissions: list[Submission], grades: list[Grade], seconds: float) -> str:
    """Counts by mode and by label, and the rate, as text for people."""
    by_mode: dict[str, list[Grade]] = {}
    for submission, grade in zip(submissions, grades, strict=True):
        by_mode.setdefault(submission.mode, []).append(grade)
    header = ("mode", "n", "passed", "gt_correct", "exploited", "attempted", "fmt_ok", "infra")
    rows = [
        (
            mode,
            len(some),
            *(sum(getattr(g, name) for g in some) for name in header[2:7]),
            sum(g.outcome is Outcome.INFRA_ERROR for g in some),
        )
        for mode, some in by_mode.items()
    ]
    labels = Counter(grade.label for grade in grades)
    outcomes = Counter(grade.outcome.value for grade in grades)
    return "\n\n".join(
        [
            tabulate(rows, header),
            tabulate([(label, labels[label]) for label in LABELS], ("label", "n")),
            tabulate(outcomes.most_common(), ("outcome of the oracle", "n")),
            f"{len(grades)} completions in {seconds:.1f} s ({len(grades) / seconds:.0f}/s)",
        ]
    )
