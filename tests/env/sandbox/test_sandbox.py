"""The sandbox alone: outcomes, isolation between programs, the wire's encoding."""

import contextlib
import ctypes
import math
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import BUBBLEWRAP, ISOLATING
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger

from projected_grpo.env.grading.comparison import same_value
from projected_grpo.env.problems.problem import PRELUDE
from projected_grpo.env.sandbox import forkserver
from projected_grpo.env.sandbox.inside import watch, wire
from projected_grpo.env.sandbox.programs import Node
from projected_grpo.env.sandbox.sandbox import (
    Limits,
    NotPlain,
    Outcome,
    Program,
    ProgramResult,
    Sandbox,
    SandboxError,
)

LIMITS = Limits(cpu_s=1.0, wall_s=1.0, memory_mb=256, output_kb=16, file_mb=2)


@pytest.fixture(scope="module", params=ISOLATING)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(LIMITS, request.param) as sandbox:
        yield sandbox


def descendants(root: int) -> set[int]:
    """Process ids of all that `root` started, directly or not."""
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return set(watch.descendants(proc, root))
    finally:
        os.close(proc)


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def run(sandbox: Sandbox, code: str, **program: Any) -> ProgramResult:
    return sandbox.run(Program(setup_code=PRELUDE, code=code, **program))


def call(
    sandbox: Sandbox, body: str, *calls: dict[str, Any], result: str = "plain"
) -> ProgramResult:
    code = f"class Solution:\n    def f(self, x):\n        {body}\n"
    return run(sandbox, code, entry_point="f", calls=calls, result=result)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("x = 1", Outcome.PASSED),
        ("from __future__ import annotations\nx: Nothing = 1", Outcome.PASSED),
        ("raise ValueError('no')", Outcome.FAILED),
        ("import sys; sys.exit(0)", Outcome.FAILED),
        ("import os; os._exit(0)", Outcome.CRASHED),
        ("def f(:", Outcome.UNPARSED),
        ("x = '\ud800'", Outcome.UNPARSED),
        ("x = [0] * 10**9", Outcome.MEMORY),
        ("while True: pass", Outcome.TIMEOUT),
        ("import time; time.sleep(99)", Outcome.TIMEOUT),
        ("import time; time.sleep(0.3)", Outcome.PASSED),
        ("print('x' * 20_000, flush=True)", Outcome.FAILED),
        ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", Outcome.CRASHED),
    ],
)
def test_outcomes(sandbox: Sandbox, code: str, outcome: Outcome) -> None:
    assert run(sandbox, code).outcome is outcome


def test_a_sleeper_cannot_stop_its_clock_by_talking(sandbox: Sandbox) -> None:
    code = "import time\nwhile True:\n    print('.', flush=True)\n    time.sleep(0.02)"
    assert run(sandbox, code).outcome is Outcome.TIMEOUT
    slow = "import time; time.sleep(0.4); return x"
    calls = [{"x": number} for number in range(9)]
    assert call(sandbox, slow, *calls).outcome is Outcome.TIMEOUT  # together, not one by one


def hold_the_interpreter(seconds: float) -> None:
    """Let no other thread of this process run."""
    ctypes.PyDLL(None).usleep(round(seconds * 1e6))


@pytest.mark.parametrize("pause", [time.sleep, hold_the_interpreter])
def test_time_in_which_we_owe_the_next_request_is_not_the_programs(
    sandbox: Sandbox, pause: Callable[[float], None]
) -> None:
    def judge(number: int, value: Any) -> bool:
        pause(0.8)  # twice, of a limit of one second
        return value == number

    program = Program(
        setup_code="",
        code="class Solution:\n    def f(self, x): return x\n",
        entry_point="f",
        calls=({"x": 0}, {"x": 1}),
    )
    assert sandbox.run(program, judge).outcome is Outcome.PASSED


def test_a_thread_that_holds_the_interpreter_does_not_time_programs_out(sandbox: Sandbox) -> None:
    calls = [{"x": number} for number in range(6)]
    body = "import time\n        while time.process_time() < 0.05 * (x + 1): pass\n        return x"

    def hold() -> None:
        for _ in range(3):
            hold_the_interpreter(0.8)
            time.sleep(0.06)

    thread = threading.Thread(target=hold)
    thread.start()
    assert call(sandbox, body, *calls).outcome is Outcome.PASSED
    thread.join()


