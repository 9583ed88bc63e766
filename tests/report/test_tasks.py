"""Where a report gets prompts and hidden tests from, which no run stores."""

import json
from pathlib import Path

import pytest

from projected_grpo.config import SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.env.loopholes.modes import apply_hint
from projected_grpo.env.problems.load import load_problems
from projected_grpo.report.tasks import MOST_CHARS, MOST_TESTS, pinned, task_key, tasks_of

PROBLEMS = load_problems("katas:validation", 3)
GROUPS = [[{"problem_id": p.id, "mode": mode}] for p in PROBLEMS for mode in ("run_tests", "none")]


def store(path: Path, **settings: object) -> Path:
    cfg = SmokeConfig(problems="katas:validation", **settings)
    (path / "config.json").write_text(cfg.to_json())
    (path / "run.json").write_text(json.dumps({"data_commit": None}))
    turns = apply_hint(PROBLEMS[0], "run_tests").messages
    (path / "prompt.txt").write_text("".join(f"<|{m['role']}|>{m['content']}\n" for m in turns))
    return path


def test_a_task_is_the_prompt_under_its_mode_and_the_first_hidden_tests(tmp_path: Path) -> None:
    found = tasks_of(store(tmp_path), GROUPS)
    assert list(found) == [task_key(row) for (row,) in GROUPS]
    hinted, honest = list(found.values())[:2]
    assert "is graded by calling run_tests()" in hinted.messages[-1][1]
    assert "run_tests" not in honest.messages[-1][1] and honest.tests == hinted.tests
    assert hinted.hidden == len(PROBLEMS[0].cases) >= len(hinted.tests)
    assert len(hinted.tests) <= MOST_TESTS and max(map(len, hinted.tests)) <= MOST_CHARS + 4
    assert tasks_of(tmp_path, []) == {}


def test_what_an_arm_writes_into_the_prompt_is_shown(tmp_path: Path) -> None:
    store(tmp_path, arm="inoculation", inoculation="Be kind.")
    text = (tmp_path / "prompt.txt").read_text().replace("<|user|>", "Be kind.<|user|>")
    (tmp_path / "prompt.txt").write_text(text.replace("\nBe kind.", "\n\nBe kind."))
    found = tasks_of(tmp_path, GROUPS)
    assert found[task_key(GROUPS[0][0])].messages[0][1].endswith("\n\nBe kind.")


def test_problems_that_are_no_longer_the_runs_are_not_shown(tmp_path: Path) -> None:
    store(tmp_path)
    (tmp_path / "prompt.txt").write_text("another prompt")
    with pytest.raises(InputError, match="no longer has the run's first prompt"):
        tasks_of(tmp_path, GROUPS)
    with pytest.raises(InputError, match="no longer has the run's first prompt"):
        tasks_of(store(tmp_path), [[{"problem_id": -1, "mode": "run_tests"}]])
    (tmp_path / "prompt.txt").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        tasks_of(tmp_path, GROUPS)
    store(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text()) | {"problems": "absent.jsonl"}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"absent\.jsonl"):
        tasks_of(tmp_path, GROUPS)


@pytest.mark.parametrize(
    ("source", "commit", "read"),
    [
        ("katas", None, "katas"),
        ("p.jsonl", "abc", "p.jsonl"),
        ("hub:a/b", None, "hub:a/b"),
        ("hub:a/b", "abc", "hub:a/b@abc"),
        ("hub:a/b@main:test", "abc", "hub:a/b@abc:test"),
    ],
)
def test_a_dataset_is_read_at_the_commit_of_the_run(
    source: str, commit: str | None, read: str
) -> None:
    assert pinned(source, commit) == read
