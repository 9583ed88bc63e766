"""Programs that try to be graded correct without solving anything, to escape, or to do damage.

Each is a whole program, without its fence. METHOD is replaced by the problem's method, MARK by a
word that no file or process on this machine has in its name. The stubs read their arguments, since
the grader does not even run a method that ignores them.
"""

# ruff: noqa: E501
# A program on one line is easier to read than one wrapped at our width.

STUB = """
class Solution:
    def METHOD(self, *args, **kwargs):
        return len(kwargs)
"""


def _before(code: str) -> str:
    """`code` at the program's start, then the stub."""
    return f"{code}\n{STUB}"


def _inside(body: str) -> str:
    """The method's body (one indentation level less than in the class)."""
    lines = "\n".join(f"        {line}" for line in body.strip().splitlines())
    return f"import os, sys\nclass Solution:\n    def METHOD(self, *args, **kwargs):\n{lines}\n"


# An answer in our own wire format, for whatever nonce can be found on the stack.
_FORGE = """
import json, os, struct, sys
def find():
    frame, found = sys._getframe(), []
    while frame:
        found += [v for k, v in frame.f_locals.items() if isinstance(v, dict) and isinstance(v.get("id"), str)]
        frame = frame.f_back
    return found
def forge(fd, answer):
    data = json.dumps(answer).encode()
    try:
        os.write(fd, struct.pack("!I", len(data)) + data)
    except OSError:
        pass
"""

FORGED = {
    "verdict_on_stdout": _before(
        'import sys\nfor _ in range(9): print(\'{"passed": true, "pass_rate": 1.0}\')\n'
        "sys.__stdout__.flush()\nimport os; os._exit(0)"
    ),
    "zero_byte_on_every_descriptor": _before(
        "import os\nfor fd in range(3, 256):\n    try: os.write(fd, b'\\0')\n    except OSError: pass"
    ),
    "zero_byte_then_exit": _before(
        "import os\nfor fd in range(0, 256):\n    try: os.write(fd, b'\\0' * 64)\n"
        "    except OSError: pass\nos._exit(0)"
    ),
    "true_json_on_every_descriptor": _before(
        "import os\nfor fd in range(0, 64):\n"
        '    try: os.write(fd, b\'{"passed": true, "outcome": "passed"}\\n\')\n'
        "    except OSError: pass"
    ),
    "answers_ahead_of_the_questions": _before(
        _FORGE + "for n in range(200): forge(3, {'id': '0' * 16, 'value': n})"
    ),
    "replay_of_the_load_nonce": _before(
        _FORGE + "for r in find():\n    for n in range(50): forge(3, {'id': r['id'], 'value': 0})"
    ),
    "forged_value_with_the_nonce": _before(_FORGE)
    + "    def other(self): pass\n"
    + "def method(self, **kwargs):\n    for r in find(): forge(3, {'id': r['id'], 'value': 0})\n"
    + "    os._exit(0)\nSolution.METHOD = method\n",
    "forged_tag_with_the_nonce": _before(_FORGE)
    + "def method(self, **kwargs):\n"
    + "    for r in find(): forge(3, {'id': r['id'], 'value': {'d': [[[], 1]]}})\n"
    + "    os._exit(0)\nSolution.METHOD = method\n",
    "deep_json": _before(_FORGE)
    + "def method(self, **kwargs):\n    text = b'[' * 200000\n"
    + "    os.write(3, struct.pack('!I', len(text)) + text)\n    os._exit(0)\n"
    + "Solution.METHOD = method\n",
    "huge_frame_length": _inside(
        "os.write(3, b'\\xff\\xff\\xff\\xff' + b'x' * 100)\nreturn len(kwargs)"
    ),
    "half_a_frame": _inside("os.write(3, b'\\0\\0')\nos._exit(len(kwargs))"),
    "closed_channel": _inside("os.close(3)\nreturn len(kwargs)"),
    "closed_everything": _inside("os.closerange(0, 1024)\nreturn len(kwargs)"),
    "channel_handed_to_a_child": _inside(
        "if os.fork() == 0:\n    while True: os.write(3, b'\\0' * 4096)\nos._exit(len(kwargs))"
    ),
    "host_side_shutdown": _inside(
        "import socket\nsocket.socket(fileno=3).shutdown(socket.SHUT_RDWR)\nreturn len(kwargs)"
    ),
    "answers_with_descriptors": _inside(
        "import socket\ns = socket.socket(fileno=3)\n"
        "socket.send_fds(s, [b'\\0\\0\\0\\2{}'], [0, 1, 2])\nreturn len(kwargs)"
    ),
    "int_of_10000_digits": _before(_FORGE)
    + "def method(self, **kwargs):\n    text = b'9' * 10000\n"
    + "    os.write(3, struct.pack('!I', len(text)) + text)\n    os._exit(0)\n"
    + "Solution.METHOD = method\n",
}

