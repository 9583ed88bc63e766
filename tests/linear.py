"""Does something take time linear in its size? As a ratio of CPU times in this process, so that
neither a slow machine nor its other load decides."""

import gc
import math
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
TIMES = 16
MOST = 64.0
"""The larger of two sizes, TIMES the smaller, takes 16 times as long if the time is linear and 256
times if it is quadratic: this is as far from either."""
AT_ONCE_S = 0.02
ROUNDS = 5


def assert_linear(work: Callable[[T], object], made: Callable[[int], T]) -> None:
    """`work` takes time linear in the size of what it is given.

    made: gives it in any multiple of a size, of which TIMES takes a second or so at most.
    Of several rounds the quickest counts; the first that shows it is the last.
    """
    small, large = made(1), made(TIMES)
    work(small)  # what is done once only is no part of it
    quick = slow = math.inf
    for _ in range(ROUNDS):
        quick = min(quick, cpu_seconds(work, small), cpu_seconds(work, small))
        slow = min(slow, cpu_seconds(work, large))
        if slow < max(MOST * quick, AT_ONCE_S):
            return
    raise AssertionError(f"{TIMES} times the size took {slow:.3f} s instead of {quick:.3f} s")


def cpu_seconds(work: Callable[[T], object], given: T) -> float:
    """Without the garbage collector, which also looks at all that other tests have made."""
    gc.disable()
    try:
        start = time.process_time()
        work(given)
        return time.process_time() - start
    finally:
        gc.enable()
