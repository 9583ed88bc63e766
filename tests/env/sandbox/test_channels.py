"""No program can leave a byte for a later one or tell a neighbour something, by any way we know.

The programs try the calls themselves, through libc, so that nothing that Python does or does not
offer decides.
"""

import errno
import os
from collections.abc import Iterator

import pytest
from conftest import ISOLATING

from projected_grpo.env.sandbox.inside import watch
from projected_grpo.env.sandbox.programs import Limits, Program
from projected_grpo.env.sandbox.sandbox import Outcome, Sandbox

LIMITS = Limits(cpu_s=2.0, wall_s=5.0, memory_mb=256, output_kb=64, file_mb=2)


@pytest.fixture(scope="module", params=ISOLATING)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(LIMITS, request.param) as sandbox:
        yield sandbox


def printed(sandbox: Sandbox, code: str) -> list[str]:
    seen = sandbox.run(Program(setup_code="", code=code))
    assert seen.outcome is Outcome.PASSED, seen
    return seen.stdout.split()


TRY = """
import ctypes, os, mmap
libc = ctypes.CDLL(None, use_errno=True)
def attempt(function, *arguments):
    ctypes.set_errno(0)
    print(ctypes.get_errno() if getattr(libc, function)(*arguments) == -1 else 'done')
def raw(intel, arm, *arguments):
    attempt('syscall', intel if os.uname().machine == 'x86_64' else arm, *arguments)
library = os.open(os.__file__, os.O_RDONLY)
null = os.open('/dev/null', os.O_RDWR)
pages = mmap.mmap(library, 4096, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
here = ctypes.c_void_p(ctypes.addressof(ctypes.create_string_buffer(8192)) // 4096 * 4096 + 4096)
buffer = ctypes.create_string_buffer(4096)
"""
NONE, REFUSED = errno.ENOSYS, errno.EPERM
CALLS = {
    # What pages of a file are in memory, and sending them away.
    "mincore": ("attempt('mincore', here, 4096, buffer)", NONE),
    "fadvise": ("raw(221, 223, library, 0, 0, 4)", NONE),
    "readahead": ("attempt('readahead', library, 0, 4096)", NONE),
    "preadv2": ("raw(327, 286, library, buffer, 1, 0, 0, 8)", NONE),
    "cachestat": ("raw(451, 451, library, buffer, buffer, 0)", NONE),
    "pageout": ("attempt('madvise', here, 4096, 21)", REFUSED),
    "cold": ("attempt('madvise', here, 4096, 20)", REFUSED),
    "willneed": ("attempt('madvise', here, 4096, 3)", REFUSED),
    "mergeable": ("attempt('madvise', here, 4096, 12)", REFUSED),
    "process_madvise": ("raw(440, 440, 0, buffer, 1, 21, 0)", NONE),
    "sync": ("attempt('syncfs', library)", NONE),
    "mlock": ("attempt('mlock', here, 4096)", NONE),
    # Marks on files that all see.
    "flock": ("attempt('flock', library, 1)", NONE),
    "flock_null": ("attempt('flock', null, 2)", NONE),
    "record_lock": ("attempt('fcntl', null, 6, buffer)", REFUSED),
    "open_file_lock": ("attempt('fcntl', null, 37, buffer)", REFUSED),
    "lease": ("attempt('fcntl', library, 1024, 0)", REFUSED),
    "notify": ("attempt('fcntl', library, 1026, 1)", REFUSED),
    "write_hint": ("attempt('fcntl', null, 1036, buffer)", REFUSED),
    "times": ("attempt('futimens', null, None)", NONE),
    "times_of_stdin": ("attempt('futimens', 0, None)", NONE),
    "attributes": ("attempt('fsetxattr', null, b'user.x', b'x', 1, 0)", NONE),
    "inotify": ("attempt('inotify_init1', 0)", NONE),
    "fanotify": ("attempt('fanotify_init', 0, 0)", NONE),
    # New inodes, numbered by one counter of the kernel; and memory files.
    "pipe": ("attempt('pipe', buffer)", NONE),
    "pipe2": ("attempt('pipe2', buffer, 0)", NONE),
    "pipe_size": ("attempt('fcntl', 1, 1031, 4096)", REFUSED),
    "mkfifo": ("attempt('mkfifo', b'x', 0o600)", NONE),
    "eventfd": ("attempt('eventfd', 0, 0)", NONE),
    "timerfd": ("attempt('timerfd_create', 0, 0)", NONE),
    "signalfd": ("attempt('signalfd', -1, buffer, 0)", NONE),
    "memfd": ("attempt('memfd_create', b'x', 0)", NONE),
    "socketpair": ("attempt('socketpair', 1, 1, 0, buffer)", NONE),
    # Counters of the whole machine.
    "sysinfo": ("attempt('sysinfo', buffer)", NONE),
    "statfs": ("attempt('statfs', b'/', buffer)", NONE),
    "statx": ("raw(332, 291, -100, b'/', 0, 0xfff, buffer)", NONE),
    "socket_cookie": ("attempt('getsockopt', 3, 1, 57, buffer, buffer)", REFUSED),
    "peer": ("attempt('getsockopt', 3, 1, 17, buffer, buffer)", REFUSED),
    "send_descriptors": ("attempt('sendmsg', 3, buffer, 0)", NONE),
    # IPC and keys, which belong to the namespace or the user.
    "shmget": ("attempt('shmget', 7, 4096, 0o1777)", NONE),
    "semget": ("attempt('semget', 7, 1, 0o1777)", NONE),
    "msgget": ("attempt('msgget', 7, 0o1777)", NONE),
    "mq_open": ("raw(240, 180, b'x', 66, 0o600, 0)", NONE),
    "add_key": ("raw(248, 217, b'user', b'x', b'x', 1, -3)", NONE),
    "keyctl": ("raw(250, 219, 0, -3, 0)", NONE),
    # The memory of other processes.
    "read_memory": ("raw(310, 270, os.getppid(), buffer, 1, buffer, 1, 0)", NONE),
    "ptrace": ("attempt('ptrace', 16, 1, 0, 0)", NONE),
    # Names, priorities and places of tasks; interfaces with a life of their own.
    "task_name": ("attempt('prctl', 15, b'tell', 0, 0, 0)", NONE),
    "merge_memory": ("attempt('prctl', 67, 1, 0, 0, 0)", NONE),
    "nice": ("attempt('setpriority', 0, 0, 5)", NONE),
    "affinity": ("attempt('sched_setaffinity', 0, 8, b'\\1' + b'\\0' * 7)", NONE),
    "policy": ("attempt('sched_setscheduler', 0, 5, buffer)", NONE),
    "io_uring": ("raw(425, 425, 1, buffer)", NONE),
    "userfaultfd": ("raw(323, 282, 1)", NONE),
    "perf": ("raw(298, 241, buffer, 0, -1, -1, 0)", NONE),
    "bpf": ("raw(321, 280, 0, buffer, 64)", NONE),
    "pidfd": ("raw(434, 434, 1, 0)", NONE),
    "membarrier": ("raw(324, 283, 1, 0)", NONE),
    "splice": ("attempt('vmsplice', 1, buffer, 1, 0)", NONE),
    "posix_timer": ("attempt('timer_create', 0, None, buffer)", NONE),
}


