"""Reading answers: fences and line ends, and parsing in several threads."""

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from linear import assert_linear

from projected_grpo.env.parsing import extract_code, parse, parse_program, split_lines

METHODS = "".join(f"  def f{i}(self, x):\n    return [a + {i} for a in x]\n" for i in range(60))


class Loop:
    """Garbage that only the collector frees, with a finaliser that lets other threads run."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        pass


@pytest.mark.slow
def test_threads_parse_side_by_side() -> None:
    """With ast.parse in its place, some 80 of these 1,200 calls end in a SystemError (3.11)."""
    errors: list[Exception] = []

    def work() -> None:
        for _ in range(300):
            try:
                parse(f"class Solution:\n{METHODS}")
            except SystemError as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-5)
    gc.set_threshold(50)
    try:
        for thread in threads:
            thread.start()
        while threads[0].is_alive():
            _ = [Loop() for _ in range(100)]
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)
    assert not errors


def test_the_environment_parses_nowhere_else() -> None:
    """What runs inside the sandbox has no threads."""
    env = Path(__file__).parents[2] / "src" / "projected_grpo" / "env"
    files = [path for path in env.rglob("*.py") if path.parent.name != "inside"]
    used = [path.name for path in files if "ast.parse(" in path.read_text(encoding="utf-8")]
    assert used == ["parsing.py"]


def test_code_is_split_nowhere_but_at_pythons_line_ends() -> None:
    env = Path(__file__).parents[2] / "src" / "projected_grpo" / "env"
    files = [env / "parsing.py", env / "solution.py", *env.glob("[gl]*/*.py")]
    assert not [path for path in files if ".splitlines(" in path.read_text(encoding="utf-8")]
    assert split_lines("a\r\nb\rc\n\u2028\x0cd") == ["a", "b", "c", "\u2028\x0cd"]


CODE = "class Solution:\n    def f(self, n):\n        return n"
TESTS = "def run_tests():\n    assert Solution().f(1) == 1"
BROKEN = "class Solution:\n    def f(self, n:"


def fence(code: str, info: str = "python", mark: str = "```") -> str:
    return f"{mark}{info}\n{code}\n{mark}"


@pytest.mark.parametrize("mark", "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e")
def test_only_pythons_own_line_ends_end_a_line(mark: str) -> None:
    code = f"{CODE}  # a{mark}b\nTEXT = 'a{mark}b'"
    if mark in "\u2028\u2029\x85":  # Python reads the others as spaces or not at all
        assert parse_program(code) is not None
    assert extract_code(f"Here:\n{fence(code)}\nDone.") == code


def test_line_ends_of_windows_and_a_byte_order_mark_do_no_harm() -> None:
    answer = fence(CODE).replace("\n", "\r\n")
    assert extract_code(answer) == CODE
    assert extract_code(answer.replace("\r\n", "\r")) == CODE
    assert extract_code(fence(f"\ufeff{CODE}")) == CODE
    assert extract_code(f"\ufeff{fence(CODE)}") == CODE


@pytest.mark.parametrize("mark", ["```", "````", "~~~"])
@pytest.mark.parametrize(
    "info",
    [
        *("python3.11", "Python 3", "ipython", "ipython3", "py3", "{python}", "python:main.py"),
        *("{.python .numbered}", 'python title="a.py"', "python {1,3}", "python,linenos"),
        *("language-python", "{code-cell} ipython3", " python", "python hl_lines='1 2'"),
    ],
)
def test_fences_that_name_python_in_other_words(info: str, mark: str) -> None:
    answer = f"Text\n{fence(CODE, info, mark)}\nDone it is"
    assert extract_code(answer) == CODE
    assert extract_code(fence(CODE, info, mark).removesuffix(mark)) == CODE  # it stays open


@pytest.mark.parametrize("info", ["java", "text", "pycon", "pytest", "py-spy", "bash", "pythonic"])
def test_fences_of_other_languages_are_none(info: str) -> None:
    assert extract_code(fence(CODE, info)) is None
    assert extract_code(fence(CODE, info, "~~~")) is None


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (f"```python {CODE}\n```", CODE),
        (f"```{CODE}\n```", CODE),
        (f"```python import math\n{CODE}\n```", f"import math\n{CODE}"),
        ("```python class Solution: f = print```", "class Solution: f = print"),
        # A draft, and what follows it.
        (f"{fence(BROKEN)}\nNo:\n{fence(CODE)}", CODE),
        (f"{fence(BROKEN, '')}\nNo:\n{fence(CODE, '')}", CODE),
        (f"{fence(CODE)}\n{fence(BROKEN)}\nNo:\n{fence(CODE + ' + 1')}", f"{CODE} + 1"),
        (f"{fence(BROKEN)}\nNo:\n{fence(CODE)}\n{fence(TESTS)}", f"{CODE}\n\n{TESTS}"),
        (f"{fence(CODE)}\nRun it:\n{fence('$ python main.py')}", CODE),
        # In a list, in a quotation, and beside code in a sentence.
        ("- Do:\n  " + fence(f"import math\n{CODE}").replace("\n", "\n  "), f"import math\n{CODE}"),
        ("> " + fence(CODE).replace("\n", "\n> "), CODE),
        (f"The ```x``` of\n{fence(CODE)}", CODE),
        (f"```x``` it\n{fence(CODE)}", CODE),
        (fence(fence(CODE), "", "~~~~"), CODE),
        # The benchmark's reading, where it is a program.
        (f"{fence(CODE)}\nand\n{fence('x = 1', '')}", f"{CODE}\n\nx = 1"),
        (f"{fence('x = 1')}\nand\n{fence('y = 1', '', '~~~')}", "x = 1"),
    ],
)  # fmt: skip
def test_what_an_answer_means(answer: str, code: str) -> None:
    assert extract_code(answer) == code


@pytest.mark.parametrize(
    "answer",
    [
        lambda n: "```python\n" + "[]\n" * n * 87_500,
        lambda n: "~~~python\n" * n * 2_500,
        lambda n: ("```python\n" + "(((\n```\n") * n * 937,
        lambda n: "> " * n * 12_500 + "```",
        lambda n: "- " * n * 12_500 + "```python\n",
        lambda n: "`" * n * 25_000,
        lambda n: "```python\n" + "class Solution:0\n" * n * 562 + "```",
        lambda n: "```" + " " * n * 25_000 + "x y",
        lambda n: "``` " * n * 6_250 + "x y",
    ],
    ids=["long", "open", "broken", "quotes", "bullets", "marks", "classes", "spaces", "fences"],
)
def test_answers_are_read_in_linear_time(answer: Callable[[int], str]) -> None:
    assert_linear(extract_code, answer)
