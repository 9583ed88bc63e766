"""A program looks for what an earlier one left: in the memory that it inherits, in the page cache.

Each test has a control in which the same search succeeds.
"""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest
from conftest import ISOLATING

from projected_grpo.env.sandbox.programs import Limits, Program
from projected_grpo.env.sandbox.sandbox import Outcome, Sandbox

LIMITS = Limits(cpu_s=8.0, wall_s=20.0, memory_mb=256, output_kb=64, file_mb=2)

# Memory

MARK = "planted-"
"""Every secret begins so. A program that searches has no text of its own that does."""

PLANT = """
import mmap, os
os.environ['HOME'] = SECRET
open('result.txt', 'w').write(SECRET)
print(SECRET)
pages = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
pages[4096:4096 + len(SECRET)] = SECRET.encode()
kept = [SECRET + str(n) for n in range(1000)]
class Solution:
    def f(self, x): return [x, SECRET]
"""
ENDS = {
    "answers": "",
    "raises": "raise ValueError(SECRET)",
    "dies": "os.abort()",
    "leaves_a_child": "if os.fork() == 0:\n    import time\n    time.sleep(99)",
    "takes_all_memory": "more = [SECRET * 10_000 for _ in range(10_000)]",
}

SEARCH = """
import ctypes, gc, mmap, os, re
libc = ctypes.CDLL(None, use_errno=True)
libc.pwrite.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
mark = bytes(byte ^ 1 for byte in MASKED)
scratch = os.open('scratch', os.O_RDWR | os.O_CREAT)
PAGE, HOLE = 4096, 4096
found, seen = set(), set()

def look(page):
    # The kernel reads it for us and says where nothing is.
    if page in seen:
        return True
    if page < 0 or libc.pwrite(scratch, page, PAGE, 0) != PAGE:
        return False
    seen.add(page)
    text = os.pread(scratch, PAGE, 0)
    at = text.find(mark)
    while at >= 0:
        found.add(ctypes.string_at(page + at + len(mark), 24))
        at = text.find(mark, at + 1)
    return True

def walk(page, step):
    missed = 0
    while missed < HOLE:
        missed = 0 if look(page) else missed + 1
        page += step

fresh = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
os.truncate('scratch', 1 << 20)
unwritten = os.pread(scratch, 1 << 20, 0)
dirty = fresh[:].count(0) != len(fresh) or unwritten.count(0) != len(unwritten)
places = [
    ctypes.addressof(ctypes.c_char.from_buffer(fresh)),
    ctypes.cast(libc.pwrite, ctypes.c_void_p).value,
    ctypes.cast(ctypes.pythonapi.Py_Initialize, ctypes.c_void_p).value,
    ctypes.c_void_p.in_dll(libc, '__libc_stack_end').value,
    *map(id, gc.get_objects()),
]
for page in {place // PAGE * PAGE for place in places}:
    if page not in seen:
        walk(page, PAGE)
        walk(page - PAGE, -PAGE)
print(len(seen), dirty, *(text.decode() for text in found if re.fullmatch(b'[0-9a-f]{24}', text)))
"""


@pytest.fixture(scope="module", params=ISOLATING)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(LIMITS, request.param) as sandbox:
        yield sandbox


def new_secret() -> str:
    return MARK + secrets.token_hex(12)


def plant(secret: str, end: str) -> Program:
    """A program that holds `secret` wherever it can, and ends in one of several ways."""
    return Program(
        setup_code="",
        code=f"SECRET = {secret!r}\n{PLANT}\n{end}",
        entry_point="f",
        calls=({"x": secret},),
    )


def found(sandbox: Sandbox, before: str = "") -> set[str]:
    masked = bytes(byte ^ 1 for byte in MARK.encode())
    code = f"{before}\nMASKED = {masked!r}\n{SEARCH}"
    seen = sandbox.run(Program(setup_code="", code=code))
    assert seen.outcome is Outcome.PASSED, seen
    pages, dirty, *texts = seen.stdout.splitlines()[-1].split()
    assert int(pages) > 4_000
    assert dirty == "False"
    return {MARK + text for text in texts}


@pytest.mark.parametrize("end", ENDS)
def test_nothing_of_an_earlier_program_is_in_memory(sandbox: Sandbox, end: str) -> None:
    """It reads every page that it inherited from the template, and pages fresh from the kernel."""
    secret = new_secret()
    for _ in range(2):
        sandbox.run(plant(secret, ENDS[end]))
    assert found(sandbox) == set()


def test_the_search_finds_what_the_program_holds_itself(sandbox: Sandbox) -> None:
    secret = new_secret()
    assert found(sandbox, f"SECRET = {secret!r}\n{PLANT}") == {secret}


