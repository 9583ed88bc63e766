import json

import pytest

from projected_grpo.step_logger import COLUMNS, StepLogger, glossary, read_steps


def row(**values):
    return {column.key: values.get(column.key) for column in COLUMNS} | {"step": 1} | values


def test_raw_values_survive_to_the_final_table_and_fractions_become_text_only_there(
    tmp_path,
) -> None:
    lines: list[str] = []
    log = StepLogger(tmp_path / "steps.jsonl", lines.append)
    log.step(row(loss=7e-08, hack_s=(3, 8), cos_pre=-0.123456789, learning_rate=1 / 3))
    stored = json.loads((tmp_path / "steps.jsonl").read_text())
    assert stored["loss"] == 7e-08 and stored["hack_s"] == [3, 8]
    assert stored["cos_pre"] == -0.123456789 and stored["learning_rate"] == 1 / 3
    (again,) = read_steps(tmp_path / "steps.jsonl")
    assert again["hack_s"] == (3, 8) and again["loss"] == 7e-08
    table = log.table()
    for text in ("7e-08", "3/8", "-0.123"):
        assert text in table and text in lines[0]


def test_header_and_rows_line_up(tmp_path) -> None:
    lines: list[str] = []
    log = StepLogger(tmp_path / "steps.jsonl", lines.append)
    log.header()
    log.step(
        row(loss=-1.23e-05, hack_s=(12, 16), grad_norm=123456.0, cos_pre_s=-0.5, learning_rate=3e-3)
    )
    assert len(lines[0]) == len(lines[1])
    assert lines[0].split()[:7] == ["step", "rew", "hack_s", "att_s", "hack_t", "gt_s", "gt_t"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(bad: float, tmp_path) -> None:
    with pytest.raises(ValueError, match="loss is"):
        StepLogger(tmp_path / "s.jsonl", print).step(row(loss=bad))
    assert not (tmp_path / "s.jsonl").exists()


def test_a_row_must_have_exactly_the_declared_columns(tmp_path) -> None:
    log = StepLogger(tmp_path / "s.jsonl", print)
    with pytest.raises(ValueError, match="extra"):
        log.step({**row(), "extra": 1})
    incomplete = row()
    del incomplete["loss"]
    with pytest.raises(ValueError, match="loss"):
        log.step(incomplete)


def test_the_written_glossary_is_up_to_date() -> None:
    from pathlib import Path

    written = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    assert written == glossary(), "run `just metrics`"


def test_keys_are_unique() -> None:
    assert len({column.key for column in COLUMNS}) == len(COLUMNS)