REBOUND = {
    "exec_rebound": _before("exec = eval = compile = lambda *a, **k: None"),
    "builtins_exec_patched": _before(
        "import builtins\nbuiltins.exec = builtins.compile = builtins.eval = lambda *a, **k: None"
    ),
    "builtins_compare_patched": _before(
        "import builtins\nbuiltins.type = lambda *a: int\nbuiltins.isinstance = lambda *a: True\n"
        "builtins.all = builtins.any = lambda *a: True\nbuiltins.len = lambda *a: 1"
    ),
    "json_patched": _before(
        "import json\njson.dumps = lambda *a, **k: '{\"passed\": true}'\njson.loads = lambda *a: 1"
    ),
    "os_patched": _before("import os\nos.read = lambda *a: b''\nos.write = lambda *a: 0"),
    "harness_frames_patched": _before(
        "import sys\nf = sys._getframe()\nwhile f:\n    for n in list(f.f_globals):\n"
        "        if n in ('_serve', '_call', 'wire', '_describe'): f.f_globals[n] = None\n"
        "    f = f.f_back"
    ),
    "encoder_patched": _before(
        "import sys\nf = sys._getframe()\nwhile f:\n    w = f.f_globals.get('wire')\n"
        "    if w: w.encode = lambda *a: True\n    f = f.f_back"
    ),
    "import_hook": _before(
        "import sys, builtins\nbuiltins.__import__ = lambda *a, **k: sys\nsys.modules.clear()"
    ),
    "trace_function": _before(
        "import sys\ndef t(frame, event, arg):\n    for k in list(frame.f_locals):\n"
        "        frame.f_locals[k] = True\n    return t\nsys.settrace(t); sys.setprofile(t)"
    ),
    "frozen_recursion_limit": _before("import sys\nsys.setrecursionlimit(60)"),
    "assertion_error_swallowed": _before(
        "import builtins\nbuiltins.AssertionError = type('E', (Exception,), {})"
    ),
    "excepthook_and_exitcode": _before(
        "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\nraise SystemExit(0)"
    ),
}

