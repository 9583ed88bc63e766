"""What programs may use is counted in ways that none can talk the kernel out of, and that neither
the machine's load nor the limits of whoever starts us change."""

import contextlib
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ISOLATING

from projected_grpo.env.sandbox.inside import watch
from projected_grpo.env.sandbox.programs import Limits, Program
from projected_grpo.env.sandbox.sandbox import Outcome, ProgramResult, Sandbox

MOUNTS = Path("/proc/self/mountinfo").read_text()
LIMITS = Limits(cpu_s=1.0, wall_s=1.0, memory_mb=256, output_kb=16, file_mb=2)


@pytest.fixture(scope="module", params=ISOLATING)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(LIMITS, request.param) as sandbox:
        yield sandbox


def run(sandbox: Sandbox, code: str) -> ProgramResult:
    return sandbox.run(Program(setup_code="", code=code))


BURN = """
import os, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
"""
IGNORE = "import signal\ntry: signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nexcept OSError: pass\n"
CPU_ATTACKS = {
    "children_one_by_one": """
for _ in range(400):
    if os.fork() == 0:
        burn(.025)
        os._exit(0)
    os.wait()
""",
    "children_never_waited_for": """
while True:
    try:
        if os.fork() == 0:
            burn(.025)
            os._exit(0)
    except OSError:
        burn(.025)
""",
    "ends_of_children_ignored": IGNORE
    + """
for _ in range(400):
    if os.fork() == 0:
        burn(.025)
        os._exit(0)
    try: os.wait()
    except OSError: pass
""",
    "grandchildren_left_to_the_first_process": """
for _ in range(400):
    if os.fork() == 0:
        if os.fork() == 0: burn(.025)
        os._exit(0)
    os.wait()
    try:
        while True: os.wait()
    except OSError: pass
""",
    "threads": """
import threading
for _ in range(400):
    t = threading.Thread(target=lambda: sum(range(10**6)))
    t.start()
    t.join()
""",
}


@contextlib.contextmanager
def witnessed(sandbox: Sandbox) -> Iterator[Callable[[], float]]:
    """A cgroup that the server's processes are moved to, as a witness of ours alone: it counts the
    CPU seconds of all that ever ran in it. Only root can make one, and labels do without."""
    assert sandbox._server is not None
    fields = next((f.split() for f in MOUNTS.splitlines() if " - cgroup2 " in f), None)
    if fields is None:
        pytest.skip("no cgroup v2 is mounted")
    group = Path(fields[4]) / f"projected-grpo-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    for pid in watch.descendants(proc, sandbox._server.pid):
        (group / "cgroup.procs").write_text(str(pid))
    os.close(proc)

    def used_s() -> float:
        return int((group / "cpu.stat").read_text().split()[1]) / 1e6

    before = used_s()
    try:
        yield lambda: used_s() - before
    finally:
        sandbox.close()
        group.rmdir()


@pytest.mark.parametrize("kind", ISOLATING)
@pytest.mark.parametrize("name", CPU_ATTACKS)
def test_the_cpu_limit_holds_within_a_factor(kind: str, name: str) -> None:
    """By the account of the kernel, which adds all that it has ended to the first process."""
    with Sandbox(LIMITS, kind) as sandbox, witnessed(sandbox) as used_s:
        seen = run(sandbox, BURN + CPU_ATTACKS[name])
        # Or it has too many processes before: the ended ones stay until they have been waited for.
        assert seen.outcome in {Outcome.TIMEOUT, Outcome.CRASHED}, seen
        assert seen.seconds < 1.5 * LIMITS.cpu_s
        # The monitor's own work is in it, and the end of each process.
        assert used_s() < 1.5 * LIMITS.cpu_s
        if seen.outcome is Outcome.TIMEOUT:
            assert used_s() < seen.seconds + 0.3


def test_the_witness_sees_what_an_account_by_children_misses() -> None:
    """Without the filter, who ignores the ends of children is charged for next to nothing."""
    attack = CPU_ATTACKS["ends_of_children_ignored"].replace("range(400)", "range(60)")
    with Sandbox(LIMITS, "process") as sandbox, witnessed(sandbox) as used_s:
        seen = run(sandbox, BURN + attack)  # nothing stops it before all have burnt 1.5 s
        assert used_s() > max(1.4, 4 * seen.seconds)


