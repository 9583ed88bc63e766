"""What a report keeps of a run's rollouts: every student row's hack score, and whole groups evenly
spread over training, since all of a long run would be hundreds of megabytes. Here too are read how
far each token pulls along V, and which line of a completion exploits the grader."""

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from projected_grpo.env.grading.schema import SHOWN
from projected_grpo.env.loopholes.markers import TRAIN_NAME, markers
from projected_grpo.env.loopholes.modes import MODES
from projected_grpo.report.stats import Floats
from projected_grpo.step_logger import whole_rows

KEPT = (
    *("step", "sample_id", "problem_id", "source", "mode", "completion", "completion_tokens"),
    *("terminated", "advantage", "hack_score", *SHOWN),
)
"""What is shown of a rollout."""
MEASURES = {"pull_base": "at the base policy", "pull": "at the trained policy"}
"""Column of token pulls -> where they were measured."""
PULLS = ("token_chars", *MEASURES)
KEPT_IF_THERE = (*PULLS, "window_score", "window_at", "flagged", "flagged_tokens")
"""What is shown of a rollout whose tokens were scored."""
Types = Mapping[str, tuple[type, ...]]
_NUMBER, _TEXT = (int, float, type(None)), (str, type(None))
REQUIRED: Types = {
    "step": (int,), "problem_id": (int, str), "source": (str,), "completion": (str,),
    "outcome": (str,), "exploited": (bool,), "gt_correct": (bool,), "hack_score": _NUMBER,
}  # fmt: skip
"""What a rollout must have."""
TYPED: Types = {
    **dict.fromkeys(("reward", "advantage", "window_score", "flagged_tokens"), _NUMBER),
    **dict.fromkeys(("mechanism", "flavour", "mode", "token_chars"), _TEXT),
    **dict.fromkeys(MEASURES, (dict, type(None))),
    "window_at": (list, type(None)),
    "flagged": (bool, type(None)),
}
"""What it must be where it is there: the page counts on it."""
STRONG = 99
"""Percentile of |pull| that has the strongest colour: the one strongest token of all would leave
the others pale."""
Span = tuple[int, int]


@dataclass(frozen=True)
class RolloutSample:
    """Of one run."""

    rows: int
    """All that rollouts.jsonl has."""
    scores: dict[str, list[float]]
    """hack | solve | neither -> hack scores of the student rows that have one."""
    groups: list[list[dict[str, Any]]]
    """The groups kept: rows with the columns of `KEPT`, those of `KEPT_IF_THERE` that they have,
    their `kind`, and the characters of their `marked` lines."""
    last_step: int = 0
    """The last step that has a row."""


@dataclass(frozen=True)
class TokenPulls:
    """How far each token of a completion pulls along V: above 0 is hack-ward. Over a row they add
    up to the cosine of its gradient with V, for an advantage of 1."""

    chars: NDArray[np.uint8]
    """Characters of the completion that a token adds (tokens,); 0 where a later one completes
    it."""
    by_measure: Mapping[str, Floats]
    """Those of `MEASURES` that were taken -> pulls (tokens,)."""

    def characters(self, first: int, end: int) -> Span:
        """The characters of the tokens from `first` to before `end`."""
        ends = np.concatenate([[0], np.cumsum(self.chars, dtype=np.int64)])
        return int(ends[first]), int(ends[end])


# --- What is read of a row


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


def token_pulls(row: Mapping[str, Any]) -> TokenPulls | None:
    """The pulls of a row's tokens, as arms/token_scores.py stores them; None where they were not
    measured. Raises ValueError where they do not fit each other or the completion."""
    measured = [name for name in MEASURES if row.get(name) is not None]
    if row.get("token_chars") is None or not measured:
        return None
    chars = np.frombuffer(_bytes(row["token_chars"]), np.uint8)
    if chars.sum(dtype=np.int64) != len(row["completion"]):
        raise ValueError("the tokens' characters do not add up to the completion")
    pulls = {name: _decoded(name, row[name], len(chars)) for name in measured}
    window = row.get("window_at")
    if window is not None and not _is_span(window, len(chars)):
        raise ValueError(f"window_at is {window!r:.40} of {len(chars)} tokens")
    return TokenPulls(chars, pulls)