@pytest.fixture(scope="module")
def attempts(sandbox: Sandbox) -> dict[str, str]:
    """What each call of `CALLS` came to."""
    lines = printed(sandbox, TRY + "\n".join(code for code, _ in CALLS.values()))
    return dict(zip(CALLS, lines, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_could_carry_data_is_refused(name: str, attempts: dict[str, str]) -> None:
    assert attempts[name] == str(CALLS[name][1])


def test_no_socket_of_any_family_can_be_made(sandbox: Sandbox) -> None:
    code = """
import socket
made = []
for family in range(64):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            made.append(socket.socket(family, kind))
        except OSError:
            pass
print(len(made))
"""
    assert printed(sandbox, code) == ["0"]


def test_no_inode_number_of_the_kernel_is_shown(sandbox: Sandbox) -> None:
    """The counter that they come from is one for the whole machine, and grows by what others do."""
    code = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
ends = [end.fileno() for end in socket.socketpair()]
for number in (1, 3, 4, 5, 6, 7, *ends):
    for look in (os.fstat, os.dup, lambda n: os.dup2(n, 30), lambda n: os.stat('', dir_fd=n),
                 lambda n: os.fstat(libc.fcntl(n, 0, 9))):
        try:
            print('shown', number, look(number))
        except OSError:
            pass
print(os.fstat(0).st_size, os.fstat(2).st_size, os.fstat(os.dup(0)).st_size)
"""
    assert printed(sandbox, code) == ["0", "0", "0"]


def test_loops_of_asyncio_still_wake_up(sandbox: Sandbox) -> None:
    code = """
import asyncio
async def work():
    return await asyncio.to_thread(sum, [1, 2])
print([asyncio.run(work()) for _ in range(20)])
"""
    assert "".join(printed(sandbox, code)) == str([3] * 20).replace(" ", "")


def test_the_process_that_all_programs_inherit_from_watches_none_of_them(sandbox: Sandbox) -> None:
    """What a program uses and how it ends reach the monitor only, which is nobody's ancestor."""
    job = Program(
        setup_code="",
        code="class Solution:\n    def f(self, x): return x\n",
        entry_point="f",
        calls=({"x": 0},),
    )
    families: list[list[int]] = []

    def look(number: int, value: object) -> bool:
        assert sandbox._server is not None
        families.append(sorted(watch.descendants(proc, sandbox._server.pid)))
        return True

    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(2):
        assert sandbox.run(job, look).outcome is Outcome.PASSED
    os.close(proc)
    # The monitor is the first process inside, the template its child, the program the template's.
    (*inherited, program), (*again, next_program) = families
    assert inherited == again
    assert program != next_program


def test_the_view_is_the_same_for_every_program_and_server(sandbox: Sandbox) -> None:
    """Times, sizes and numbers of what all see; a program's own reading changes none of them."""
    code = """
import hashlib, os
digest = hashlib.sha256()
for root, folders, files in os.walk('/'):
    folders.sort()
    if root == '/tmp': continue
    for name in sorted(files):
        seen = os.stat(os.path.join(root, name))
        if READ: open(os.path.join(root, name), 'rb').read(1)
        times = (seen.st_atime_ns, seen.st_mtime_ns, seen.st_ctime_ns)
        digest.update(repr((name, seen.st_ino, seen.st_size, seen.st_nlink, times)).encode())
print(digest.hexdigest())
"""
    seen = {printed(sandbox, f"READ = {read}\n{code}")[0] for read in (0, 1, 0)}
    assert len(seen) == 1


def test_what_one_server_reads_is_its_own_copy(sandbox: Sandbox) -> None:
    code = "import os; print(os.stat(os.__file__).st_dev)"
    with Sandbox(LIMITS, sandbox.kind) as neighbour:
        theirs = printed(neighbour, code)
    ours = printed(sandbox, code)
    assert ours != theirs
    assert int(ours[0]) != os.stat(os.__file__).st_dev
