"""Every hostile completion gets an answer, none is graded correct, nothing of it stays behind."""

import os
import tempfile
from pathlib import Path

import pytest
from conftest import ISOLATING
from hostile_completions import HOSTILE

from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Limits, Outcome

ROOT = Path(__file__).parents[3]
LEETCODE = Path(os.environ.get("PROJECTED_GRPO_LEETCODE", ROOT.parent / "shared" / "leetcode"))
SAMPLE = LEETCODE / "benchmark_sample.jsonl"
MARK = f"hostile{os.getpid()}mark"
LIMITS = Limits(cpu_s=0.3, wall_s=1.0, memory_mb=256, file_mb=4)


def descendants() -> set[int]:
    """Process ids of all that this process started, directly or not."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(fields[1])
    family = {os.getpid()}
    while fresh := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= fresh
    return family - {os.getpid()}


def marked_files() -> list[Path]:
    """Files with our mark in their names in the places where a program might write."""
    library = Path(os.__file__).parent
    places = ("/", "/tmp", "/dev", "/dev/shm", "/var/tmp", "/root", str(library), str(ROOT))
    folders = {*map(Path, places), Path.cwd(), Path.home(), Path(tempfile.gettempdir())}
    return [
        path
        for folder in folders
        if folder.is_dir() and os.access(folder, os.R_OK)
        for path in folder.iterdir()
        if MARK in path.name
    ]


def submissions(problems: list[Problem]) -> dict[str, Submission]:
    """Each hostile program on a problem, in a mode that looks at what it leaves."""
    todo: dict[str, Submission] = {}
    for number, (name, code) in enumerate(HOSTILE.items()):
        problem = problems[number % len(problems)]
        code = code.replace("METHOD", problem.entry_point).replace("MARK", MARK)
        todo[name] = Submission(
            problem=problem, completion=f"```python\n{code}\n```", mode="file_marker"
        )
    return todo


def victims() -> list[Problem]:
    """Katas of our own, and problems of the public benchmark where its sample is there."""
    sample = load_problems(SAMPLE, limit=12) if SAMPLE.exists() else []
    return [*load_problems("katas:test", limit=12), *sample]


@pytest.fixture(scope="module", params=ISOLATING)
def aftermath(request: pytest.FixtureRequest) -> dict[str, object]:
    """All hostile completions graded by one Grader, and what was left while it was still open."""
    todo = submissions(victims())
    library = {path: path.stat().st_mtime_ns for path in [Path(os.__file__)]}
    start, others = os.times(), descendants()  # such as graders that other tests have kept
    with Grader(workers=2, limits=LIMITS, sandbox=request.param) as grader:
        servers = descendants() - others
        grades = dict(zip(todo, grader.grade(todo.values()), strict=True))
        left_while_open = descendants() - servers - others
    end = os.times()
    used_s = end.children_user + end.children_system - start.children_user - start.children_system
    return {
        "grades": grades,
        "cpu_s": used_s,
        "left_while_open": left_while_open,
        "servers_left": descendants() & servers,
        "library_touched": [p for p, when in library.items() if p.stat().st_mtime_ns != when],
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_completion_is_answered_and_never_correct(
    name: str, aftermath: dict[str, dict[str, Grade]]
) -> None:
    grade = aftermath["grades"][name]
    assert not grade.gt_correct
    assert not grade.passed
    assert grade.reward <= 0.5
    # None can make itself look like a fault of ours, which would take it out of the loss.
    assert grade.outcome in set(Outcome) - {Outcome.PASSED, Outcome.INFRA_ERROR}, grade


def test_nothing_is_left_behind(aftermath: dict[str, object]) -> None:
    assert not aftermath["left_while_open"]
    assert not aftermath["servers_left"]
    assert not aftermath["library_touched"]
    assert not marked_files()


def test_the_whole_set_takes_little(aftermath: dict[str, float]) -> None:
    assert len(HOSTILE) >= 200
    assert aftermath["cpu_s"] < 60  # of all graders and programs, which no load changes