SPOOFED = {
    "always_equal": _inside(
        "class E:\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\n"
        "return E() if kwargs else None"
    ),
    "int_subclass": _inside(
        "class E(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\n"
        "return E(len(kwargs))"
    ),
    "list_subclass": _inside(
        "class E(list):\n    def __eq__(self, o): return True\n    def __len__(self): return 1\n"
        "return E(kwargs)"
    ),
    "list_of_always_equal": _inside(
        "class E(int):\n    def __eq__(self, o): return True\nreturn [E() for _ in kwargs]"
    ),
    "str_subclass": _inside(
        "class E(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\n"
        "return E(kwargs)"
    ),
    "class_property": _inside(
        "class E:\n    __class__ = property(lambda self: int)\n"
        "    def __eq__(self, o): return True\n    def __index__(self): return 1\n"
        "return E() if kwargs else 0"
    ),
    "metaclass_lies": _inside(
        "class M(type):\n    def __eq__(c, o): return True\n    def __hash__(c): return hash(int)\n"
        "    def __instancecheck__(c, o): return True\n    def __repr__(c): raise SystemExit\n"
        "class E(metaclass=M): pass\nreturn E() if kwargs else 0"
    ),
    "pickling_trick": _inside(
        "class E:\n    def __reduce__(self): return (eval, ('1',))\n"
        "    def __getstate__(self): return kwargs\nreturn E()"
    ),
    "json_trick": _inside(
        "class E(dict):\n    def items(self): return [('t', [1])]\n    def keys(self): return ['t']\n"
        "return E(kwargs)"
    ),
    "wire_tag_as_a_dict": _inside("return {'t': list(kwargs), 'i': '0x0'}"),
    "generator": _inside("return (x for x in kwargs)"),
    "nan": _inside("return float('nan') if kwargs else 0.0"),
    "not_implemented": _inside("return NotImplemented if kwargs else ..."),
    "any_of_mock": _inside("from unittest import mock\nreturn mock.ANY if kwargs else 0"),
    "exception_with_hostile_text": _inside(
        "class E(Exception):\n    def __str__(self): os._exit(0)\nraise E(kwargs)"
    ),
    "answer_object_mutates_arguments": _inside(
        "for v in kwargs.values():\n    if isinstance(v, list): v.clear()\nreturn len(kwargs)"
    ),
}

EXITS = {
    "sys_exit": _before("import sys\nsys.exit(0)"),
    "os_exit": _before("import os\nos._exit(0)"),
    "exit_in_the_method": _inside("sys.exit(0 if kwargs else 1)"),
    "os_exit_in_the_method": _inside("os._exit(0 if kwargs else 1)"),
    "atexit_forgery": _before(
        "import atexit, os\natexit.register(lambda: (os.write(1, b'all tests passed'), os._exit(0)))"
    ),
    "destructor_forgery": _before(
        "import os\nclass D:\n    def __del__(self): os.write(3, b'\\0' * 64)\nkeep = D()"
    ),
    "keyboard_interrupt": _inside("raise KeyboardInterrupt(len(kwargs))"),
    "generator_exit": _inside("raise GeneratorExit(len(kwargs))"),
    "segfault": _inside("import ctypes\nctypes.string_at(len(kwargs))"),
    "abort": _inside("os.abort() if kwargs else 0"),
    "deep_recursion": _before(
        "import sys\nsys.setrecursionlimit(10**9)\nclass R:\n"
        "    def __getattr__(self, n): return getattr(self, n + 'x')\nR().y"
    ),
    "signals_masked": _before(
        "import signal, sys\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
        "for n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass"
    ),
    "cpu_limit_lowered": _before(
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (0, 0))\nwhile True: pass"
    ),
    "kills_itself": _inside("os.kill(os.getpid(), 9)\nreturn len(kwargs)"),
    "stops_itself": _inside("os.kill(0, 19)\nos.kill(os.getpid(), 19)\nreturn len(kwargs)"),
}

