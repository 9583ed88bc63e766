"""What is read of rollouts whose tokens were scored: records made by hand."""

import base64
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projected_grpo.report.rollouts import (
    kept,
    line_spans,
    marked_lines,
    places_of,
    sample_rollouts,
    strong_pulls,
    token_pulls,
)

HACK = "Here:\n```python\ndef f(x):\n    return 1\n\ndef run_tests():\n    pass\n```"


def packed(values: list[int], kind: type = np.uint8) -> str:
    return base64.b64encode(np.array(values, kind).tobytes()).decode()


def measured(values: list[int], scale: float = 0.127) -> dict[str, Any]:
    return {"scale": scale, "pulls": packed(values, np.int8)}


def rollout(completion: str = "ab\ncd", **columns: Any) -> dict[str, Any]:
    row = {"step": 1, "sample_id": "1/0", "problem_id": 7, "source": "student", "outcome": "passed"}
    row |= {"exploited": False, "gt_correct": True, "hack_score": 0.5, "mode": "run_tests"}
    return row | {"completion": completion} | columns


def test_pulls_are_read_as_they_are_stored() -> None:
    chars = packed([2, 0, 2, 1])  # the second token is part of a character
    row = rollout(token_chars=chars, pull_base=measured([127, -127, 1, 0]))
    found = token_pulls(row)
    assert found is not None and list(found.by_measure) == ["pull_base"]
    assert np.allclose(found.by_measure["pull_base"], [0.127, -0.127, 0.001, 0])
    assert found.characters(0, 2) == (0, 2) and found.characters(1, 3) == (2, 4)
    both = token_pulls({**row, "pull": measured([0, 0, 0, -128], 1.0)})
    assert both is not None and both.by_measure["pull"][3] == pytest.approx(-128 / 127)
    assert token_pulls(rollout()) is None and token_pulls(rollout(token_chars=chars)) is None


@given(st.text(), st.data())
def test_a_window_has_the_characters_that_its_tokens_add(text: str, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    edges = [0, *cuts, len(text)]
    chars = np.diff(edges).tolist()
    found = token_pulls(rollout(text, token_chars=packed(chars), pull=measured([0] * len(chars))))
    assert found is not None
    for first in range(len(chars)):
        start, end = found.characters(first, first + 1)
        assert (start, end) == (edges[first], edges[first + 1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token_chars": packed([2, 2])}, "do not add up to the completion"),
        ({"token_chars": "?"}, ""),
        ({"token_chars": "\u00e4"}, ""),
        ({"pull": measured([1])}, "pull has 1 values for 2 tokens"),
        ({"pull": {"pulls": ""}}, "pull: there is no scale"),
        ({"pull": {"scale": 1.0, "pulls": 3}}, "pull: pulls is 3"),
        ({"pull": measured([1, 2], float("nan"))}, "pull has 2 values"),
        ({"window_at": [1, 3]}, "window_at is [1, 3] of 2 tokens"),
        ({"window_at": [1, 1]}, "window_at is [1, 1]"),
        ({"window_at": [0.0, 1]}, "window_at is [0.0, 1]"),
        ({"window_at": [0]}, "window_at is [0]"),
    ],
)
def test_pulls_that_do_not_fit_are_left_out_with_the_reason(change: dict, said: str) -> None:
    row = rollout(token_chars=packed([2, 3]), pull=measured([1, 2]), window_at=[0, 2])
    assert "pulls_fault" not in kept(row) and kept(row)["token_chars"] == packed([2, 3])
    shown = kept(row | change)
    assert said in shown["pulls_fault"] and shown["completion"] == row["completion"]
    assert not {"token_chars", "pull", "window_at"} & shown.keys()


def test_the_lines_of_the_strongest_window_are_marked_where_no_attempt_is_seen() -> None:
    chars = [len(line) for line in HACK.splitlines(keepends=True)]
    row = rollout(HACK, token_chars=packed(chars), pull_base=measured([0] * 2 + [90, 30] + [0] * 4))
    row |= {"window_at": [2, 4]}
    said, lines = marked_lines(row, token_pulls(row))
    assert said == "strongest window"
    assert [HACK[start:end] for start, end in lines] == ["def f(x):", "    return 1"]
    said, lines = marked_lines(row | {"attempted": True}, token_pulls(row))
    assert said == "defines run_tests, which its grader calls"
    assert [HACK[start:end] for start, end in lines] == ["def run_tests():", "    pass"]
    assert marked_lines(rollout(HACK), None) == ("", [])


def test_lines_of_a_program_are_found_in_the_answer_that_it_was_read_from() -> None:
    text = "draft\n```python\nx = 1\n```\nso\r\n- ```python\r  x = 1\r\n\n  y = 2\n```"
    found = places_of(text, "x = 1\n\ny = 2", [(1, 1), (1, 3)])
    assert [text[start:end] for start, end in found] == ["  x = 1", "  y = 2"]
    assert places_of(text, "z = 1", [(1, 1)]) == []


@given(st.text(st.sampled_from("a \r\n\u2028\x0c"), max_size=30))
def test_lines_and_their_ends_are_the_text(text: str) -> None:
    spans = line_spans(text)
    assert len(spans) == len(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    assert all(text[a[1] : b[0]] in ("\n", "\r", "\r\n") for a, b in pairwise(spans))


def test_one_outlier_does_not_make_all_other_pulls_pale() -> None:
    row = rollout("x" * 200, token_chars=packed([1] * 200))
    rows = [row | {"pull": measured([10] * 199 + [127], 1.27)}, rollout()]
    assert strong_pulls(rows) == {"pull": pytest.approx(0.1)}
    assert strong_pulls([row | {"pull": measured([0] * 200)}]) == {}


def test_a_sample_has_what_a_row_has_of_its_tokens(tmp_path: Path) -> None:
    some = {"token_chars": packed([5]), "pull": measured([1]), "window_score": 0.1}
    some |= {"window_at": [0, 1], "flagged": True, "flagged_tokens": 3}
    rows = [rollout(**some), rollout(sample_id="1/1", pull_base=None)]
    path = tmp_path / "rollouts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ((scored, plain),) = sample_rollouts(path, 8).groups
    assert {name: scored[name] for name in some} == some
    assert not some.keys() & plain.keys() and sample_rollouts(path, 8).last_step == 1
    path.write_text(json.dumps(rollout(flagged="yes")) + "\n")
    with pytest.raises(ValueError, match="row 1: flagged is 'yes'"):
        sample_rollouts(path, 8)