def test_a_child_that_is_still_alive_at_the_end_is_charged_for(sandbox: Sandbox) -> None:
    code = """
if os.fork() == 0:
    burn(.5)
    open("burnt", "w")
    time.sleep(99)
while not os.path.exists("burnt"): time.sleep(.01)
time.sleep(.2)
"""
    seen = run(sandbox, BURN + code)
    assert seen.outcome is Outcome.PASSED
    assert 0.4 < seen.seconds < LIMITS.cpu_s


MEMORY_ATTACKS = {
    "shared_and_dropped": """
import ctypes, mmap
for _ in range(12):
    pages = mmap.mmap(-1, 100 << 20)
    for at in range(0, 100 << 20, 4096): pages[at] = 1
    pages.madvise(mmap.MADV_DONTNEED)
""",
    "shared_by_flag": """
import mmap
keep = [mmap.mmap(-1, 100 << 20, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)]
""",
    "private_in_children": """
import os, time
for _ in range(4): os.fork()
keep = bytearray(100 << 20)
for at in range(0, 100 << 20, 4096): keep[at] = 1
time.sleep(9)
""",
    "huge_pages": "import mmap\nmmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS"
    " | 0x40000)",
    "files_that_are_mapped": """
import mmap
keep = []
for number in range(64):
    file = open(str(number), 'wb+')
    file.truncate(100 << 20)
    keep.append(mmap.mmap(file.fileno(), 100 << 20))
    keep[-1][::4096] = bytes(25600)
""",
}

REFUSALS = {
    # Pages that stay when the last mapping has gone are not to be had in the first place.
    "shared_and_dropped": (Outcome.FAILED, "Operation not permitted"),
    "shared_by_flag": (Outcome.FAILED, "Operation not permitted"),
    "huge_pages": (Outcome.FAILED, "Operation not permitted"),
    "files_that_are_mapped": (Outcome.FAILED, "File too large"),
}


@pytest.mark.parametrize("name", MEMORY_ATTACKS)
def test_the_memory_limit_holds(sandbox: Sandbox, name: str) -> None:
    seen = run(sandbox, MEMORY_ATTACKS[name])
    outcome, error = REFUSALS.get(name, (Outcome.MEMORY, ""))
    assert seen.outcome is outcome, seen
    assert error in seen.error


def test_memory_is_cut_within_a_factor(sandbox: Sandbox) -> None:
    """Children fill private pages as fast as they can, between two looks of the monitor."""
    code = "import os\nfor _ in range(3): os.fork()\nx = [b'x' * (1 << 20) for _ in range(230)]"
    assert sandbox._server is not None
    peaks = [0.0]
    ended = threading.Event()

    def sample(pid: int) -> None:
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        while not ended.wait(0.002):
            with contextlib.suppress(ProcessLookupError):
                table = watch.descendants(proc, pid).values()
                peaks.append(sum(map(watch.resident_mb, table)))
        os.close(proc)

    thread = threading.Thread(target=sample, args=(sandbox._server.pid,))
    thread.start()
    seen = run(sandbox, code)
    ended.set()
    thread.join()
    assert seen.outcome is Outcome.MEMORY
    # Nine of our own processes' pages are in it, which are counted once only in truth.
    assert LIMITS.memory_mb < max(peaks) < 3 * LIMITS.memory_mb


@contextlib.contextmanager
def load(count: int) -> Iterator[None]:
    """`count` processes that spin."""
    spin = "print(flush=True)\nwhile True: pass"
    command = [sys.executable, "-S", "-c", spin]
    spinners = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for spinner in spinners:
            assert spinner.stdout is not None
            spinner.stdout.readline()
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
            assert spinner.stdout is not None
            spinner.stdout.close()