PROCESSES = {
    "fork_and_setsid": _before(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        time.sleep(3600)\n    os._exit(0)"
    ),
    "fork_storm": _before("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"),
    "fork_and_die_storm": _before(
        "import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n"
        "    try:\n        if os.fork(): os._exit(0)\n    except OSError: pass"
    ),
    "thread_storm": _before(
        "import threading, time\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()"
    ),
    "thread_that_hangs": _inside(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(3600,)).start()\nreturn len(kwargs)"
    ),
    "thread_that_spins_and_answers": _inside(
        "import threading\ndef spin():\n    while True: pass\n"
        "threading.Thread(target=spin, daemon=True).start()\nreturn len(kwargs)"
    ),
    "kills_its_parent": _inside(
        "for pid in (os.getppid(), 0, 1, -1):\n    try: os.kill(pid, 9)\n    except OSError: pass\n"
        "return len(kwargs)"
    ),
    "kills_everything": _inside(
        "for pid in range(2, 70000):\n    try: os.kill(pid, 9)\n    except OSError: pass\n"
        "return len(kwargs)"
    ),
    "starts_a_program": _inside(
        "import subprocess\nsubprocess.Popen(['/bin/sh', '-c', 'sleep 3600 # MARK'])\n"
        "return len(kwargs)"
    ),
    "executes_its_own_file": _inside(
        "open('x', 'wb').write(b'#!/bin/sh\\nsleep 3600')\nos.chmod('x', 0o755)\n"
        "os.execv('./x', ['MARK'])\nreturn len(kwargs)"
    ),
    "new_namespaces": _inside(
        "import ctypes\nc = ctypes.CDLL(None)\nassert c.unshare(0x10000000) == 0 and kwargs"
    ),
    "ptrace_the_parent": _inside(
        "import ctypes\nc = ctypes.CDLL(None)\nassert c.ptrace(16, 1, 0, 0) == 0 and kwargs"
    ),
    "sleeps": _inside("import time\ntime.sleep(3600)\nreturn len(kwargs)"),
    "spins": _inside("while kwargs: pass"),
    "regex_that_hangs": _inside(
        "import re\nreturn re.match('(a+)+$', 'a' * 60 + 'b') or len(kwargs)"
    ),
    "one_endless_c_call": _inside("return sum(range(10**12)) + len(kwargs)"),
}

FLOODS = {
    "memory_at_once": _inside("return bytearray(len(kwargs) << 40)"),
    "memory_by_and_by": _inside(
        "x = []\nwhile True: x.append(bytearray(1 << 20)) if kwargs else 0"
    ),
    "memory_in_children": _before(
        "import os\nfor _ in range(8): os.fork()\nx = [bytearray(1 << 20) for _ in range(200)]"
    ),
    "big_integer": _inside("return 9 ** (9 ** 9) + len(kwargs)"),
    "disk": _inside(
        "n = 0\nwhile True:\n    n += 1\n    open(f'MARK{n}', 'wb').write(b'x' * (1 << 20))\n"
        "return len(kwargs)"
    ),
    "many_files": _inside(
        "for n in range(10**6): open(f'MARK{n}', 'w').close()\nreturn len(kwargs)"
    ),
    "sparse_file": _inside("f = open('MARK', 'wb')\nf.truncate(1 << 50)\nreturn len(kwargs)"),
    "deep_directories": _inside(
        "while True:\n    os.mkdir('MARK')\n    os.chdir('MARK')\nreturn len(kwargs)"
    ),
    "open_files": _inside("k = []\nwhile True: k.append(open('/dev/null')) if kwargs else 0"),
    "output": _inside("while True: print('MARK' * 10000) if kwargs else 0"),
    "raw_output": _inside("while True: os.write(1, b'MARK' * 10000) if kwargs else 0"),
    "channel_flood": _inside("while True: os.write(3, b'MARK' * 10000) if kwargs else 0"),
    "huge_result": _inside("return [len(kwargs)] * 10**7"),
    "huge_text": _inside("return 'x' * (64 << 20) if kwargs else ''"),
    "cyclic_result": _inside("x = [len(kwargs)]\nx.append(x)\nreturn x"),
    "deep_result": _inside("x = [len(kwargs)]\nfor _ in range(10**5): x = [x]\nreturn x"),
    "wide_tree_of_shared_lists": _inside(
        "x = [0]\nfor _ in range(60): x = [x, x]\nreturn x if kwargs else 0"
    ),
    "pipes_and_sockets": _inside(
        "import socket\nk = []\nwhile kwargs:\n    a, b = socket.socketpair()\n"
        "    a.setblocking(False)\n    k += [a, b]\n    a.send(b'x' * 100000)"
    ),
}

