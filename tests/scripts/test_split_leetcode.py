"""Problems are chosen by difficulty, id and the length of the prompt alone."""

import gzip
from pathlib import Path

import pytest
import verdict
from conftest import leetcode_dir
from split_leetcode import TOO_LONG, Arguments, main, number, split, write


def records(levels: list[str]) -> list[dict]:
    return [
        {"meta": {"question_id": str(n), "difficulty": level}}
        for n, level in enumerate(levels, start=1)
    ]


def test_easy_and_the_lower_half_of_medium_are_taken_and_the_highest_held_out() -> None:
    levels = ["Easy", "Medium", "Hard", "Medium", "Easy", "Medium", "Medium", "Easy", "Easy"]
    train, held_out = split([*records(levels)[::-1]], held_out=2)
    assert [number(one) for one in train] == [1, 2, 4]
    assert [number(one) for one in held_out] == [5, 9] and 8 in TOO_LONG


def test_the_same_records_are_the_same_bytes(tmp_path: Path) -> None:
    one, two = (tmp_path / f"{name}.jsonl.gz" for name in ("one", "two"))
    for path in (one, two):
        write(path, records(["Easy"] * 3))
    assert one.read_bytes() == two.read_bytes()
    assert len(gzip.decompress(one.read_bytes()).splitlines()) == 3


def test_the_problems_of_h2_are_those_that_the_verdict_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(Arguments(source=leetcode_dir() / "LeetCodeDataset-v0.2.0-train.jsonl.gz", out=tmp_path))
    train, held_out = capsys.readouterr().out.splitlines()
    assert train == (
        "train: 830 problems, 349 easy, ids 1 to 2116, sha256 of the ids 93ca41bb46a0; runs keep "
        f"777 of them, sha256 {verdict.DIGESTS['problems_sha256']}"
    )
    assert held_out.startswith("held_out: 150 problems, 150 easy, ids 2121 to 100355, sha256 of ")
    assert "the ids ee40e541b9d3; runs keep 143 of them" in held_out
