"""What a report keeps of a run's rollouts: every student row's hack score, and whole groups evenly
spread over training, since all of a long run would be hundreds of megabytes. Here too are read how
far each token pulls along V, and which line of a completion exploits the grader."""

import base64
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from projected_grpo.env.grading.schema import SHOWN_FACTS
from projected_grpo.env.loopholes.exploits import exploiting_lines, what_is_sought
from projected_grpo.env.parsing import extract_code
from projected_grpo.report.stats import Floats
from projected_grpo.step_logger import whole_rows

KEPT = (
    *("step", "sample_id", "problem_id", "source", "mode", "completion", "completion_tokens"),
    *("terminated", "advantage", "hack_score", *SHOWN_FACTS),
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
    **dict.fromkeys(("flavour", "mode", "token_chars"), _TEXT),
    **dict.fromkeys(MEASURES, (dict, type(None))),
    "window_at": (list, type(None)),
    "flagged": (bool, type(None)),
}
"""What it must be where it is there: the page counts on it."""
STRONG = 99
"""Percentile of |pull| that has the strongest colour: the one strongest token of all would leave
the others pale."""
STRONGEST_WINDOW = "strongest window"
"""What the marked lines are called that no syntax tree gave."""
Span = tuple[int, int]
_LINE_END = re.compile(r"\r\n|\r|\n")


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
    last_rows: int = 0
    """Rows of that step."""
    most_rows: int = 0
    """Rows of the step that has most."""


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
    """The lines of an attempt that use what its grader looks at, as its syntax tree has them; where
    none is to be seen, and in other rows, those that pull hardest, if pulls were measured: what
    they are, and their characters."""
    text, mode = row["completion"], row.get("mode") or ""
    if row.get("attempted") or row["exploited"]:
        code = extract_code(text) or ""
        if found := places_of(text, code, exploiting_lines(code, mode)):
            return what_is_sought(mode), found
    window = row.get("window_at")
    if pulls is None or window is None:
        return "", []
    return STRONGEST_WINDOW, _touched(line_spans(text), [pulls.characters(*window)])


def places_of(text: str, code: str, lines: Sequence[tuple[int, int]]) -> list[Span]:
    """The characters of these lines (first, last; from 1) of a program in the completion that it
    was read from; of several places the last, since drafts come before."""
    spans = line_spans(text)
    there = [text[start:end].strip() for start, end in spans]
    program = [code[start:end].strip() for start, end in line_spans(code)]
    found: list[Span] = []
    for first, last in lines:
        wanted = program[first - 1 : last]
        for place in range(len(there) - len(wanted), -1, -1):
            if there[place : place + len(wanted)] == wanted:
                found += [one for one in spans[place : place + len(wanted)] if one[0] < one[1]]
                break
    return sorted({*found})


def line_spans(text: str) -> list[Span]:
    """The lines of a text as Python counts them, without their ends: first character and end."""
    ends = [(one.start(), one.end()) for one in _LINE_END.finditer(text)]
    starts = [0, *(after for _, after in ends)]
    return list(zip(starts, [*(before for before, _ in ends), len(text)], strict=True))


def _touched(lines: Sequence[Span], places: Sequence[Span]) -> list[Span]:
    """Those of the lines that these characters touch, but for empty ones."""
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
    by_step: Counter[int] = Counter()
    for (step, _), size in sizes.items():
        by_step[step] += size
    last, most = max(by_step, default=0), max(by_step.values(), default=0)
    groups = list(wanted.values())
    return RolloutSample(by_step.total(), scores, groups, last, by_step[last], most)


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
