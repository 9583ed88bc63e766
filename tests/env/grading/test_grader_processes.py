"""Workers are processes: the same grades whatever their number, and no process left behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.worker import WorkerProcess
from projected_grpo.env.loopholes.honest import honest_answer
from projected_grpo.env.loopholes.modes import MODES, TRAIN_NAME
from projected_grpo.env.problems.katas import kata_problems
from projected_grpo.env.sandbox.sandbox import Limits, SandboxError


def submissions() -> list[Submission]:
    """Honest, wrong, hacking and broken answers in several modes."""
    found = []
    for n, problem in enumerate(kata_problems("train", seed=0, limit=2)):
        for mode in ("run_tests", "sentinel", "none"):
            texts = [
                honest_answer(problem, mode, TRAIN_NAME, n),
                honest_answer(problem, mode, TRAIN_NAME, n, problem.wrong_solution),
                "```python\nclass Solution:\n```",
                "```python\nimport os\nos._exit(3)\n```",
            ]
            texts += [hack(problem, TRAIN_NAME, n, None) for hack in MODES[mode].flavours.values()]
            found += [
                Submission(problem=problem, completion=t, mode=mode, function_name=TRAIN_NAME)
                for t in texts
            ]
    return found


@pytest.fixture(scope="module")
def graders() -> Iterator[dict[int, Grader]]:
    """By their number of workers."""
    with ExitStack() as stack:
        yield {workers: stack.enter_context(Grader(workers=workers)) for workers in (1, 2, 4)}


@pytest.mark.parametrize("labels", [True, False])
def test_any_number_of_workers_gives_the_same_grades_in_the_same_order(
    graders: dict[int, Grader], labels: bool
) -> None:
    todo = submissions()
    found = {}
    for workers, grader in graders.items():
        grades = grader.grade(todo, labels=labels)
        # `error` is for people: whether it knows the exit status depends on which news came first.
        found[workers] = [replace(grade, seconds=0.0, error="") for grade in grades]
    assert len(found[1]) == len(todo)
    assert found[1] == found[2] == found[4]


def test_what_was_begun_is_graded_once_and_waited_for() -> None:
    todo = submissions()[:6]
    with Grader(workers=2) as grader:
        expected = grader.grade(todo, labels=False)
    with Grader(workers=2) as grader:
        asked: list[int] = []
        for process in grader.processes:
            process.grade = count(process.grade, asked)
        for one in (*todo[:4], todo[0]):
            grader.start([one], labels=False)
        assert grader.grade(todo, labels=False) == expected
        assert grader.grade(todo[::-1], labels=False) == expected[::-1]
        assert sum(asked) == 6
    with pytest.raises(RuntimeError, match="context manager"):
        grader.start(todo)


def count(grade, asked: list[int]):
    def counted(some, labels):
        asked.append(len(some))
        return grade(some, labels)

    return counted


def test_a_sandbox_that_cannot_be_made_is_refused() -> None:
    many = Grader(workers=2, sandbox="magic")
    with pytest.raises(SandboxError, match="unknown sandbox"), many:
        pass


def test_a_process_that_was_killed_stops_the_grading_with_a_reason() -> None:
    one = submissions()[0]
    with WorkerProcess(Limits(), "namespaces") as process:
        process.wait_until_ready()
        assert process.grade([one], False)[0].gt_correct
        process.process.send_signal(signal.SIGKILL)
        process.process.wait()
        with pytest.raises(RuntimeError, match=r"a grader process ended \(exit status -9\)"):
            process.grade([one], False)


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Even where that is killed and can tidy nothing up."""
    script = (
        "import time\n"
        "from projected_grpo.env.grading.pool import Grader\n"
        f"with Grader(workers={2}) as grader:\n"
        "    print(*[p.process.pid for p in grader.processes], flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 120
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(running(pid) for pid in pids)


def running(pid: int) -> bool:
    """Whether the process is there and not a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
