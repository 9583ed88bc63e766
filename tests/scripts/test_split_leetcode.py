"""Problems are chosen by difficulty and id alone."""

import gzip
import json
from pathlib import Path

from split_leetcode import Arguments, main, number, split


def test_easy_and_the_lower_half_of_medium_are_taken_and_the_highest_held_out() -> None:
    levels = ["Easy", "Medium", "Hard", "Medium", "Easy", "Medium", "Medium", "Easy"]
    records = [
        {"meta": {"question_id": str(n), "difficulty": level}}
        for n, level in enumerate(levels, start=1)
    ]
    train, held_out = split(records[::-1], held_out=2)
    assert [number(one) for one in train] == [1, 2, 4]
    assert [number(one) for one in held_out] == [5, 8]


def test_the_same_records_are_the_same_bytes(tmp_path: Path) -> None:
    records = [{"meta": {"question_id": str(n), "difficulty": "Easy"}} for n in range(160)]
    with gzip.open(tmp_path / "all.jsonl.gz", "wt") as f:
        f.writelines(f"{json.dumps(one)}\n" for one in records)
    for name in ("one", "two"):
        main(Arguments(source=tmp_path / "all.jsonl.gz", out=tmp_path / name))
    one, two = (tmp_path / name / "held_out.jsonl.gz" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert len(gzip.decompress(one.read_bytes()).splitlines()) == 150