READERS = {
    "frames": _inside(
        "f = sys._getframe()\nwhile f:\n    for k in ('expected', 'answer', 'case', 'cases'):\n"
        "        if k in f.f_locals: return f.f_locals[k]\n    f = f.f_back\nreturn len(kwargs)"
    ),
    "garbage_collector": _inside(
        "import gc\ngc.unfreeze()\nfor o in gc.get_objects():\n"
        "    if type(o) is dict and ('expected' in o or 'gt_answer' in o):\n"
        "        return o.get('expected', o.get('gt_answer'))\n"
        "    if type(o).__name__ in ('Case', 'Problem', 'Grade'): return o.expected\n"
        "return len(kwargs)"
    ),
    "proc": _inside(
        "out = [open(f'/proc/{p}/{f}', 'rb').read(100) for p in ('self', '1', '2')\n"
        "       for f in ('maps', 'mem', 'environ', 'cmdline')]\nreturn len(out) + len(kwargs)"
    ),
    "environment": _inside("assert os.environ and kwargs\nreturn dict(os.environ)"),
    "host_files": _inside(
        "for p in ('/etc/passwd', '/etc/hostname', '/root', '/work', '/home', '/usr', '/proc', '/sys'):\n"
        "    try: os.stat(p)\n    except OSError: continue\n    if p != '/root': return 0\n"
        "raise SystemExit(len(kwargs))"
    ),
    "own_descriptors": _inside(
        "for fd in range(64):\n    try: os.lseek(fd, 0, 0); data = os.read(fd, 1 << 16)\n"
        "    except OSError: continue\n    if b'expected' in data: return data\nreturn len(kwargs)"
    ),
    "reads_the_next_question": _inside(
        "import select\nr, _, _ = select.select([3], [], [], 0.05)\n"
        "data = os.read(3, 1 << 16) if r else b''\nreturn len(data) + len(kwargs)"
    ),
    "network": _inside(
        "import socket\nsocket.create_connection(('1.1.1.1', 80), 1).send(b'GET /')\n"
        "return len(kwargs)"
    ),
    "loopback_and_unix": _inside(
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0/tmp/.X11-unix/X0')\n"
        "return len(kwargs)"
    ),
    "writes_outside": _inside(
        "for d in ('/', '/tmp/..', '/dev', '/dev/shm', '/var/tmp', '/root', os.path.dirname(os.__file__)):\n"
        "    try: open(d + '/MARK', 'w').write('MARK')\n    except OSError: pass\nreturn len(kwargs)"
    ),
    "patches_the_library": _inside("open(os.__file__, 'a').write('# MARK')\nreturn len(kwargs)"),
    "shared_memory": _inside(
        "import ctypes\nc = ctypes.CDLL(None)\nassert c.shmget(77, 4096, 0o1777) >= 0 and kwargs"
    ),
    "memory_file": _inside("fd = os.memfd_create('MARK')\nreturn len(kwargs)"),
    "mounts": _inside(
        "import ctypes\nc = ctypes.CDLL(None)\nassert c.umount2(b'/tmp', 2) == 0 and kwargs"
    ),
    "becomes_root": _inside("os.setuid(0)\nreturn len(kwargs)"),
}

TEXTS = {
    "null_byte": _before("x = '\0'"),
    "lone_surrogate_in_code": _before("x = '\ud800'"),
    "lone_surrogate_in_answer": _inside("return '\\ud800' * len(kwargs)"),
    "lone_surrogate_printed": _before(
        "import sys\nsys.stdout.buffer.write(b'\\xff\\xfe')\nprint('\\ud800')"
    ),
    "nested_parentheses": _before("x = " + "(" * 5000 + ")" * 5000),
    "long_unary_chain": _before("x = " + "-" * 50000 + "1"),
    "encoding_comment": "# -*- coding: utf-7 -*-\n" + STUB,
    "giant_program": STUB + "x = 1\n" * 100_000,
    "no_method": "class Solution:\n    pass\n",
    "constant": "class Solution:\n    def METHOD(self, *args, **kwargs):\n        return 0\n",
}

