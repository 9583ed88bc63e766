"""What is said of a name that there is not."""

import pytest

from projected_grpo.env.names import hint, nearest


@pytest.mark.parametrize("typed", ["MyRewrd", "myreward", "MYREWARD"])
def test_the_name_that_was_meant_is_said_as_it_is_spelled(typed: str) -> None:
    assert nearest(typed, {"MyReward": 1, "other": 2}) == "MyReward"


def test_where_none_is_near_all_are_said() -> None:
    assert nearest("x", ("vanilla", "projected")) is None
    assert hint("x", ("vanilla", "projected")) == "there are vanilla, projected"
