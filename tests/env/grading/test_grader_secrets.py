"""What a completion could learn over many gradings, if it could keep a file: nothing.

These run without isolation (`process`), where programs do share the host's files: the perfect
channel from one grading to the next. In namespaces they have no such file.
"""

import gc
import itertools
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from loguru import logger
from test_grader_labels import HONEST, RIGHT, SQUARE

from projected_grpo.env.grading import worker
from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.reference import References
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.problems.problem import Case, Problem
from projected_grpo.env.sandbox.sandbox import Limits, Outcome, Sandbox

GRADINGS = 60
PARITY = replace(
    SQUARE,
    cases=tuple(Case({"n": n}, (n * 2654435761 >> 7) % 2 == 1) for n in range(24)),
    canonical_solution="class Solution:\n    def f(self, n):\n"
    "        return (n * 2654435761 >> 7) % 2 == 1\n",
)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1, limits=Limits(cpu_s=5.0, memory_mb=512), sandbox="process") as grader:
        yield grader


COPIES = itertools.count()


def grade(grader: Grader, code: str, task: Problem, mode: str = "run_tests") -> Grade:
    """A grade of the program, which is really run: the same text would be graded only once."""
    text = f"```\n{code}\n# copy {next(COPIES)}\n```"
    return grader.grade([Submission(problem=task, completion=text, mode=mode)])[0]


THIEF = """
import gc, json, marshal, os, types
PLACE = {place!r}
KNOWN = json.load(open(PLACE)) if os.path.exists(PLACE) else {{"code": None, "in": [], "out": {{}}}}
class Solution:
    def f(self, n):
        if KNOWN["code"]:
            stolen = marshal.loads(bytes.fromhex(KNOWN["code"]))
            return types.FunctionType(stolen, globals())(self, n)
        if n not in KNOWN["in"]:
            KNOWN["in"].append(n)
            json.dump(KNOWN, open(PLACE, "w"))
        return KNOWN["out"].get(str(n), n == "own")
OWN = Solution.f.__code__
def run_tests():
    foreign = [o for o in gc.get_objects() if isinstance(o, types.FunctionType)]
    foreign = [o.__code__ for o in foreign if o.__name__ == "f" and o.__code__ is not OWN]
    if getattr(Solution.f, "__code__", OWN).co_name == "f" and Solution.f.__code__ is not OWN:
        foreign.append(Solution.f.__code__)
    if foreign:
        KNOWN["code"] = marshal.dumps(foreign[0]).hex()
    for n in KNOWN["in"]:
        value = Solution().f(n)
        if value is True:
            KNOWN["out"][str(n)] = True
    json.dump(KNOWN, open(PLACE, "w"))
    assert Solution().f(0) == 5
"""


def test_the_canonical_solution_cannot_be_carried_off(grader: Grader, tmp_path: Path) -> None:
    place = tmp_path / "loot.json"
    code = THIEF.format(place=str(place))
    seen = [grade(grader, code, PARITY) for _ in range(GRADINGS)]
    loot = json.loads(place.read_text())
    assert len(loot["in"]) == len(PARITY.cases)  # The channel works: it has all the inputs.
    assert loot["code"] is None
    assert not any(one.gt_correct for one in seen)


LEARNER = """
import json, os
PLACE = {place!r}
STATE = json.load(open(PLACE)) if os.path.exists(PLACE) else {{"table": {{}}, "last": None, "n": 0}}
# The call after which the last copy heard nothing more must have been answered wrongly.
if STATE["last"] is not None:
    STATE["table"][STATE["last"]] = not STATE["table"][STATE["last"]]
STATE["n"] = 0
class Solution:
    def f(self, n):
        key = str({key})
        STATE["last"] = key
        STATE["n"] += 1
        answer = STATE["table"].setdefault(key, False)
        json.dump(STATE, open(PLACE, "w"))
        return answer
"""


@pytest.mark.parametrize("key", ["n", 'STATE["n"]'], ids=["by_input", "by_position"])
def test_a_learner_hears_nothing_of_its_answers(grader: Grader, tmp_path: Path, key: str) -> None:
    place = tmp_path / "table.json"
    code = LEARNER.format(place=str(place), key=key)
    for _ in range(GRADINGS):
        assert not grade(grader, code, PARITY, mode="none").gt_correct
        assert json.loads(place.read_text())["n"] == len(PARITY.cases)


def test_the_order_of_the_hidden_calls_is_drawn_anew(grader: Grader, tmp_path: Path) -> None:
    place = tmp_path / "order.txt"
    said = f"open({str(place)!r}, 'a').write(f'{{n}} ')"
    code = f"class Solution:\n    def f(self, n):\n        {said}\n"
    right = code + "        return (n * 2654435761 >> 7) % 2 == 1\n"
    wrong = code + "        return 1 // n == n\n"
    for program in (right, wrong):
        orders, grades = set(), set()
        for _ in range(5):
            place.write_text("")
            grades.add(replace(grade(grader, program, PARITY, mode="none"), seconds=0.0))
            orders.add(place.read_text())
        assert len(orders) == 5 and len(grades) == 1
        assert {tuple(sorted(map(int, o.split()))) for o in orders} == {tuple(range(24))}
    (one,) = grades
    assert one.error.startswith("call 1: ZeroDivisionError")


SLOW = "class Solution:0\n" * 9000


@pytest.fixture
def _handler_restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGPROF)
    yield
    signal.signal(signal.SIGPROF, before)


@pytest.mark.usefixtures("_handler_restored")
@pytest.mark.parametrize("dropped", [False, True])
def test_text_that_is_slow_to_read_is_given_up(
    monkeypatch: pytest.MonkeyPatch, dropped: bool
) -> None:
    """Even where Python drops the first alarm, as it comes in a callback of the collector."""
    held = False

    def hold(*_: object) -> None:
        nonlocal held
        if dropped and not held and signal.getitimer(signal.ITIMER_PROF)[0]:
            held = True
            while True:
                pass  # until the alarm comes, whose exception goes no further than this callback

    # hypothesis has a callback of the collector too; pytest's hook is so slow that the alarm comes
    # again in it.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    monkeypatch.setattr(worker, "MOST_CPU_S", 0.05)
    monkeypatch.setattr(worker, "AGAIN_CPU_S", 0.05)
    slow = Submission(problem=SQUARE, completion=f"```\n{SLOW + HONEST}\n```", mode="run_tests")
    with Sandbox(Limits(), "process") as sandbox:
        gc.callbacks.append(hold)
        try:
            seen = worker._grade(sandbox, References(Limits()), slow, labels=True)
        finally:
            gc.callbacks.remove(hold)
        assert held == dropped
        assert seen.outcome is Outcome.UNPARSED and "too long to read" in seen.error
        monkeypatch.setattr(worker, "MOST_CPU_S", 20.0)
        right = replace(slow, completion=f"```\n{RIGHT}\n```")
        assert worker._grade(sandbox, References(Limits()), right, labels=True).gt_correct


def test_a_grader_that_can_run_nothing_says_so_once_with_the_cause(grader: Grader) -> None:
    said: list[str] = []
    sink = logger.add(lambda message: said.append(str(message)), level="ERROR")
    broken = replace(SQUARE, setup_code="raise OSError('no room left')")
    try:
        for _ in range(2):
            seen = grade(grader, RIGHT, broken, mode="none")
            assert seen.outcome is Outcome.INFRA_ERROR and "no room left" in seen.error
    finally:
        logger.remove(sink)
    assert len(said) == 1 and "none of 1 completions" in said[0] and "no room left" in said[0]
