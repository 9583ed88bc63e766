"""Choose the problems of the experiment on the real model by metadata alone, before anything is
seen of a model: easy ones and the lower half of the medium ones by id; the highest ids of these are
held out.

    uv run python scripts/experiment/split_leetcode.py LeetCodeDataset-train.jsonl.gz --out=runs/lc

Writes train.jsonl.gz and held_out.jsonl.gz, records as they were, in the order of their ids, and
prints how many there are, with a digest of their ids for the preregistration. LeetCodeDataset's own
split is by date of publication; ids rise with it.
"""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

HELD_OUT = 150
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
    """Easy ones, and the lower half of the medium ones; by id."""
    by_id = sorted(records, key=number)
    medium = [one for one in by_id if one["meta"]["difficulty"] == "Medium"]
    lower = {number(one) for one in medium[: len(medium) // 2]}
    return [one for one in by_id if one["meta"]["difficulty"] == "Easy" or number(one) in lower]


def split(records: Sequence[Record], held_out: int = HELD_OUT) -> tuple[list[Record], list[Record]]:
    """(train, held out): the last of them by id are held out."""
    found = chosen(records)
    return found[:-held_out], found[-held_out:]


def main(args: Arguments) -> None:
    """Read, choose, write."""
    with gzip.open(args.source, "rt", encoding="utf-8") as f:
        records = [json.loads(line) for line in f]
    args.out.mkdir(parents=True, exist_ok=True)
    for name, some in zip(("train", "held_out"), split(records), strict=True):
        text = "".join(f"{json.dumps(one)}\n" for one in some)
        # without a time stamp: evaluations know the file by its bytes
        (args.out / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        ids = [number(one) for one in some]
        digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:12]
        easy = sum(one["meta"]["difficulty"] == "Easy" for one in some)
        print(
            f"{name}: {len(some)} problems, {easy} easy, ids {ids[0]} to {ids[-1]}, sha256 {digest}"
        )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