def test_an_exception_from_inside_the_invoked_function_is_told_from_others(
    sandbox: Sandbox,
) -> None:
    def raised(code: str, invoke: str = "f") -> bool:
        seen = run(sandbox, code, invoke=invoke)
        assert not seen.invoked
        return seen.raised

    assert raised("def f(): assert 0")
    assert raised("def f(): [].pop()")
    assert raised("class S:\n    def f(self): raise KeyError", "S().f")
    assert not raised("def f(x): assert 0")
    assert not raised("class S:\n    def f(): assert 0", "S().f")
    assert not raised("class S:\n    def __init__(self): assert 0\n    def f(self): 0", "S().f")
    assert not raised("import sys\ndef f(): sys.exit(1)")
    assert not raised("def f(): print('x' * 20_000, flush=True); assert 0")
    assert not raised("assert 0\ndef f(): assert 0")
    assert not raised("x = 1")


def test_seconds_are_cpu_seconds(sandbox: Sandbox) -> None:
    slept = run(sandbox, "import time; time.sleep(0.5)").seconds
    worked = run(sandbox, "import time\nwhile time.process_time() < 0.4: pass").seconds
    assert worked > 0.35 and slept < worked / 2


def test_everything_observable_comes_back(sandbox: Sandbox) -> None:
    code = """
print('all tests passed')
open('result.txt', 'w').write('PASS')
keep = open('unclosed.txt', 'w'); keep.write('late')
import os; os.mkdir('dir'); os.symlink('/etc/passwd', 'link')
class Solution:
    valid = True
    empty = []
def run_tests(): assert Solution.valid
"""
    seen = run(sandbox, code, invoke="run_tests", attributes=("valid", "empty", "missing"))
    assert seen.outcome is Outcome.PASSED
    assert seen.invoked
    assert seen.attributes == {"valid": True, "empty": False, "missing": False}
    assert seen.stdout == "all tests passed\n"
    assert seen.files == {"result.txt": "PASS", "unclosed.txt": "late"}


def test_unobserved_output_and_files_are_thrown_away(sandbox: Sandbox) -> None:
    seen = run(sandbox, "print('x' * 100_000)\nopen('f', 'w')", observe=False)
    assert (seen.outcome, seen.stdout, seen.files) == (Outcome.PASSED, "", {})


def test_the_view_holds_next_to_nothing(sandbox: Sandbox) -> None:
    code = """
import os
open('left', 'w').write('x')
for root, dirs, files in os.walk('/'):
    library = os.path.dirname(os.__file__)
    if root == library:
        dirs.clear()
        continue
    for name in files: print('file', os.path.join(root, name))
print('env', dict(os.environ), 'cwd', os.getcwd(), 'pid', os.getpid(), os.getppid())
print([fd for fd in range(1024) if os.path.exists(f'/dev/fd/{fd}')])
print('packages', os.path.exists(os.path.dirname(os.__file__) + '/site-packages'))
"""
    for _ in range(2):  # the second time shows that nothing of the first was kept
        lines = run(sandbox, code).stdout.splitlines()
        assert [line for line in lines if line.startswith("file")] == [
            "file /dev/null",
            "file /tmp/left",
        ]
        assert "env {} cwd /tmp pid 1 0" in lines
        assert "packages False" in lines


@pytest.mark.parametrize("kind", [*ISOLATING, "process"])
def test_a_program_has_its_channel_only_however_many_files_we_have_open(kind: str) -> None:
    code = """
import errno, os
for number in range(4096):
    try:
        os.lseek(number, 0, os.SEEK_CUR)
        print(number)
    except OSError as error:
        if error.errno != errno.EBADF: print(number)
"""
    with contextlib.ExitStack() as many:
        for _ in range(200):
            many.enter_context(open(os.devnull))
        with Sandbox(LIMITS, kind) as sandbox:
            # And, where no more can be made, two socket pairs for asyncio's loops.
            count = 4 if kind == "process" else 8
            assert run(sandbox, code).stdout.split() == [str(number) for number in range(count)]


def test_a_program_has_lost_every_privilege(sandbox: Sandbox) -> None:
    """By the kernel's account, while it runs: it has no /proc to look for itself."""
    program = Program(
        setup_code="",
        code="import time\nclass Solution:\n    def f(self, x): return time.sleep(x)\n",
        entry_point="f",
        calls=({"x": 0}, {"x": 0}),
    )
    statuses: list[dict[str, str]] = []

    def look(number: int, value: Any) -> bool:
        assert sandbox._server is not None
        (pid,) = (p for p in descendants(sandbox._server.pid) if not descendants(p))
        spaces = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
        for name in spaces if os.geteuid() == 0 else ():  # others may not look
            theirs = os.readlink(f"/proc/{pid}/ns/{name}")
            assert theirs != os.readlink(f"/proc/self/ns/{name}"), name
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        statuses.append({k: v.strip() for k, _, v in (line.partition(":") for line in lines)})
        return True

    assert sandbox.run(program, look).outcome is Outcome.PASSED
    for status in statuses:
        assert status["NSpid"].split()[-1] == "1"
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[capabilities], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert status["Uid"].split() == [str(os.getuid() or 65534)] * 4


