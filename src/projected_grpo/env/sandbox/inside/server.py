"""The fork server: one warm interpreter that starts a fresh child for each program.

Started by `forkserver.py` in an empty environment; imports the standard library only. It never
reads what a program says and never sees a program's text or results (those go straight between the
outside and the child), nor what one did with its time: for each program it forks a monitor, and
that forks the program, watches it and reports how it ended. So the memory that every program
inherits is the same, and holds nothing of earlier ones, not even an exit status.

Under "bubblewrap" and "unshare" it is process 1 of its own user, PID, mount, network, IPC, UTS and
cgroup namespaces (made by bubblewrap, or by itself), and each program is process 1 of a further PID
namespace with its own scratch tmpfs: when that process ends, the kernel kills everything it
started. Under "process" there are limits, a session of its own and a temporary directory, no more.
"""

# ruff: noqa: F401
# Loaded before the first fork: the usual prelude's modules, and others that programs like to use.
# Compiled extensions that need further shared libraries (ssl, sqlite3) are not to be had inside.
import array
import bisect
import cmath
import collections
import contextlib
import copy
import dataclasses
import datetime
import decimal
import enum
import fcntl
import fractions
import functools
import gc
import heapq
import itertools
import json
import math
import operator
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import string
import sys
import tempfile
import threading
import time
import traceback
import typing
import warnings
from types import CodeType
from typing import Any

from . import monitor, namespaces, wire
from .seccomp import Seccomp

SCRATCH = "/tmp"
STACK_BYTES = 8 << 20
"""Stack of every program, and of each of its threads."""
_PRELUDES = 64


def main(kind: str, ends: list[int]) -> None:
    """Serve an inherited socket, of which `ends` are the descriptors, until it is closed."""
    warnings.simplefilter("ignore")
    os.environ.clear()
    control, *spare = ends
    for descriptor in spare:
        with contextlib.suppress(OSError):  # bubblewrap has closed one of its two.
            os.close(descriptor)
    # Its number is high where the outside has many files open; programs close the low ones only.
    channel = socket.socket(fileno=os.dup(control))
    os.close(control)
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS):
        most = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most, most))
    isolated = kind != "process"
    if kind == "bubblewrap":
        # It has made them all. But the network has a loopback interface that is up, on which one
        # program could leave ports in use for the next to find; in a fresh one nothing is.
        namespaces.unshare(namespaces.CLONE_NEWNET)
    elif isolated:
        _make_namespaces(channel)
    proc = _settle() if isolated else _enter_process_mode()
    seccomp = Seccomp() if isolated else None
    scratch = SCRATCH if isolated else tempfile.mkdtemp(prefix="grade-")
    room = monitor.Room(control=channel, proc=proc, seccomp=seccomp, scratch=scratch)
    channel.sendall(b"r")
    # Programs are forked from a thread, whose stack has our size. That of the first thread goes by
    # the limit of whoever started us, and so would the depth at which a recursion crashes.
    threading.stack_size(STACK_BYTES)
    serving = threading.Thread(target=_serve, args=(room,), name="MainThread")
    serving.start()
    serving.join()
    if not isolated:
        shutil.rmtree(scratch, ignore_errors=True)


def _make_namespaces(control: socket.socket) -> None:
    """Return as process 1 of fresh namespaces."""
    namespaces.unshare(namespaces.CLONE_ALL)
    control.sendall(b"m")
    if control.recv(1) != b"g":  # "Go": the outside has written the maps of user ids.
        os._exit(1)
    child = os.fork()
    if child:
        # This process stays outside the PID namespace and only waits, so that the outside sees
        # the end of process 1 and can end it by ending this one.
        control.close()
        _, status = os.waitpid(child, 0)
        os._exit(0 if status == 0 else 1)
    os.setsid()


def _settle() -> int:
    """As process 1: give up what no program may find; returns a descriptor of /proc."""
    namespaces.die_with_parent()
    namespaces.warm_mapped_files()
    proc = namespaces.build_view()
    namespaces.drop_bounding_set()
    # The kernel's out-of-memory killer should take one of ours before anything else.
    score = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=proc)
    os.write(score, b"500")
    os.close(score)
    return proc


def _enter_process_mode() -> int:
    """Prepare to run programs as plain processes; returns a descriptor of /proc, -1 without."""
    if sys.platform != "linux":
        return -1
    return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)


def _serve(room: monitor.Room) -> None:
    """Run programs until the outside closes the control socket."""
    # From here on nobody reads our errors. And no descriptor shows more than the view does.
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)
    preludes: dict[str, CodeType] = {}
    # Not a matter of safety: a program should simply not stumble over our modules.
    for name in [n for n in sys.modules if n.startswith(("inside", "ctypes", "_ctypes"))]:
        del sys.modules[name]
    sys.modules["__main__"].__dict__.clear()
    gc.collect()
    gc.freeze()
    gc.disable()
    while True:
        request, descriptors = _receive(room.control)
        if request is None:
            return
        if "prelude" in request and len(preludes) < _PRELUDES:
            text = request["prelude"]
            with contextlib.suppress(SyntaxError, ValueError):  # It is the program's to say so.
                preludes[text] = compile(text, "<setup>", "exec", dont_inherit=True)
        pid = os.fork()
        if pid == 0:
            monitor.run(room, preludes, request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        if status:  # It is killed only by chance, and has not reported: the outside starts anew.
            os._exit(1)


def _receive(control: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next request and its descriptors; None when there will be no more."""
    head, descriptors, _, _ = socket.recv_fds(control, wire.HEAD_BYTES, 4)
    if len(head) < wire.HEAD_BYTES:
        return None, descriptors
    payload = control.recv(wire.frame_length(head), socket.MSG_WAITALL)
    return wire.parse(payload), descriptors
