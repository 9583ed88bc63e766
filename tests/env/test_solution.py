"""Solution's method in a syntax tree: is it there, is it a stub, and how long does that take?"""

import time

import pytest

from projected_grpo.env.grading.attempts import compares_exactly
from projected_grpo.env.grading.stubs import with_change, with_helpers, with_stub
from projected_grpo.env.loopholes.modes import MODES, TRAIN_NAME, flavour_of
from projected_grpo.env.parsing import parse_program
from projected_grpo.env.solution import defines_method, ignores_arguments, import_time

METHOD = "def f(self, n): return n"
STUB = "def f(self, n): return 0"


@pytest.mark.parametrize(
    ("code", "defines"),
    [
        (f"class Solution:\n    if True:\n        {METHOD}", True),
        (f"class Solution:\n    try:\n        {METHOD}\n    finally:\n        pass", True),
        (f"class Solution:\n    match 1:\n        case 1:\n            {METHOD}", True),
        ("class Solution:\n    f: object = lambda self, n: n", True),
        ("class Solution:\n    g = f = lambda self, n: n", True),
        ("class Solution:\n    f, g = impl, impl", True),
        ("class Solution:\n    from somewhere import f", True),
        ("class Solution: pass\nSolution.f = lambda self, n: n", True),
        (f"class B:\n    if True:\n        {METHOD}\nclass Solution(B): pass", True),
        (f"if True:\n    class Solution:\n        {METHOD}", True),
        ("class Solution:\n    f: object", False),
        ("class Solution: pass\nx.f = 3", False),
        (f"class Solution:\n    def g(self):\n        {METHOD}", False),
        (f"class Solution:\n    class Inner:\n        {METHOD}", False),
    ],
)
def test_the_method_is_found_wherever_the_class_body_binds_it(code: str, defines: bool) -> None:
    tree = parse_program(code)
    assert tree is not None
    assert defines_method(tree, "f") is defines


@pytest.mark.parametrize(
    ("code", "ignores"),
    [
        (f"class B:\n    {STUB}\nclass Solution(B): pass", True),
        (f"class B:\n    {METHOD}\nclass Solution(B):\n    {STUB}", True),
        (f"class B:\n    {STUB}\nclass Solution(B):\n    {METHOD}", False),
        (f"class B:\n    {STUB}\nclass Solution(Unknown, B): pass", False),
        ("class Solution:\n    f: object = lambda self, n: 0", True),
        (f"class Solution:\n    if True:\n        {STUB}", True),
        (f"class Solution:\n    if True:\n        {STUB}\n    else:\n        {METHOD}", False),
        ("g = lambda self, n: 0\nclass Solution:\n    f = g", True),
        (f"from functools import cache\nclass Solution:\n    @cache\n    {STUB}", True),
        (f"class Solution:\n    @repaired\n    {STUB}", False),
        (f"@repaired\nclass Solution:\n    {STUB}", False),
    ],
)
def test_a_stub_is_one_in_a_base_class_a_block_and_an_annotation(code: str, ignores: bool) -> None:
    tree = parse_program(code)
    assert tree is not None
    assert ignores_arguments(tree, "f") is ignores


def test_what_runs_at_import_time() -> None:
    code = (
        "if True:\n    class Solution:\n        x = 1\n"
        "def a():\n    class Solution: y = 1\n"
        "def b():\n    global Solution\n    class Solution: z = 1\n"
    )
    tree = parse_program(code)
    assert tree is not None
    lines = sorted(node.lineno for node in import_time(tree))
    assert lines == [1, 2, 3, 4, 6, 7, 8, 8]


DEEP = range(1, 95)
LONG = {
    "classes": "class Solution:0\n" * 9_000,
    "derived": "class Solution(A):0\n" * 8_000,
    "bound": "def g(): 0\n" * 3_000 + "x.f = g\n" * 3_000 + "class Solution: 0\n" * 3_000,
    "future": "from __future__ import x\n" * 8_000,
    "functions": "".join(" " * n + "def a():\n" for n in DEEP) + " " * 96 + "a;" * 20_000,
    "blocks": "def run_tests():\n"
    + "".join(" " * n + "if a:\n" for n in DEEP)
    + " " * 96
    + "a;" * 20_000,
    "inner": "".join(" " * n + "class a:\n" for n in range(95)) + " " * 96 + "a;" * 20_000,
    "calls": "print(" * 150 + "a," * 20_000 + ")" * 150,
    "chain": "f(" + "a," * 20_000 + ")" + ".b()" * 250 + "  # all tests passed",
    "elif": "def run_tests():\n if a: 0\n" + " elif a: 0\n" * 9_000,
    "makers": "def m():\n global Solution\n" + "m()\n" * 30_000,
    "asserts": "def run_tests():\n assert " + " and ".join(["f(1) == 2"] * 9_000),
    "targets": "a = " * 40_000 + "1\n",
    "helpers": "".join(f"def h{n}(): return h{n + 1}()\n" for n in range(900))
    + "class Solution:\n def f(self, n): return h0()\n",
    "bases": "".join(f"class A{n}(A{n - 1}): 0\n" for n in range(1, 6_000))
    + "class Solution(A5999): 0\n",
    "same": "class Solution:\n f = f\n" * 6_000,
}


@pytest.mark.parametrize("name", LONG)
def test_analysis_takes_linear_time(name: str) -> None:
    """Each part stays under 2 s on a slow machine; a quadratic walk takes ten times that."""
    code = LONG[name]
    tree = parse_program(code)
    parts = [
        lambda: tree and (defines_method(tree, "f"), ignores_arguments(tree, "f")),
        lambda: with_stub(code, "f", "1"),
        lambda: with_helpers(code, "f", TRAIN_NAME, "1", 0),
        lambda: with_change(code, "f", TRAIN_NAME, 0),
        lambda: compares_exactly(code, "f", TRAIN_NAME),
        *(lambda mode=mode: flavour_of(code, "f", TRAIN_NAME, mode) for mode in MODES),
    ]
    for part in parts:
        start = time.process_time()
        part()
        assert time.process_time() - start < 2