def test_a_program_finds_nothing_of_an_earlier_one(sandbox: Sandbox) -> None:
    call(sandbox, "return 'tell' + 'tale' * 3 + x", {"x": "more"})
    code = """
import gc
gc.unfreeze()
needle = ''.join(['tell', 'tale'])
hits = 0
for o in gc.get_objects():
    if isinstance(o, (dict, list, tuple)) and o is not globals():
        for v in (list(o.values()) if isinstance(o, dict) else o):
            hits += isinstance(v, str) and needle in v
print(hits)
"""
    assert run(sandbox, code).stdout == "0\n"


def test_arguments_are_rebuilt_for_each_call(sandbox: Sandbox) -> None:
    seen = call(sandbox, "x.append(1); return x", {"x": [0]}, {"x": [0]}, {"x": [[]]})
    assert seen.values == ([0, 1], [0, 1], [[], 1])


def test_no_program_learns_what_the_judge_says_of_its_answers(sandbox: Sandbox) -> None:
    program = Program(
        setup_code="",
        code="class Solution:\n    def f(self, x): return x\n",
        entry_point="f",
        calls=({"x": 0}, {"x": 1}, {"x": 2}),
    )
    heard: list[int] = []

    def judge(number: int, value: Any) -> bool:
        heard.append(value)
        return value < 1

    seen = sandbox.run(program, judge)
    assert (seen.outcome, heard, sorted(seen.failures)) == (Outcome.FAILED, [0, 1, 2], [1, 2])


def test_nodes_go_in_and_come_out_flat(sandbox: Sandbox) -> None:
    chain = {"x": Node("list_node", [1, 2, 3])}
    assert call(sandbox, "return x.next", chain, result="list_node").values == ([2, 3],)
    assert call(sandbox, "return None", chain, result="list_node").values == ([],)
    tree = {"x": Node("tree_node", [1, 2, 3, None, 4])}
    assert call(sandbox, "return x", tree, result="tree_node").values == ([1, 2, 3, None, 4],)
    cyclic = call(sandbox, "x.next = x; return x", chain, result="list_node")
    assert isinstance(cyclic.values[0], NotPlain)
    # A plain list in place of nodes is not what was asked for.
    assert isinstance(call(sandbox, "return [2, 3]", chain, result="list_node").values[0], NotPlain)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2**200", 2**200),
        ("-(2**63)", -(2**63)),
        ("10**5000", 10**5000),
        ("(1, [2.5, None], {'k': (True,)})", (1, [2.5, None], {"k": (True,)})),
        ("{1, 2}", {1, 2}),
        ("frozenset((1,))", frozenset((1,))),
        ("b'\\0\\xff'", b"\0\xff"),
        ("'\\ud800\\0'", "\ud800\0"),
        ("float('inf')", math.inf),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() else "",
)
def test_plain_values_come_back_as_they_are(sandbox: Sandbox, expression: str, value: Any) -> None:
    (seen,) = call(sandbox, f"return {expression}", {"x": 0}).values
    assert same_value(value, seen)


def test_signs_and_nan_survive(sandbox: Sandbox) -> None:
    ((zero, nan),) = call(sandbox, "return [-0.0, float('nan')]", {"x": 0}).values
    assert math.copysign(1, zero) == -1
    assert math.isnan(nan)


@pytest.mark.parametrize("expression", ["object()", "range(3)", "Counter()", "x.append"])
def test_other_values_are_not_plain(sandbox: Sandbox, expression: str) -> None:
    (seen,) = call(sandbox, f"return {expression}", {"x": []}).values
    assert isinstance(seen, NotPlain)


def test_programs_behave_alike_in_every_server() -> None:
    """Hash order and random numbers are fixed, so labels cannot depend on luck."""
    code = "import random\nprint(list({'a', 'b', 'c', 'd'}), random.random())"
    outputs = set()
    for _ in range(2):
        with Sandbox(LIMITS) as sandbox:
            outputs |= {run(sandbox, code).stdout for _ in range(2)}
    assert len(outputs) == 1


def test_a_dead_server_is_replaced(sandbox: Sandbox) -> None:
    assert sandbox._server is not None
    os.kill(sandbox._server.pid, signal.SIGKILL)
    assert run(sandbox, "x = 1").outcome is Outcome.PASSED