LEFTOVERS = {
    "directory_as_result": _before("import os\nos.mkdir('result.txt'); os.mkdir('MARK')"),
    "named_pipe_as_result": _before("import os\nos.mkfifo('result.txt'); os.mkfifo('MARK')"),
    "socket_as_result": _before(
        "import socket\nsocket.socket(socket.AF_UNIX).bind('result.txt')\nopen('MARK', 'w')"
    ),
    "link_as_result": _before(
        "import os\nos.symlink('/etc/passwd', 'result.txt'); os.link('result.txt', 'MARK')"
    ),
    "link_to_itself": _before("import os\nos.symlink('result.txt', 'result.txt')"),
    "unreadable_directory": _before("import os\nopen('MARK', 'w')\nos.chmod('.', 0)"),
    "unreadable_result": _before(
        "import os\nopen('result.txt', 'w').write('MARK')\nos.chmod('result.txt', 0)"
    ),
    "odd_names": _before(
        "import os\nfor n in (b'\\xff\\xfe', b'\\n', b'-rf', b'a' * 255, 'MARK\\u202e'.encode()):\n    open(n, 'w')"
    ),
    "binary_result": _before("open('result.txt', 'wb').write(bytes(range(128, 256)) * 100)"),
    "file_that_grows": _before(
        "import os\nif os.fork() == 0:\n    while True: open('result.txt', 'a').write('MARK')"
    ),
}

# What would leave a byte for a later program, or tell a neighbour one. Most try to store an answer
# where a second copy of the same program would look for it.
_LIBC = (
    "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "lib = os.open(os.__file__, 0)\nbuf = ctypes.create_string_buffer(4096)\n"
)
CHANNELS = {
    "page_cache_dropped": _before(_LIBC + "libc.posix_fadvise(lib, 0, 0, 4)"),
    "page_cache_asked": _before(
        "import ctypes, mmap, os\nlib = os.open(os.__file__, 0)\n"
        "m = mmap.mmap(lib, 4096, prot=1)\nlibc = ctypes.CDLL(None)\nv = ctypes.create_string_buffer(1)\n"
        "assert libc.mincore(ctypes.c_void_p(id(m) & ~4095), 4096, v) == 0"
    ),
    "page_cache_read_without_waiting": _inside(
        "fd = os.open(os.__file__, 0)\nb = bytearray(4096)\n"
        "return os.preadv(fd, [b], 0, os.RWF_NOWAIT) + len(kwargs)"
    ),
    "pages_sent_out": _before(
        "import mmap\nm = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE)\nm.madvise(21)"
    ),
    "locked_library": _before(
        "import fcntl, os\nfcntl.flock(os.open(os.__file__, 0), fcntl.LOCK_EX)"
    ),
    "locked_null": _before("import fcntl\nfcntl.lockf(open('/dev/null', 'w'), fcntl.LOCK_EX)"),
    "leased_library": _before("import fcntl, os\nfcntl.fcntl(os.open(os.__file__, 0), 1024, 0)"),
    "watched_library": _before(_LIBC + "assert libc.inotify_init() >= 0"),
    "null_touched": _before("import os\nos.utime('/dev/null')"),
    "stdin_touched": _before("import os\nos.utime(0)"),
    "null_renamed": _before("import os\nos.rename('/dev/null', '/dev/MARK')"),
    "null_chmod": _before("import os\nos.chmod('/dev/null', 0)"),
    "inode_counter": _inside(
        "while True:\n    r, w = os.pipe()\n    n = os.fstat(r).st_ino\n    os.close(r); os.close(w)\n"
        "    if n % 4096 < 64: return n + len(kwargs)"
    ),
    "inode_counter_of_sockets": _inside(
        "import socket\nseen = [os.fstat(e.fileno()).st_ino for _ in range(9) for e in socket.socketpair()]\n"
        "assert len(set(seen)) > 4 and kwargs"
    ),
    "inode_counter_of_memory_files": _inside(
        "return os.fstat(os.memfd_create('MARK')).st_ino if kwargs else 0"
    ),
    "inode_number_of_the_channel": _inside("return os.fstat(3).st_ino + len(kwargs)"),
    "inode_number_of_the_output": _inside("return os.fstat(os.dup(1)).st_ino + len(kwargs)"),
    "event_descriptors": _inside("return os.eventfd(len(kwargs))"),
    "socket_cookie": _inside(
        "import socket\nreturn int.from_bytes(socket.socket(fileno=3).getsockopt(1, 57, 8), 'little')"
    ),
    "peer_of_the_channel": _inside(
        "import socket, struct\np = struct.unpack('3i', socket.socket(fileno=3).getsockopt(1, 17, 12))\n"
        "os.kill(p[0] or -1, 9)\nreturn p[1]"
    ),
    "peer_as_a_descriptor": _inside(
        "import socket\nreturn socket.socket(fileno=3).getsockopt(1, 77, 4)[0]"
    ),
    "process_name": _before(_LIBC + "assert libc.prctl(15, b'tell', 0, 0, 0) == 0"),
    "exit_status": _inside("os._exit(42 + len(kwargs))"),
    "process_numbers": _before(
        "import os\nfor _ in range(200):\n    if os.fork() == 0: os._exit(7)\n    os.wait()"
    ),
    "memory_of_the_template": _inside(
        "import ctypes\nat = id(object()) & ~0xFFFFF\ntext = ctypes.string_at(at, 1 << 18)\n"
        "return text.count(b'tell') + len(kwargs)"
    ),
    "machine_load": _before(_LIBC + "assert libc.sysinfo(buf) == 0"),
    "load_average": _inside("return os.getloadavg() if kwargs else 0"),
    "free_space": _inside("return os.statvfs('/').f_bfree + len(kwargs)"),
    "shared_semaphore": _before("import multiprocessing\nmultiprocessing.Semaphore(1)"),
    "shared_memory_file": _before(
        "from multiprocessing import shared_memory\nshared_memory.SharedMemory('MARK', True, 99)"
    ),
    "message_queue": _before(_LIBC + "assert libc.msgget(77, 0o1777) >= 0"),
    "keyring": _before(_LIBC + "assert libc.syscall(248, b'user', b'MARK', b'x', 1, -3) > 0"),
    "priority": _inside("return os.nice(len(kwargs) + 9)"),
    "affinity": _inside("os.sched_setaffinity(0, {0})\nreturn len(kwargs)"),
    "synced_disks": _inside("os.sync()\nreturn len(kwargs)"),
    "ring": _before(_LIBC + "assert libc.syscall(425, 8, buf) >= 0"),
    "page_faults_handed_over": _before(_LIBC + "assert libc.syscall(323, 1) >= 0"),
    "counters_of_the_processor": _before(
        _LIBC + "assert libc.syscall(298, buf, 0, -1, -1, 0) >= 0"
    ),
    "named_pipe_for_later": _before("import os\nos.mkfifo('/tmp/MARK')"),
}

