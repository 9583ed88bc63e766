"""The fork server: one warm interpreter that starts a fresh child for each program.

Started by `forkserver.py` in an empty environment; imports the standard library only. It is two
processes: the template, which every program is forked from and which learns nothing of any, and the
monitor, which watches them (`template.py`, `monitor.py`). A program's text and results go straight
between the outside and the child.

Under "bubblewrap" and "unshare" the monitor is process 1 of its own user, PID, mount, network, IPC,
UTS and cgroup namespaces (made by bubblewrap, or by itself), and each program is process 1 of a
further PID namespace with its own scratch tmpfs: when that process ends, the kernel kills
everything it started. Under "process" there are limits, a session of its own and a temporary
directory, no more.
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

from . import monitor, namespaces, template
from .seccomp import Seccomp

SCRATCH = "/tmp"


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
    own_pids = os.open("self/ns/pid", os.O_RDONLY, dir_fd=proc) if isolated else -1
    ours, theirs = socket.socketpair()
    room = template.Room(monitor=theirs, seccomp=seccomp, pid_namespace=own_pids)
    pid = template.start(room, (channel, ours))
    theirs.close()
    channel.sendall(b"r")
    os.dup2(0, 2)  # From here on nobody reads our errors.
    monitor.Monitor(
        control=channel,
        template=ours,
        template_pid=pid,
        proc=proc,
        isolated=isolated,
        scratch=scratch,
    ).serve()
    ours.close()
    if not isolated:
        os.waitpid(pid, 0)
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
    namespaces.adopt_orphans()
    return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