@pytest.mark.parametrize("kind", ISOLATING)
def test_all_ends_when_the_outside_is_killed(kind: str) -> None:
    code = f"""
from projected_grpo.env.sandbox.sandbox import Program, Limits, Sandbox
with Sandbox(Limits(), {kind!r}) as sandbox:
    print('up', flush=True)
    sandbox.run(Program(setup_code='', code='while True: pass'))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as outside:
        assert outside.stdout is not None
        assert outside.stdout.readline() == b"up\n"
        deadline = time.monotonic() + 120
        while len(family := descendants(outside.pid)) < 3:  # the program is the third
            assert time.monotonic() < deadline
            time.sleep(0.01)
        outside.kill()
    while any(alive(pid) for pid in family):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ISOLATING)
def test_a_server_outlives_the_thread_that_started_it(kind: str) -> None:
    """A worker's thread replaces a dead server, and ends with its batch."""
    with Sandbox(LIMITS, kind) as sandbox:
        sandbox.close()
        thread = threading.Thread(target=sandbox.start)
        thread.start()
        thread.join()
        before = sandbox._server
        assert run(sandbox, "x = 1").outcome is Outcome.PASSED
        assert sandbox._server is before


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the choice of a launcher says, made anew in this test."""
    forkserver._default_isolation.cache_clear()
    seen: list[str] = []
    handler = logger.add(lambda message: seen.append(message.record["message"]), level="DEBUG")
    yield seen
    logger.remove(handler)
    forkserver._default_isolation.cache_clear()


@pytest.mark.parametrize("available", [BUBBLEWRAP])
def test_bubblewrap_is_used_where_it_works(available: str, messages: list[str]) -> None:
    for _ in range(2):
        with Sandbox(LIMITS) as sandbox:
            assert sandbox._server is not None
            name = Path(f"/proc/{sandbox._server.pid}/comm").read_text()
    assert name == "bwrap\n"
    assert messages == ["sandbox: namespaces made by bubblewrap"]


BROKEN = {
    "missing": (None, "not installed"),
    "refused": ("echo 'bwrap: No permissions to create a new namespace' >&2; exit 1", "No perm"),
    "half": ("echo '{' >&4; echo broken >&2; exit 1", "broken"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_plain_namespaces_take_its_place(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    script, why = BROKEN[case]
    if script is not None:
        (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bwrap").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    for _ in range(2):
        with Sandbox(LIMITS) as sandbox:
            assert run(sandbox, "x = 1").outcome is Outcome.PASSED
    (message,) = messages
    assert "without bubblewrap" in message
    assert why in message
    with pytest.raises(SandboxError, match=why):
        Sandbox(LIMITS, "bubblewrap").start()


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(SandboxError, match="unknown sandbox"):
        Sandbox(LIMITS, "magic").start()


def test_process_mode_cleans_up_as_far_as_it_can(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"""
import os, time
open('left', 'w').write(os.getcwd())
if os.fork() == 0:
    os.setsid()
    open({str(note)!r}, 'w').write(str(os.getpid()))
    time.sleep(60)
time.sleep(0.2)
"""
    with Sandbox(LIMITS, "process") as sandbox:
        seen = run(sandbox, code)
        assert seen.outcome is Outcome.PASSED
        assert call(sandbox, "return x", {"x": 3}).values == (3,)
        assert run(sandbox, "while True: pass").outcome is Outcome.TIMEOUT
    assert not Path(seen.files["left"]).exists()
    assert not Path(f"/proc/{note.read_text()}").exists()


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        | st.sets(st.integers() | st.text(), max_size=4)
    ),
    max_leaves=20,
)


@given(PLAIN)
@settings(max_examples=200, deadline=None)
def test_wire_round_trip(value: Any) -> None:
    again = wire.decode(wire.parse_json(wire.dump(wire.encode(value))))
    assert repr(again) == repr(value) or again == value
    assert type(again) is type(value)


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace")))
@settings(max_examples=200, deadline=None)
def test_wire_refuses_or_decodes_anything(payload: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        wire.decode(wire.parse_json(payload))


@pytest.mark.parametrize(
    "text",
    [
        '{"i":1}',
        '{"i":"zz"}',
        '{"d":[[[],1]]}',
        '{"d":[1]}',
        '{"s":[[]]}',
        '{"t":{}}',
        '{"b":1}',
        '{"x":1}',
        '{"t":[],"s":[]}',
        "{}",
        "[" * 100_000,
        '{"t":[' * 150 + "]}" * 150,
    ],
)
def test_wire_refuses_bad_tags(text: str) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(wire.parse_json(text.encode()))
