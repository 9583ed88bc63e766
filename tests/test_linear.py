"""The ruler of the tests that ask for linear time."""

import math
import time

import pytest
from linear import AT_ONCE_S, TIMES, assert_linear


def spin(n: float) -> None:
    end = time.process_time() + n * 1.2 * AT_ONCE_S / TIMES
    while time.process_time() < end:
        pass


def test_linear_work_passes_and_quadratic_work_does_not() -> None:
    assert_linear(spin, lambda size: size)
    assert_linear(spin, lambda size: size * (1 + math.log(size)))
    with pytest.raises(AssertionError, match=f"{TIMES} times the size took"):
        assert_linear(spin, lambda size: size * size)


def test_one_disturbance_does_not_decide() -> None:
    done: list[int] = []

    def disturbed(size: int) -> None:
        done.append(size)
        spin(size * 5 if done.count(TIMES) == 1 else size)

    assert_linear(disturbed, lambda size: size)
    assert done.count(TIMES) == 2
