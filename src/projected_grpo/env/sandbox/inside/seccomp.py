"""The seccomp filter: the system calls that a program may make; all others do not exist for it.

What is not in the tables cannot be used to leave data for a later program or to tell a neighbour
something, whatever the kernel makes of it. That is why these are missing: everything that makes an
inode outside the program's own directory (pipe, socket, memfd_create, eventfd: the kernel numbers
their inodes with one counter, which fstat shows); locks, leases, timestamps and notifications on
files that others see; what tells of or moves the page cache (mincore, preadv2, fadvise, readahead,
sync); counters of the whole machine (sysinfo, statfs); every kind of System V and POSIX IPC, keys,
io_uring, userfaultfd, bpf, perf; names and priorities of tasks; exec, mounts, namespaces, ptrace.
"""

import ctypes
import os
import struct
from dataclasses import dataclass

from . import namespaces

# name: (number on x86_64, number on aarch64 or None where it has no such call).
_ALLOWED: dict[str, tuple[int, int | None]] = {
    # Files and descriptors.
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "lseek": (8, 62),
    "open": (2, None),
    "openat": (257, 56),
    "creat": (85, None),
    "close": (3, 57),
    "close_range": (436, 436),
    "stat": (4, None),
    "lstat": (6, None),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents": (78, None),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "umask": (95, 166),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    # The channel and asyncio's wake-up pair.
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "shutdown": (48, 210),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    # Memory.
    "brk": (12, 214),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "msync": (26, 227),
    # Threads and processes.
    "fork": (57, None),
    "vfork": (58, None),
    "set_tid_address": (218, 96),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getpgid": (121, 155),
    "getpgrp": (111, None),
    "setpgid": (109, 154),
    "getsid": (124, 156),
    "setsid": (112, 157),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    # Signals.
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    "pause": (34, None),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getitimer": (36, 102),
    # Time, identity, limits, chance.
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),
    "prlimit64": (302, 261),
    "getrusage": (98, 165),
    "uname": (63, 160),
    "getrandom": (318, 278),
}


@dataclass(frozen=True)
class Check:
    """A condition on the low 32 bits of one argument of a call."""

    argument: int
    """From 0."""
    values: tuple[int, ...]
    """The argument, under `mask`, must be one of them."""
    mask: int = 0xFFFFFFFF
    among: bool = True
    """False: it must be none of them."""


# CLONE_PIDFD, CLONE_PTRACE, CLONE_PARENT and the flags of namespaces.
_CLONE_FLAGS = 0x00001000 | 0x00002000 | 0x00008000 | 0x7E020000
_SHARED_ANONYMOUS, _HUGE_PAGES = 0x01 | 0x20, 0x40000
_SIGCHLD = 17
# NORMAL, DONTNEED, FREE, DONTFORK, DOFORK, HUGEPAGE, NOHUGEPAGE, WIPEONFORK, KEEPONFORK, and the
# two of guard pages: those that change nothing but the caller's own private pages.
_ADVICE = (0, 4, 8, 10, 11, 14, 15, 18, 19, 102, 103)
# Pipes and sockets that the program starts with. fstat, of them or of a duplicate, would show how
# far the kernel's inode counter is, which a program can move by having processes looked at.
_NOT_SHOWN = Check(0, (1, 3, 4, 5, 6, 7), among=False)
_CONDITIONAL: dict[str, tuple[int, int | None, tuple[Check, ...]]] = {
    "fstat": (5, 80, (_NOT_SHOWN,)),
    "newfstatat": (262, 79, (_NOT_SHOWN,)),
    "dup": (32, 23, (_NOT_SHOWN,)),
    "dup2": (33, None, (_NOT_SHOWN,)),
    "dup3": (292, 24, (_NOT_SHOWN,)),
    "clone": (56, 220, (Check(0, (0,), mask=_CLONE_FLAGS),)),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: no locks, leases, pipe sizes.
    "fcntl": (72, 25, (_NOT_SHOWN, Check(1, (0, 1, 2, 3, 4, 1030)))),
    # SOL_SOCKET; SO_TYPE, SO_ERROR, SO_PROTOCOL, SO_DOMAIN: no cookies, no peers.
    "getsockopt": (55, 209, (Check(1, (1,)), Check(2, (3, 4, 38, 39)))),
    # TCGETS (isatty), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
    "ioctl": (16, 29, (Check(1, (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)),)),
    "madvise": (28, 233, (Check(2, _ADVICE),)),
    # Shared anonymous pages outlive their mappings, and then no process is charged for them.
    "mmap": (
        *(9, 222),
        (
            Check(3, (_SHARED_ANONYMOUS,), mask=_SHARED_ANONYMOUS, among=False),
            Check(3, (0,), mask=_HUGE_PAGES),
        ),
    ),
    # Who ignores SIGCHLD is not charged for its children.
    "rt_sigaction": (13, 134, (Check(0, (_SIGCHLD,), among=False),)),
}

