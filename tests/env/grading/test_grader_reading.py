"""Answers that show output, or backticks inside the program, are still read."""

import ast

import pytest

from projected_grpo.env.parsing import extract_code, parse_program

CODE = "class Solution:\n    def f(self, n):\n        return n"
OUTPUT = "Input: n = 5\n5 passed, 0 failed"
INDENTED = '''class Solution:
    def f(self, n):
        """```
        f(1) -> 1
        ```"""
        return n'''
INLINE = '''class Solution:
    def f(self, n):
        """Return ```n``` itself."""
        return n  # not ```m```'''


def fence(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        (f"{fence(CODE)}\nIt prints:\n{fence(OUTPUT, '')}", CODE),
        (f"{fence(OUTPUT, '')}\nThe code:\n{fence(CODE, 'py')}", CODE),
        (f"{fence(CODE)}\nIt prints:\n```\n{OUTPUT}", CODE),
        (fence(INDENTED), INDENTED),
        (fence(INDENTED, ""), INDENTED),
        (f"{fence(INDENTED)}\nIt prints:\n{fence(OUTPUT, '')}", INDENTED),
        (fence(INLINE), INLINE),
        (f"{fence(CODE)}\nand\n{fence(INDENTED)}", f"{CODE}\n\n{INDENTED}"),
        # Read as the benchmark does wherever that is a program.
        (f"{fence(CODE)}\nand\n{fence('x = 1', '')}", f"{CODE}\n\nx = 1"),
        (fence(f"{CODE}\n# ``` in a comment"), f"{CODE}\n# ``` in a comment"),
        ("```python\nx = 1```\ny", "x = 1"),
    ],
)
def test_the_first_reading_that_is_a_program_counts(completion: str, code: str) -> None:
    assert extract_code(completion) == code
    assert parse_program(code) is not None


@pytest.mark.parametrize("language", ["", "python"])
def test_a_docstring_with_an_example_in_it_loses_at_most_the_example(language: str) -> None:
    text = CODE.replace(
        "return n",
        '"""Do.\n\n        ```text\n        1 -> 1\n        ```\n        """\n        return n',
    )
    tree = parse_program(extract_code(fence(text, language)) or "")
    assert tree is not None
    assert ast.unparse(tree).endswith("return n")


def test_what_is_no_program_in_any_reading_is_read_as_the_benchmark_does() -> None:
    broken = "def f(:"
    assert extract_code(f"{fence(broken)}\n{fence(OUTPUT, '')}") == f"{broken}\n\n{OUTPUT}"
    assert extract_code(f"{fence(OUTPUT, '')}") == OUTPUT
    assert extract_code(f"{fence(CODE, 'java')}") is None
