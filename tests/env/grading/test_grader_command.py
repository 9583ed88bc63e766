"""The `grade` command loses nothing: what is wrong with its arguments is said before it grades."""

import json
import os
from pathlib import Path

import pytest
from test_grader import record, solution, write_lines

from projected_grpo.cli import grade_main
from projected_grpo.env.grading.pool import Grader


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    problems = write_lines(tmp_path / "p.jsonl", record())
    row = {"problem_id": 7, "completion": f"```python\n{solution('return n')}\n```"}
    completions = write_lines(tmp_path / "c.jsonl", row)
    return ["--problems", str(problems), "--completions", str(completions), "--workers", "1"]


@pytest.fixture
def no_grading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it was graded first")

    monkeypatch.setattr(Grader, "__enter__", refuse)


def refusal(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        grade_main(argv)
    said = capsys.readouterr().err
    assert stop.value.code == 1
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


@pytest.mark.usefixtures("no_grading")
@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("folder", "exists and is not a file"),
        ("missing/o.jsonl", "its folder does not exist"),
        ("x" * 250, "cannot be written"),
        ("folder/../pipe", "exists and is not a file"),
    ],
)
def test_an_output_that_cannot_be_written_is_found_first(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str], out: str, reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    said = refusal(capsys, [*words, "--out", str(tmp_path / out)])
    assert reason in said and str(tmp_path) in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("no_grading")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--cpu-s", "0"),
        ("--cpu-s", "-1"),
        ("--cpu-s", "nan"),
        ("--cpu-s", "inf"),
        ("--memory-mb", "0"),
        ("--memory-mb", "-5"),
        ("--memory-mb", "99999999999"),
        ("--workers", "0"),
    ],
)
def test_limits_that_no_program_could_keep_are_refused(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    said = refusal(capsys, [*words, f"{option}={value}", "--out", str(tmp_path / "o.jsonl")])
    assert option in said and not (tmp_path / "o.jsonl").exists()


@pytest.mark.usefixtures("no_grading")
def test_a_function_name_without_markers_is_refused_with_its_line(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"problem_id": 7, "completion": "", "mode": "run_tests", "function_name": "my_tests"},
        {"problem_id": 7, "completion": "", "mode": "sentinel", "function_name": "my_tests"},
    ]
    write_lines(tmp_path / "c.jsonl", *rows)
    said = refusal(capsys, [*words, "--out", str(tmp_path / "o.jsonl")])
    assert "c.jsonl:2: no attribute, phrase or file" in said


def test_a_file_that_is_there_is_kept_until_all_is_graded(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o.jsonl"
    out.write_text("old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(Grader, "grade", interrupt)
        grade_main([*words, "--out", str(out), "--overwrite"])
    assert stop.value.code == 130
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "o.jsonl", "p.jsonl"]
    with pytest.raises(SystemExit) as stop:
        grade_main([*words, "--out", str(out), "--overwrite"])
    assert stop.value.code == 0
    assert json.loads(out.read_text())["gt_correct"]


@pytest.mark.usefixtures("no_grading")
def test_what_is_there_is_replaced_only_where_that_is_asked_for(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "o.jsonl").write_text("old")
    assert "add --overwrite" in refusal(capsys, [*words, "--out", str(tmp_path / "o.jsonl")])
    own = [*words, "--out", str(tmp_path / "c.jsonl"), "--overwrite"]
    assert "is the file of completions" in refusal(capsys, own)
    assert (tmp_path / "o.jsonl").read_text() == "old"


def test_graded_lines_outlive_a_place_that_became_a_folder(
    tmp_path: Path,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "o.jsonl"
    grade = Grader.grade

    def grade_and_block(self: Grader, todo: list) -> list:
        (out / "file").mkdir(parents=True)
        return grade(self, todo)

    monkeypatch.setattr(Grader, "grade", grade_and_block)
    said = refusal(capsys, [*words, "--out", str(out)])
    kept = Path(said.strip().rpartition(" ")[2])
    assert json.loads(kept.read_text())["gt_correct"]