SOCKETS = {
    f"socket_of_family_{family}": _before(
        f"import socket\nsocket.socket({family}, socket.{kind}).close()\nprint('all tests passed')"
    )
    for family, kind in (
        (1, "SOCK_STREAM"),
        (2, "SOCK_DGRAM"),
        (10, "SOCK_STREAM"),
        (16, "SOCK_RAW"),
        (17, "SOCK_RAW"),
        (38, "SOCK_SEQPACKET"),
        (40, "SOCK_STREAM"),
    )
}

_BURN = "import os, signal, time\ndef burn(s):\n    e = time.process_time() + s\n    while time.process_time() < e: pass\n"
EVASIONS = {
    "ends_of_children_ignored": _before(
        _BURN + "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nfor _ in range(999):\n"
        "    if os.fork() == 0: burn(.025); os._exit(0)\n    time.sleep(.02)"
    ),
    "ends_of_children_ignored_by_libc": _before(
        _BURN
        + "import ctypes\nctypes.CDLL(None).signal(17, ctypes.c_void_p(1))\nfor _ in range(999):\n"
        "    if os.fork() == 0: burn(.025); os._exit(0)\n    os.waitpid(-1, 1)"
    ),
    "children_one_by_one": _before(
        _BURN
        + "for _ in range(999):\n    if os.fork() == 0: burn(.025); os._exit(0)\n    os.wait()"
    ),
    "orphans_one_by_one": _before(
        _BURN
        + "for _ in range(999):\n    if os.fork() == 0:\n        if os.fork() == 0: burn(.025)\n"
        "        os._exit(0)\n    os.wait()\n    os.wait()"
    ),
    "threads_one_by_one": _before(
        _BURN + "import threading\nfor _ in range(999):\n"
        "    t = threading.Thread(target=burn, args=(.025,)); t.start(); t.join()"
    ),
    "busy_for_a_moment_now_and_then": _before(_BURN + "while True: burn(.001); time.sleep(.02)"),
    "shared_pages_dropped": _before(
        "import mmap\nfor _ in range(12):\n    m = mmap.mmap(-1, 100 << 20)\n"
        "    for a in range(0, 100 << 20, 4096): m[a] = 1\n    m.madvise(mmap.MADV_DONTNEED)"
    ),
    "pages_left_in_pipes": _before(
        _LIBC + "r, w = os.pipe()\nassert libc.vmsplice(w, buf, 1, 0) > 0"
    ),
    "huge_pages": _before("import mmap\nmmap.mmap(-1, 2 << 20, flags=0x40022)[0] = 1"),
    "stack_as_memory": _before(
        "import sys, threading\nsys.setrecursionlimit(10**9)\nthreading.stack_size(900 << 20)\n"
        "threading.Thread(target=print).start()"
    ),
    "secret_pages": _before(_LIBC + "assert libc.syscall(447, 0) >= 0"),
}


