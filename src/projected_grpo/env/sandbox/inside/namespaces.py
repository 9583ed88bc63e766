"""The system calls of the sandbox: namespaces, the file view, privileges.

Linux only, through ctypes, because `os.unshare` begins with Python 3.12. Runs in the fork server
before any completion does, and in each child up to the moment its completion starts.
"""

import ctypes
import os
import struct
import sys

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

_LIBRARY_MB = 256
_NOT_COPIED = ("site-packages", "dist-packages", "test", "tests", "ensurepip", "idlelib")

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 24, 36, 38

_libc = ctypes.CDLL(None, use_errno=True)
if sys.platform == "linux":
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

    What is left: a copy in memory of the standard library, /dev/null and an empty /tmp to mount
    each program's scratch directory on, all read-only. /proc is not in the view: the descriptor is
    the fork server's alone. Call as process 1 of a fresh PID namespace, with a private mount
    namespace.
    """
    mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    library = os.path.dirname(os.path.realpath(os.__file__))
    extensions = {os.path.realpath(p) for p in sys.path if p.endswith("lib-dynload")}
    base = "/tmp"
    mount("root", base, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={_LIBRARY_MB}m,mode=0755")
    for path in (library, *sorted(extensions)):
        if not os.path.isdir(base + path):
            _copy_library(path, base + path)
    os.mkdir(base + old_root)
    _check(_libc.pivot_root(base.encode(), (base + old_root).encode()), "pivot_root")
    os.chdir("/")
    for directory in ("/tmp", "/dev", "/proc"):
        os.makedirs(directory, exist_ok=True)
    os.close(os.open("/dev/null", os.O_CREAT | os.O_WRONLY, 0o666))
    _bind_read_only(f"{old_root}/dev/null", "/dev/null")
    # Before the old root goes: the kernel wants to see one unobstructed /proc first.
    mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    unmount("/proc")
    unmount(old_root)
    os.rmdir(old_root)
    os.rmdir("/proc")
    mount("none", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    return proc


def _copy_library(source: str, target: str) -> None:
    """Copy modules, their compiled forms and extensions, with the times by which both are matched.

    A copy, because the pages of the host's files are in one cache for all: which of them are there
    would tell a program what an earlier one, or a neighbour, has read.
    """
    os.makedirs(target)
    endings = (".py", f".{sys.implementation.cache_tag}.pyc", ".so")
    for entry in os.scandir(source):
        path = f"{target}/{entry.name}"
        if entry.is_dir():
            if entry.name not in _NOT_COPIED and not entry.name.startswith("config-"):
                _copy_library(entry.path, path)
        elif entry.name.endswith(endings) and entry.is_file():
            with open(entry.path, "rb", buffering=0) as old, open(path, "xb", buffering=0) as new:
                copied = 0
                while sent := os.sendfile(new.fileno(), old.fileno(), copied, 1 << 30):
                    copied += sent
            times = entry.stat()
            os.utime(path, ns=(times.st_mtime_ns, times.st_mtime_ns))


def warm_mapped_files() -> None:
    """Touch every page of the files that this process has mapped, such as the interpreter itself.

    Which of them are in memory would tell of earlier programs otherwise. Call while /proc is there.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line}
    for path in filter(os.path.isfile, paths):
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def _bind_read_only(source: str, target: str) -> None:
    """Show `source` at `target`; nobody can change its times there, nor lock it for writing."""
    mount(source, target, None, _MS_BIND | _MS_REC)
    flags = os.statvfs(target).f_flag
    kept = sum(flag for bit, flag in _LOCKED.items() if flags & bit)
    mount("none", target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | kept)


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
