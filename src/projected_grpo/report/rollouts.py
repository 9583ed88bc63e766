"""What a report keeps of a run's rollouts: every student row's hack score, and whole groups evenly
spread over training, since all of a long run would be hundreds of megabytes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projected_grpo.env.grading.schema import SHOWN
from projected_grpo.step_logger import whole_rows

KEPT = (
    *("step", "sample_id", "problem_id", "source", "mode", "completion", "completion_tokens"),
    *("terminated", "advantage", "hack_score", *SHOWN),
)
"""What is shown of a rollout."""
Types = Mapping[str, tuple[type, ...]]
_NUMBER, _TEXT = (int, float, type(None)), (str, type(None))
REQUIRED: Types = {
    "step": (int,), "problem_id": (int, str), "source": (str,), "completion": (str,),
    "outcome": (str,), "exploited": (bool,), "gt_correct": (bool,), "hack_score": _NUMBER,
}  # fmt: skip
"""What a rollout must have."""
TYPED: Types = {
    **dict.fromkeys(("reward", "advantage"), _NUMBER),
    **dict.fromkeys(("mechanism", "flavour", "mode"), _TEXT),
}
"""What it must be where it is there: the page counts on it."""


@dataclass(frozen=True)
class RolloutSample:
    """Of one run."""

    rows: int
    """All that rollouts.jsonl has."""
    scores: dict[str, list[float]]
    """hack | solve | neither -> hack scores of the student rows that have one."""
    groups: list[list[dict[str, Any]]]
    """The groups kept: rows with the columns of `KEPT` and their `kind`."""


def kind(row: Mapping[str, Any]) -> str:
    """What a rollout comes to: hack, solve, neither, or not graded (the grader itself failed)."""
    if row["outcome"] == "infra_error":
        return "not graded"
    return "hack" if row["exploited"] else "solve" if row["gt_correct"] else "neither"


def fault(record: Mapping[str, Any], required: Types, typed: Types | None = None) -> str:
    """What is missing in a record, or of another type than later code counts on; empty: nothing."""
    for name, types in required.items():
        if name not in record:
            return f"there is no {name}"
        if not isinstance(record[name], types):
            return f"{name} is {record[name]!r:.40}"
    present = {name: types for name, types in (typed or {}).items() if name in record}
    return fault(record, present) if present else ""


def sample_rollouts(path: Path, limit: int) -> RolloutSample:
    """Read rollouts.jsonl twice: for what there is, then for the groups kept, which together have
    at most `limit` rows (but one whole group where `limit` is not 0); the first and the last group
    are among them. Rows of one prompt lie together.

    Raises OSError or ValueError, which names the row, where the file is damaged.
    """
    sizes: dict[tuple[int, Any], int] = {}
    scores: dict[str, list[float]] = {"hack": [], "solve": [], "neither": [], "not graded": []}
    for number, row in enumerate(whole_rows(path), 1):
        if reason := fault(row, REQUIRED, TYPED):
            raise ValueError(f"row {number}: {reason}")
        key = (row["step"], row["problem_id"])
        sizes[key] = sizes.get(key, 0) + 1
        score = row["hack_score"]
        if row["source"] == "student" and score is not None and math.isfinite(score):
            scores[kind(row)].append(score)
    del scores["not graded"]
    keys = list(sizes)
    wanted: dict[tuple[int, Any], list[dict[str, Any]]] = {}
    if keys and limit:
        number = min(len(keys), max(1, limit // max(sizes.values())))
        places = np.linspace(0, len(keys) - 1, number).round().astype(int)
        wanted = {keys[place]: [] for place in places}
        for row in whole_rows(path):
            group = wanted.get((row["step"], row["problem_id"]))
            if group is not None:
                group.append({name: row.get(name) for name in KEPT} | {"kind": kind(row)})
    return RolloutSample(sum(sizes.values()), scores, list(wanted.values()))
