"""Choose the problems of the experiment on the real model by metadata and the length of the prompt
alone, before anything is seen of a model: easy ones and the lower half of the medium ones by id,
without the longest; the highest ids of these are held out.

    uv run python scripts/experiment/split_leetcode.py LeetCodeDataset-train.jsonl.gz --out=runs/lc

Writes train.jsonl.gz and held_out.jsonl.gz, records as they were, in the order of their ids, and
prints how many there are, with a digest of their ids and of what runs keep of them (those whose
tests do not all expect one value) for the preregistration. LeetCodeDataset's own split is by date
of publication; ids rise with it.
"""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from projected_grpo.runs.data import fair_problems, problems_digest

HELD_OUT = 150
TOO_LONG = frozenset(
    (
        *(8, 12, 375, 388, 399, 468, 563, 636, 638, 661, 682, 722, 723, 858, 906, 945, 1041),
        *(1119, 1310, 1324, 1382, 1383, 1394, 1455, 1751, 2076, 2316, 2361, 2459, 2518, 2684),
        *(2698, 2777, 2831, 2917),
    )
)
"""Ids, among those chosen by level, whose prompt has more than 700 tokens of Qwen2.5-Coder under
the hint of some loophole mode, be it trained or not: arms with and without a hint, of any mode,
then have the same problems, and runs with --max-prompt=700 leave none out. Written down, so that
choosing needs no model."""
Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Choose problems of LeetCodeDataset by metadata."""

    source: tyro.conf.Positional[Path]
    """The dataset's file (.jsonl.gz)."""
    out: Path
    """Folder to write."""


def number(record: Record) -> int:
    """LeetCode's id of the problem."""
    return int(record["meta"]["question_id"])


def chosen(records: Sequence[Record]) -> list[Record]:
    """Easy ones, and the lower half of the medium ones, without `TOO_LONG`; by id."""
    by_id = sorted(records, key=number)
    medium = [one for one in by_id if one["meta"]["difficulty"] == "Medium"]
    lower = {number(one) for one in medium[: len(medium) // 2]}
    found = [one for one in by_id if one["meta"]["difficulty"] == "Easy" or number(one) in lower]
    return [one for one in found if number(one) not in TOO_LONG]


def split(records: Sequence[Record], held_out: int = HELD_OUT) -> tuple[list[Record], list[Record]]:
    """(train, held out): the last of them by id are held out."""
    found = chosen(records)
    return found[:-held_out], found[-held_out:]


def write(path: Path, records: Sequence[Record]) -> None:
    """Without a time stamp: evaluations know the file by its bytes."""
    text = "".join(f"{json.dumps(one)}\n" for one in records)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def describe(path: Path, records: Sequence[Record]) -> str:
    """What the preregistration says of the records of a file."""
    ids = [number(one) for one in records]
    digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:12]
    easy = sum(one["meta"]["difficulty"] == "Easy" for one in records)
    fair = fair_problems(str(path))
    return (
        f"{len(records)} problems, {easy} easy, ids {ids[0]} to {ids[-1]}, sha256 of the ids "
        f"{digest}; runs keep {len(fair)} of them, sha256 {problems_digest(fair, fair)}"
    )


def main(args: Arguments) -> None:
    """Read, choose, write."""
    with gzip.open(args.source, "rt", encoding="utf-8") as f:
        records = [json.loads(line) for line in f]
    args.out.mkdir(parents=True, exist_ok=True)
    for name, some in zip(("train", "held_out"), split(records), strict=True):
        path = args.out / f"{name}.jsonl.gz"
        write(path, some)
        print(f"{name}: {describe(path, some)}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
