"""CPython 3.11 cannot parse in two threads at once; the grader's threads have to."""

import gc
import sys
import threading
from pathlib import Path

import pytest

from projected_grpo.env.parsing import parse

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
    used = [p.name for p in env.glob("*.py") if "ast.parse(" in p.read_text(encoding="utf-8")]
    assert used == ["parsing.py"]
