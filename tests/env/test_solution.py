"""Solution's method in a syntax tree: is it there, is it a stub, and how long does that take?"""

import pytest
from linear import assert_linear

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
    "classes": lambda n: "class Solution:0\n" * n * 500,
    "derived": lambda n: "class Solution(A):0\n" * n * 500,
    "bound": lambda n: (
        "def g(): 0\n" * n * 187 + "x.f = g\n" * n * 187 + "class Solution: 0\n" * n * 187
    ),
    "future": lambda n: "from __future__ import x\n" * n * 500,
    "functions": lambda n: (
        "".join(" " * d + "def a():\n" for d in DEEP) + " " * 96 + "a;" * n * 1_250
    ),
    "blocks": lambda n: (
        "def run_tests():\n"
        + "".join(" " * d + "if a:\n" for d in DEEP)
        + (" " * 96 + "a;" * n * 1_250)
    ),
    "inner": lambda n: (
        "".join(" " * d + "class a:\n" for d in range(95)) + " " * 96 + "a;" * n * 1_250
    ),
    "calls": lambda n: "print(" * 150 + "a," * n * 1_250 + ")" * 150,
    "chain": lambda n: "f(" + "a," * n * 1_250 + ")" + ".b()" * 250 + "  # all tests passed",
    "elif": lambda n: "def run_tests():\n if a: 0\n" + " elif a: 0\n" * n * 500,
    "makers": lambda n: "def m():\n global Solution\n" + "m()\n" * n * 1_000,
    "asserts": lambda n: "def run_tests():\n assert " + " and ".join(["f(1) == 2"] * n * 500),
    "targets": lambda n: "a = " * n * 2_500 + "1\n",
    "helpers": lambda n: (
        "".join(f"def h{i}(): return h{i + 1}()\n" for i in range(n * 55))
        + "class Solution:\n def f(self, n): return h0()\n"
    ),
    "bases": lambda n: (
        "".join(f"class A{i}(A{i - 1}): 0\n" for i in range(1, n * 375))
        + f"class Solution(A{n * 375 - 1}): 0\n"
    ),
    "same": lambda n: "class Solution:\n f = f\n" * n * 375,
}
PARTS = {
    "method": lambda code: (
        (tree := parse_program(code)) and (defines_method(tree, "f"), ignores_arguments(tree, "f"))
    ),
    "stub": lambda code: with_stub(code, "f", "1"),
    "helpers": lambda code: with_helpers(code, "f", TRAIN_NAME, "1", 0),
    "change": lambda code: with_change(code, "f", TRAIN_NAME, 0),
    "comparison": lambda code: compares_exactly(code, "f", TRAIN_NAME),
    **{mode: (lambda code, mode=mode: flavour_of(code, "f", TRAIN_NAME, mode)) for mode in MODES},
}


@pytest.mark.parametrize("name", LONG)
def test_analysis_takes_linear_time(name: str) -> None:
    for part in PARTS.values():
        assert_linear(part, LONG[name])