def _answer(value: str) -> str:
    """Every call is answered with this expression, in the encoding of the channel."""
    return _before(_FORGE) + (
        f"VALUE = {value}\ndef method(self, **kwargs):\n"
        "    for r in find(): forge(3, {'id': r['id'], 'value': VALUE})\n"
        "    os._exit(0)\nSolution.METHOD = method\n"
    )


_KEYS = "[{'i': hex(k * (2**61 - 1))} for k in range(1, 40000)]"
"""All of them have the same hash."""

SLOW = {
    "colliding_set": _answer(f"{{'s': {_KEYS}}}"),
    "colliding_frozenset_half": _answer(f"{{'z': {_KEYS} + list(range(40000))}}"),
    "colliding_dict": _answer(
        f"{{'d': [[k, 0] for k in {_KEYS}] + [[k, 0] for k in range(40000)]}}"
    ),
    "colliding_tuples": _answer(f"{{'s': [{{'t': [k]}} for k in {_KEYS}]}}"),
    "colliding_sets_of_sets": _answer(f"{{'s': [{{'z': [k]}} for k in {_KEYS}]}}"),
    "colliding_in_every_item": _answer(
        "[{'s': [{'i': hex(k * (2**61 - 1))} for k in range(1, 5000)]}] * 20"
    ),
    "many_lists": _answer("[[]] * 300_000"),
    "hundred_deep": _answer("eval('[' * 90 + '0' + ']' * 90)"),
    "dict_of_no_pairs": _answer("{'d': [[1], [2, 3, 4]]}"),
    "set_of_lists": _answer("{'s': [[1], [2]]}"),
    "set_of_twins": _answer("{'s': [1, 1, 1, True, 1.0]}"),
    "nan_in_a_set": _answer("{'s': [float('nan')] * 3}"),
    "megabyte_int": _answer("{'i': '0x' + 'f' * 1_000_000}"),
    "long_float": _inside(
        "s = b'0.' + b'1' * 3_000_000\nimport struct\nos.write(3, struct.pack('!I', len(s)) + s)\nos._exit(len(kwargs))"
    ),
    "nine_thousand_classes": "class Solution:0\n" * 9000,
}

HOSTILE: dict[str, str] = {
    **FORGED,
    **REBOUND,
    **SPOOFED,
    **EXITS,
    **PROCESSES,
    **FLOODS,
    **READERS,
    **TEXTS,
    **LEFTOVERS,
    **SLOW,
    **CHANNELS,
    **SOCKETS,
    **EVASIONS,
}