_ARCHITECTURES = {
    # machine: (column of the tables, AUDIT_ARCH)
    "x86_64": (0, 0xC000003E),
    "aarch64": (1, 0xC00000B7),
}
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_PR_SET_SECCOMP = 22


class Seccomp:
    """The filter for this machine; raises OSError where the numbers of its calls are not known."""

    def __init__(self) -> None:
        machine = os.uname().machine
        if machine not in _ARCHITECTURES:
            known = ", ".join(_ARCHITECTURES)
            raise OSError(f"no seccomp filter for {machine} machines (only {known})")
        code = _filter_program(*_ARCHITECTURES[machine])
        self._code = ctypes.create_string_buffer(code, len(code))
        self._program = struct.pack("@HP", len(code) // 8, ctypes.addressof(self._code))

    def install(self) -> None:
        """For this process and all it forks; needs no_new_privs."""
        program = ctypes.create_string_buffer(self._program, len(self._program))
        namespaces.prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(program))


_Step = tuple[int, int, int, int]
"""One instruction of the filter: operation, jump if true, jump if false, operand."""
_LOAD, _MASK, _JUMP, _EQUAL, _GIVE = 0x20, 0x54, 0x05, 0x15, 0x06


def _filter_program(column: int, arch: int) -> bytes:
    """Instructions of the filter. A call that is not in the tables gets ENOSYS: libc then tries an
    older one, whose arguments can be read (clone3, openat2, statx); a refused argument EPERM."""
    steps: list[_Step] = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 1, 0, arch),
        (_GIVE, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number of the call
    ]
    allowed = [n for numbers in _ALLOWED.values() if (n := numbers[column]) is not None]
    # Each jumps to the one answer behind them all. The filter is compiled anew for each program.
    steps += [(_EQUAL, len(allowed) - i, 0, number) for i, number in enumerate(allowed)]
    steps += [(_JUMP, 0, 0, 1), (_GIVE, 0, 0, _ALLOW)]
    for *numbers, checks in _CONDITIONAL.values():
        if (number := numbers[column]) is not None:
            block = [step for check in checks for step in _check_steps(check)]
            steps += [(_EQUAL, 0, len(block) + 1, number), *block, (_GIVE, 0, 0, _ALLOW)]
    steps.append((_GIVE, 0, 0, _ERRNO | _ENOSYS))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _check_steps(check: Check) -> list[_Step]:
    """Instructions that give EPERM unless `check` holds, and go on behind themselves if it does."""
    count = len(check.values)
    load: list[_Step] = [(_LOAD, 0, 0, 16 + 8 * check.argument), (_MASK, 0, 0, check.mask)]
    refuse: _Step = (_GIVE, 0, 0, _ERRNO | _EPERM)
    if check.among:
        return [*load, *((_EQUAL, count - i, 0, v) for i, v in enumerate(check.values)), refuse]
    last = count - 1
    found = ((_EQUAL, last - i, int(i == last), v) for i, v in enumerate(check.values))
    return [*load, *found, refuse]
