"""The system calls of the sandbox: namespaces, the file view, privileges, the seccomp filter.

Linux only, through ctypes, because `os.unshare` begins with Python 3.12. Runs in the fork server
before any completion does, and in each child up to the moment its completion starts.
"""

import ctypes
import os
import struct
import sys
from glob import glob

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_ALL = (
    CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET
)

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
# Flags of a mount that an unprivileged remount must repeat: they are locked to it.
_LOCKED = {2: _MS_NOSUID, 4: _MS_NODEV, 8: _MS_NOEXEC, 1024: 1024, 2048: 2048, 4096: 1 << 21}

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 24, 36, 38

_libc = ctypes.CDLL(None, use_errno=True)
# Variadic: without argument types ctypes would pass 32-bit numbers in the unused places.
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Move this process (for a PID namespace: its next children) into fresh namespaces."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, flags: int) -> None:
    """Join the namespace that `descriptor` refers to."""
    _check(_libc.setns(descriptor, flags), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode()
    )
    _check(result, f"mount {kind or source} on {target}")


def unmount(target: str) -> None:
    """Take a mount out of sight now; it is freed when nobody uses it any more."""
    _check(_libc.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def mount_scratch(target: str, owner: int, size_mb: int, inodes: int) -> None:
    """A fresh private tmpfs of at most `size_mb` MiB and `inodes` files, owned by `owner`."""
    options = f"size={size_mb}m,nr_inodes={inodes},mode=0700,uid={owner},gid={owner}"
    mount("scratch", target, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)


def prctl(option: int, argument: int = 0, second: int = 0) -> None:
    """prctl(2)."""
    _check(_libc.prctl(option, argument, second, 0, 0), f"prctl {option}")


def die_with_parent() -> None:
    """Be killed when the parent dies."""
    prctl(_PR_SET_PDEATHSIG, 9)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent has died."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def build_view(old_root: str = "/old") -> int:
    """Replace the file system by the little that Python needs; return a descriptor of /proc.

    What is left: the standard library (read-only, site-packages and the like hidden), /dev/null and
    an empty /tmp to mount each program's scratch directory on. /proc is not in the view: the
    descriptor is the fork server's alone. Call as process 1 of a fresh PID namespace, with a
    private mount namespace.
    """
    mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    library = os.path.dirname(os.path.realpath(os.__file__))
    extensions = {os.path.realpath(p) for p in sys.path if p.endswith("lib-dynload")}
    base = "/tmp"
    mount("root", base, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    os.mkdir(base + old_root)
    _check(_libc.pivot_root(base.encode(), (base + old_root).encode()), "pivot_root")
    os.chdir("/")
    for directory in ("/tmp", "/dev", "/proc", "/empty"):
        os.mkdir(directory)
    for path in (library, *sorted(extensions)):
        if not os.path.isdir(path):
            _bind(old_root + path, path)
    for name in ("site-packages", "dist-packages", "test", "ensurepip", "idlelib", "config-*"):
        for path in glob(f"{library}/{name}"):
            _bind("/empty", path)
    os.close(os.open("/dev/null", os.O_CREAT | os.O_WRONLY, 0o666))
    mount(f"{old_root}/dev/null", "/dev/null", None, _MS_BIND)
    # Before the old root goes: the kernel wants to see one unobstructed /proc first.
    mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    unmount("/proc")
    unmount(old_root)
    os.rmdir(old_root)
    os.rmdir("/proc")
    mount("none", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    return proc


def _bind(source: str, target: str) -> None:
    """Show `source` at `target`, read-only."""
    os.makedirs(target, exist_ok=True)
    mount(source, target, None, _MS_BIND | _MS_REC)
    flags = os.statvfs(target).f_flag
    kept = sum(flag for bit, flag in _LOCKED.items() if flags & bit)
    read_only = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV
    mount("none", target, None, read_only | kept)


def drop_bounding_set() -> None:
    """Give up every capability that a later execve could gain."""
    for capability in range(64):
        try:
            prctl(_PR_CAPBSET_DROP, capability)
        except OSError:  # EINVAL: past the last one this kernel knows
            return


def drop_privileges(user: int) -> None:
    """Become `user` with no capability, for good (no_new_privs)."""
    if os.getuid() != user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header = struct.pack("=Ii", 0x20080522, 0)
    _check(_libc.capset(header, bytes(24)), "capset")
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_SET_DUMPABLE, 0)


# name: (x86_64, aarch64). Numbers from 424 on are the same everywhere.
_DENIED = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmget": (29, 194),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_ARCHITECTURES = {
    # machine: (column of _DENIED, AUDIT_ARCH, clone)
    "x86_64": (0, 0xC000003E, 56),
    "aarch64": (1, 0xC00000B7, 220),
}
_CLONE3 = 435
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


class Seccomp:
    """A filter that refuses the calls a solution never needs and a kernel exploit often does.

    Besides that it keeps System V memory, POSIX queues, keyrings and anonymous files out of reach:
    those would survive the program or escape the limits on memory and disk. Scheduling is refused
    because a program that starves itself on purpose would look like an overloaded machine.
    """

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
        prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(program))


def _filter_program(column: int, arch: int, clone: int) -> bytes:
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    denied = [numbers[column] for numbers in _DENIED.values()]
    end = len(denied) + 1  # instructions from the first denied call to `refuse`
    steps: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, arch),
        (give, 0, 0, _KILL),
        (load, 0, 0, 0),  # the number of the call
        (at_least, end + 5, 0, 0x40000000),  # the x32 numbers are a way round the list
        (equal, 0, 1, _CLONE3),
        (give, 0, 0, _ERRNO | 38),  # ENOSYS: libc then uses clone, whose flags can be read
        (equal, 0, 2, clone),
        (load, 0, 0, 16),
        (any_bit, end, end - 1, 0x7E020000),  # clone flags that make namespaces
        *((equal, end - 1 - i, 0, number) for i, number in enumerate(denied)),
        (give, 0, 0, _ALLOW),
        (give, 0, 0, _ERRNO | 1),  # refuse: EPERM
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