def test_the_search_reaches_the_memory_of_the_parent() -> None:
    """The template holds preludes, which are the problem's and not a program's."""
    secret = new_secret()
    with Sandbox(LIMITS) as sandbox:
        sandbox.run(Program(setup_code=f"SECRET = {secret!r}", code=""))
        assert found(sandbox) == {secret}


# The page cache

FILES = """
import ctypes, mmap, os, resource, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
paths = sorted(os.path.join(folder, n) for n in os.listdir(folder) if n.endswith('.py'))
files = [os.open(p, os.O_RDONLY) for p in [p for p in paths if os.path.getsize(p) > 1 << 14][:48]]
"""
SEND = """
for file, bit in zip(files, BITS):
    libc.posix_fadvise(file, 0, 0, 4)
    if bit == '1':
        while os.read(file, 1 << 16): pass
"""
RECEIVE = """
buffer = ctypes.create_string_buffer(4096)
vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 4096)
preadv2 = 327 if os.uname().machine == 'x86_64' else 286
def faults():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_minflt, used.ru_majflt
for file in files:
    ready = libc.syscall(preadv2, file, vector, 1, 8192, 0, 8)
    pages = libc.mmap(None, 1 << 14, 1, 2, file, 0)
    known = libc.mincore(ctypes.c_void_p(pages), ctypes.c_size_t(1 << 14), buffer)
    resident = sum(page & 1 for page in buffer.raw[:4]) if known == 0 else -1
    before = faults()
    ctypes.string_at(pages + 8192, 1)
    after = faults()
    start = time.perf_counter_ns()
    os.pread(file, 4096, 12288)
    took = time.perf_counter_ns() - start
    print(ready, resident, *(b - a for a, b in zip(before, after)), took)
"""
WAYS = ("preadv2", "mincore", "minor faults", "major faults", "time of a read")


def auroc(values: list[int], bits: str) -> float:
    """The chance that a 1 has the larger value than a 0: .5 says nothing, 0 and 1 say all."""
    one, zero = ([v for v, b in zip(values, bits, strict=True) if b == bit] for bit in "10")
    return mean((a > b) + (a == b) / 2 for a in one for b in zero)


def learned(lines: list[str], bits: str) -> dict[str, float]:
    """By each of the `WAYS`, how well the values tell the bits."""
    rows = [list(map(int, line.split())) for line in lines]
    columns = map(list, zip(*rows, strict=True))
    return {way: auroc(column, bits) for way, column in zip(WAYS, columns, strict=True)}


def new_bits() -> str:
    bits = [*"01" * 24]
    secrets.SystemRandom().shuffle(bits)
    return "".join(bits)


def test_the_page_cache_of_the_library_tells_nothing(sandbox: Sandbox) -> None:
    """One program drops or reads files, a later one and a neighbour look which are in memory."""
    library = "import os\nfolder = os.path.dirname(os.__file__)\n" + FILES
    seen: list[dict[str, float]] = []
    with Sandbox(LIMITS, sandbox.kind) as neighbour:
        for receiver in (sandbox, neighbour) * 4:
            bits = new_bits()
            sent = sandbox.run(Program(setup_code="", code=f"{library}BITS = {bits!r}\n{SEND}"))
            got = receiver.run(Program(setup_code="", code=library + RECEIVE))
            assert {sent.outcome, got.outcome} == {Outcome.PASSED}, (sent, got)
            seen.append(learned(got.stdout.splitlines(), bits))
    for way in WAYS:
        # 8 times 48 bits: four standard errors are .12.
        assert abs(mean(one[way] for one in seen) - 0.5) < 0.15, way
    assert all(one[way] == 0.5 for one in seen for way in ("preadv2", "mincore", "major faults"))


def test_the_page_cache_of_the_host_tells_all(tmp_path: Path) -> None:
    """The same two programs outside, where the calls are there and the files are everybody's."""
    for path in Path(os.__file__).parent.glob("*.py"):
        shutil.copy(path, tmp_path)
    os.sync()  # What has not been written to the disk cannot be dropped.
    bits, folder = new_bits(), f"folder = {str(tmp_path)!r}\n"
    python = [sys.executable, "-S", "-c"]
    subprocess.run([*python, f"{folder}{FILES}BITS = {bits!r}\n{SEND}"], check=True)
    got = subprocess.run([*python, folder + FILES + RECEIVE], check=True, capture_output=True)
    seen = learned(got.stdout.decode().splitlines(), bits)
    if seen["mincore"] == 0.5:
        pytest.skip("the files lie in a file system that drops no pages")
    assert seen["mincore"] == 1.0
    assert seen["time of a read"] < 0.3
