"""The ways to start a fork server: what stands before its command line, and what that makes.

Under "bubblewrap" `bwrap` makes the user, PID, mount, network, IPC, UTS and cgroup namespaces and a
read-only view of what an interpreter needs to start; the server is process 1 in it. Under "unshare"
the server makes the same namespaces itself. From there on both are one: the server narrows its view
and makes each program's own namespaces (`inside/server.py`). Under "process" there is neither.
"""

import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# The one library that LeetCode gives its Python solutions, and that canonical ones use. It is
# loaded in the fork server before the file system goes.
import sortedcontainers

from projected_grpo.env.errors import InputError

INSIDE = Path(__file__).parent / "inside"
LIBRARY = Path(sortedcontainers.__file__).parent


class SandboxError(InputError):
    """Programs cannot be isolated here in the way that was asked for; says what to do."""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """What is put around the command line of one server."""

    prefix: Sequence[str] = ()
    """What stands before the interpreter's command line."""
    spare: Sequence[socket.socket] = ()
    """Further descriptors of the control socket that it needs."""


def _bubblewrap(control: socket.socket) -> Wrapper:
    """The prefix for `bwrap`; raises SandboxError where it is not installed."""
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError("bubblewrap (bwrap) is not installed")
    # It says on the control socket which process waits for its map of user ids, and waits there.
    info, go = control.dup(), control.dup()
    system = ("/usr", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/nix/store")
    python = map(os.path.realpath, (sys.base_prefix, sys.base_exec_prefix, sys.executable))
    paths = dict.fromkeys((*system, *python, str(INSIDE), str(LIBRARY)))
    spaces = ("user", "pid", "net", "ipc", "uts", "cgroup")
    prefix = [
        program,
        *(f"--unshare-{space}" for space in spaces),
        # The server itself is process 1, as it is without bubblewrap. It needs capabilities over
        # these namespaces to make each program's own, and gives none of them to a program.
        *("--as-pid-1", "--new-session", "--cap-add", "ALL"),
        # Not --die-with-parent, which goes by the thread that starts it: a server that a worker's
        # thread had replaced would end with that thread. It ends when the control socket does.
        *("--info-fd", str(info.fileno()), "--userns-block-fd", str(go.fileno())),
        *(part for path in paths for part in ("--ro-bind-try", path, path)),
        *("--proc", "/proc", "--dev-bind", "/dev/null", "/dev/null", "--dir", "/tmp"),
        *("--chdir", "/", "--"),
    ]
    return Wrapper(prefix, (info, go))


def _no_wrapper(control: socket.socket) -> Wrapper:
    """Nothing in front: the server makes its namespaces itself, or does without."""
    return Wrapper()


WRAPPERS: dict[str, Callable[[socket.socket], Wrapper]] = {
    "bubblewrap": _bubblewrap,
    "unshare": _no_wrapper,
    "process": _no_wrapper,
}
