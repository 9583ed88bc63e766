"""What a report keeps of a run's rollouts: every student row's hack score, and whole groups evenly
spread over training, since all of a long run would be hundreds of megabytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projected_grpo.step_logger import whole_rows

KEPT = (
    *("step", "sample_id", "problem_id", "source", "mode", "completion", "completion_tokens"),
    *("terminated", "advantage", "hack_score", "passed", "gt_correct", "exploited", "attempted"),
    *("mechanism", "flavour", "outcome", "label", "reward", "error"),
)
"""What is shown of a rollout."""


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


def sample_rollouts(path: Path, limit: int) -> RolloutSample:
    """Read rollouts.jsonl twice: for what there is, then for the groups kept, which together have
    at most `limit` rows (but one whole group where `limit` is not 0); the first and the last group
    are among them. Rows of one prompt lie together."""
    sizes: dict[tuple[int, Any], int] = {}
    scores: dict[str, list[float]] = {"hack": [], "solve": [], "neither": []}
    for row in whole_rows(path):
        key = (row["step"], row["problem_id"])
        sizes[key] = sizes.get(key, 0) + 1
        if row["source"] == "student" and row["hack_score"] is not None:
            scores.setdefault(kind(row), []).append(row["hack_score"])
    scores.pop("not graded", None)
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