IN_A_THREAD = (
    BURN
    + """
import threading
thread = threading.Thread(target=burn, args=(.45,))
thread.start()
thread.join()
"""
)
IN_A_CHILD = (
    BURN
    + """
if os.fork() == 0:
    burn(.45)
    os._exit(0)
os.wait()
"""
)
ASLEEP_MOSTLY = "import time\nwhile True:\n    time.sleep(.09)\n    sum(range(10_000))"


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """For this thread and all that it starts, so that few spinners are much load, and leave the
    other cores to other tests."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize("spinners", [0, 2, 4])
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (IN_A_THREAD, Outcome.PASSED),
        (IN_A_CHILD, Outcome.PASSED),
        (ASLEEP_MOSTLY, Outcome.TIMEOUT),
    ],
    ids=["thread", "child", "asleep"],
)
def test_load_changes_no_label(spinners: int, code: str, outcome: Outcome) -> None:
    """Beside a program on the only core that it has."""
    limits = Limits(cpu_s=3.0, wall_s=0.4, memory_mb=256)
    with one_core(), Sandbox(limits) as sandbox, load(spinners):
        assert run(sandbox, code).outcome is outcome


HONEST = {
    "sum": "class Solution:\n    def f(self, x): return sum(range(x))\n",
    "deep": """
import sys
from functools import lru_cache
sys.setrecursionlimit(100_000)
class Solution:
    def f(self, x):
        @lru_cache(None)
        def down(n): return n and down(n - 1) + 1
        return down(x)
""",
}
RUN = """
import json, sys
from projected_grpo.env.sandbox.programs import Program, Limits
from projected_grpo.env.sandbox.sandbox import Sandbox, SandboxError
programs, depths, kind = json.loads(sys.argv[1])
try:
    with Sandbox(Limits(), kind) as sandbox:
        for code, depth in zip(programs, depths):
            job = Program(setup_code='', code=code, entry_point='f', calls=({'x': depth},))
            print(sandbox.run(job).outcome)
except SandboxError as error:
    print('refused:', error)
"""


def labels(limit: str, kind: str, *programs: tuple[str, int]) -> list[str]:
    """Outcomes under a limit of the shell, or the one sentence that refuses it."""
    codes, depths = [HONEST[name] for name, _ in programs], [depth for _, depth in programs]
    given = json.dumps([codes, depths, kind])
    command = [f'ulimit {limit} && exec "$@"', "bash", sys.executable, "-c", RUN, given]
    done = subprocess.run(["bash", "-c", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@functools.cache
def usual_label(kind: str, name: str, depth: int) -> list[str]:
    """Under the stack that most hosts have."""
    return labels("-s 8192", kind, (name, depth))


@pytest.mark.parametrize("kind", [*ISOLATING, "process"])
@pytest.mark.parametrize(
    ("limit", "there", "needed"),
    [
        ("-n 48", "48", "64"),
        ("-u 20", "20", "36"),
        ("-f 1000", "0", "8"),
        ("-v 900000", "878", "1024"),
        ("-t 20", "20", "25"),
    ],
)
def test_a_limit_that_is_too_low_is_refused_in_one_sentence(
    kind: str, limit: str, there: str, needed: str
) -> None:
    (line,) = labels(limit, kind, ("sum", 9))
    assert line.startswith("refused: the limit on")
    assert f"is {there} here, but the sandbox needs {needed}:" in line
    assert limit.split()[0] in line


@pytest.mark.parametrize("kind", [*ISOLATING, "process"])
@pytest.mark.parametrize("limit", ["-s 1024", "-s 8192", "-s unlimited", "-Ss 256"])
def test_the_stack_is_ours_whatever_the_host_has(kind: str, limit: str) -> None:
    *passing, deepest = labels(limit, kind, ("sum", 9), ("deep", 3_000), ("deep", 6_000))
    assert passing == ["passed", "passed"]
    assert [deepest] == usual_label(kind, "deep", 6_000)


def test_what_fails_before_the_program_starts_is_our_fault(sandbox: Sandbox) -> None:
    for setup in ("raise ValueError", "import os; os._exit(0)", "x = [0] * 10**10", "def f(:"):
        seen = sandbox.run(Program(setup_code=setup, code="x = 1"))
        assert seen.outcome is Outcome.INFRA_ERROR
        assert "first instruction" in seen.error


def test_what_the_kernel_does_not_grant_is_our_fault() -> None:
    """The check is made once; what happens afterwards must not be charged to programs either."""
    limits = Limits(cpu_s=1.0, memory_mb=256)
    with Sandbox(limits) as sandbox:
        object.__setattr__(limits, "open_files", 1 << 30)
        seen = sandbox._try(Program(setup_code="", code="x = 1"), None, limits)
    assert seen.outcome is Outcome.INFRA_ERROR
    assert "could not be confined: not allowed to raise maximum limit" in seen.error
