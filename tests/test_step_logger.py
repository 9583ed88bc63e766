import json

import pytest

from projected_grpo.step_logger import (
    COLUMNS,
    PackLogger,
    StepLogger,
    end_table,
    glossary,
    legend,
    printed_columns,
    read_steps,
)


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


def test_runs_of_a_pack_that_differ_in_a_setting_are_not_merged(tmp_path) -> None:
    labels = ["projected k=5", "projected k=5", "projected k=32"]
    rows = [row(hack_s=(n, 8)) for n in (1, 2, 8)]
    lines: list[str] = []
    pack = PackLogger(labels, lines.append)
    pack.header()
    pack.step(rows)
    assert [line[:14].strip() for line in lines] == ["arm", "projected k=5", "projected k=32"]
    assert "3/16" in lines[1] and "8/8" in lines[2]
    runs = []
    for n, (label, seed) in enumerate(zip(labels, (41, 42, 41), strict=True)):
        StepLogger(tmp_path / f"{n}.jsonl", lines.append).step(rows[n])
        runs.append((label, seed, tmp_path / f"{n}.jsonl"))
    cells = [[c.strip() for c in line.split("|")[1:5]] for line in end_table(runs).splitlines()[2:]]
    assert cells == [
        ["projected k=5", "41", "1", "0.125 (1/8)"],
        ["projected k=5", "42", "1", "0.250 (2/8)"],
        ["projected k=5", "all", "2", "0.188 (3/16)"],
        ["projected k=32", "41", "1", "1.000 (8/8)"],
        ["projected k=32", "all", "1", "1.000 (8/8)"],
    ]


def test_an_arm_whose_curve_misleads_has_a_dagger(tmp_path) -> None:
    StepLogger(tmp_path / "s.jsonl", lambda line: None).step(row(hack_s=(1, 8)))
    runs = [(label, 1, tmp_path / "s.jsonl") for label in ("vanilla", "routed")]
    cautions = {"vanilla": "", "routed": "samples with its quarantine"}
    text = end_table(runs, cautions=cautions)
    sentence = (
        "† Judge by the evaluation, not by rates in training: routed samples with its quarantine."
    )
    assert text.endswith(f"\n\n{sentence}") and text.count("routed † |") == 2
    assert "vanilla †" not in text
    assert end_table(runs[1:], cautions={"routed": "x"}).endswith("training: routed x.")
    assert "†" not in end_table(runs[:1], cautions={"vanilla": ""}) + end_table(runs)


def test_only_columns_that_say_something_of_the_runs_are_printed() -> None:
    def headers(*has: str) -> set[str]:
        return {column.header for column in printed_columns(has)}

    assert {"cos_post", "removed"} <= headers("v", "grad")
    assert {"cos_upd", "rem_upd"} <= headers("v", "update")
    assert not headers("v", "update") & {"cos_post", "removed", "hack_t", "cos_pre_s"}
    assert not [name for name in headers("teacher") if name.startswith("cos")]
    said = " ".join(legend(printed_columns(("v", "update"))))
    assert "hack_s student rows that hack" in said and "share of AdamW's step" in said


def test_rates_are_of_as_many_steps_as_there_are(tmp_path) -> None:
    log = StepLogger(tmp_path / "s.jsonl", lambda line: None)
    for step in (1, 2, 3):
        log.step(row(step=step, hack_s=(1, 8)))
    run = [("vanilla", 1, tmp_path / "s.jsonl")]
    text = end_table(run, columns=None)
    assert "rows (last 3 steps)" in text and "0.125 (3/24)" in text
    assert "| step" not in text


def test_the_written_glossary_is_up_to_date() -> None:
    from pathlib import Path

    written = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    assert written == glossary(), "run `just metrics`"


def test_keys_are_unique() -> None:
    assert len({column.key for column in COLUMNS}) == len(COLUMNS)
