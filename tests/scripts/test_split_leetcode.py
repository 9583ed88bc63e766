"""Problems are chosen by difficulty and id alone."""

from split_leetcode import number, split


def test_easy_and_the_lower_half_of_medium_are_taken_and_the_highest_held_out() -> None:
    levels = ["Easy", "Medium", "Hard", "Medium", "Easy", "Medium", "Medium", "Easy"]
    records = [
        {"meta": {"question_id": str(n), "difficulty": level}}
        for n, level in enumerate(levels, start=1)
    ]
    train, held_out = split(records[::-1], held_out=2)
    assert [number(one) for one in train] == [1, 2, 4]
    assert [number(one) for one in held_out] == [5, 8]
