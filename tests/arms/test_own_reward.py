"""A reward of one's own: found, called, recorded."""

import sys
from pathlib import Path

import pytest

from projected_grpo.arms.advantages import grade_rows
from projected_grpo.arms.own_reward import describe_reward, load_reward
from projected_grpo.arms.rows import Row
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.env.problems.load import load_problems
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.session import Grader

MODULE = """
def short(text, problem, grade):
    assert problem.id and not grade.passed
    return 10 - len(text)

def text_only(text): return 0
def nothing(text, problem, grade): return None
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with modules, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_rewards.py").write_text(MODULE)
    (tmp_path / "half_a_module.py").write_text("def f(:\n")
    (tmp_path / "needs_more.py").write_text("import not_there_at_all\n")
    load_reward.cache_clear()
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)  # of the test before
    return tmp_path


def test_it_takes_the_place_of_the_graders(folder: Path) -> None:
    (problem,) = load_problems("katas:validation", 1)

    def group() -> list[Row]:
        return [Row(problem, "student", [], [1], True, None, text) for text in ("a", "abc")]

    rows, nothing = group(), group()
    with Grader(workers=1) as grader:
        grade_rows([SmokeConfig(reward="my_rewards:short", group=2)], grader, [rows], 1)
        with pytest.raises(
            InputError, match=rf"my_rewards:nothing .* {problem.id} is None: it must"
        ):
            grade_rows([SmokeConfig(reward="my_rewards:nothing")], grader, [nothing], 1)
    assert [row.grade.reward for row in rows] == [9.0, 7.0]
    assert [row.advantage for row in rows] == [1.0, -1.0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:f", "there is no module no_such_module in"),
        ("my_rewards.inner:f", "there is no module my_rewards.inner in"),
        ("my_rewards:shorter", "my_rewards has no function shorter; did you mean short?"),
        ("my_rewards:number", "has no function number"),
        ("my_rewards:text_only", r"called with \(text, problem, grade\), which it does not take"),
        ("half_a_module:f", "half_a_module is not Python"),
        ("needs_more:f", "needs_more imports not_there_at_all, which is not installed"),
    ],
)
def test_what_cannot_be_called_is_one_sentence(name: str, words: str, folder: Path) -> None:
    with pytest.raises(InputError, match=words):
        load_reward(name)


@pytest.mark.parametrize("name", ["my_rewards", "my_rewards:", ":f", "a b:f", "my/rewards.py:f"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not module:function"):
        SmokeConfig(reward=name)


def test_a_run_is_not_resumed_with_another_file(folder: Path) -> None:
    was = describe_reward("my_rewards:short")
    assert was and was["name"] == "my_rewards:short" and was["file"].endswith("my_rewards.py")
    assert describe_reward("") is None
    run = RunDir(folder / "run")
    run.path.mkdir()
    run._write_record({"reward": was})
    run.require_reward(was)
    (folder / "my_rewards.py").write_text(MODULE + "# changed\n")
    with pytest.raises(InputError, match=r"reward my_rewards:short .* was changed since"):
        run.require_reward(describe_reward("my_rewards:short"))