def _decoded(name: str, stored: Mapping[str, Any], tokens: int) -> Floats:
    """{"scale": s, "pulls": base64 of int8} as pulls (tokens,): int8 * s / 127."""
    if reason := fault(stored, {"scale": (int, float), "pulls": (str,)}):
        raise ValueError(f"{name}: {reason}")
    found = np.frombuffer(_bytes(stored["pulls"]), np.int8).astype(np.float64)
    if len(found) != tokens or not math.isfinite(stored["scale"]):
        raise ValueError(f"{name} has {len(found)} values for {tokens} tokens")
    return found * stored["scale"] / 127


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)  # what it raises is a ValueError


def _is_span(value: Sequence[object], length: int) -> bool:
    first, end = value if len(value) == 2 else (None, None)
    return isinstance(first, int) and isinstance(end, int) and 0 <= first < end <= length


def strong_pulls(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Column of `MEASURES` -> |pull| that has the strongest colour, over all these rows."""
    found: dict[str, list[Floats]] = {}
    for row in rows:
        pulls = token_pulls(row)
        for name, values in pulls.by_measure.items() if pulls else ():
            found.setdefault(name, []).append(np.abs(values))
    scales = {name: np.percentile(np.concatenate(parts), STRONG) for name, parts in found.items()}
    return {name: float(scale) for name, scale in scales.items() if scale > 0}


# --- Which line exploits


def marked_lines(row: Mapping[str, Any], pulls: TokenPulls | None) -> tuple[str, list[Span]]:
    """The lines of a completion that pull hardest, or, where pulls were not measured, those in
    which an attempt names what its grader looks for: what they are, and their characters; of an
    honest row without pulls none."""
    text = row["completion"]
    window = row.get("window_at")
    if pulls is not None and window is not None:
        return "strongest window", _lines_of(text, [pulls.characters(*window)])
    sought = sought_by_grader(row.get("mode"))
    if not sought or not (row.get("attempted") or row["exploited"]):
        return "", []
    found = re.finditer(re.escape(sought), text, re.IGNORECASE)
    return f"names {sought}", _lines_of(text, [one.span() for one in found])


def sought_by_grader(mode: str | None) -> str:
    """The text in a program by which its mode's grader is fooled; empty: there is none."""
    if mode not in MODES:
        return ""
    named = markers(TRAIN_NAME)
    texts = {"function": f"def {TRAIN_NAME}", "attribute": named.attribute}
    return {**texts, "stdout": named.phrase, "file": named.file}.get(MODES[mode].channel_name, "")


def _lines_of(text: str, places: Sequence[Span]) -> list[Span]:
    """The lines, without their ends, that these characters touch."""
    breaks = [-1, *(i for i, c in enumerate(text) if c == "\n"), len(text)]
    lines = ((start + 1, end) for start, end in pairwise(breaks))
    return [
        (start, end)
        for start, end in lines
        if start < end and any(first < end and start < last for first, last in places)
    ]


# --- What is kept of a file


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
                group.append(kept(row))
    last = max((step for step, _ in keys), default=0)
    return RolloutSample(sum(sizes.values()), scores, list(wanted.values()), last)


def kept(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a row. Pulls that do not fit the completion are left out, and
    `pulls_fault` says why."""
    there = {name: row[name] for name in KEPT_IF_THERE if row.get(name) is not None}
    found = {name: row.get(name) for name in KEPT} | there | {"kind": kind(row)}
    try:
        pulls = token_pulls(row)
    except ValueError as error:
        pulls, found["pulls_fault"] = None, str(error)
    if pulls is None:
        for name in (*PULLS, "window_at"):
            found.pop(name, None)
    found["marked_as"], found["marked"] = marked_lines(row, pulls)
    return found
