"""The Python that the documentation shows runs as it stands: with the tiny model in the place of a
4B one, and a run that is there in the place of <run>. docs/trl.md's script has a slow test."""

import re
import shutil
from pathlib import Path

import pytest

from projected_grpo.arms.arms import Arm
from projected_grpo.arms.directions import REMOVED
from projected_grpo.arms.own_reward import load_reward, paid_by
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.loopholes.modes import flavour_of
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.sandbox.sandbox import Outcome

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data" / "f542cc8"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets(page: str) -> list[str]:
    return FENCE.findall((ROOT / page).read_text(encoding="utf-8"))


PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))]
OPENS = [(page, text) for page in PAGES for text in snippets(page) if "PeftModel.from_pre" in text]


@pytest.mark.parametrize(("page", "text"), OPENS, ids=[page for page, _ in OPENS])
def test_a_runs_adapter_opens_in_peft_as_it_is_shown(
    page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from projected_grpo.model.load import load

    monkeypatch.chdir(tmp_path)
    shutil.copytree(DATA / "finished" / "adapter", tmp_path / "runs" / "<run>" / "adapter")
    tiny = load("tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu"))
    tiny.model.save_pretrained(tmp_path / "Qwen" / "Qwen3-4B")  # a folder, where the text has an id
    exec(compile(text, page, "exec"), {})
    assert (tmp_path / "merged" / "model.safetensors").is_file() or "merged" not in text


def test_the_reward_of_ones_own_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = (text for text in snippets("docs/commands.md") if "def short" in text)
    (tmp_path / "rewards.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = load_reward("rewards:short")
    grade = Grade.of(outcome=Outcome.PASSED, error="", gt_correct=True, fmt_ok=True)
    (problem,) = load_problems("katas:validation", 1)
    assert own is not None and paid_by(own, "x" * 500, problem, grade).reward == 3.0


def test_the_arm_that_is_added_is_one() -> None:
    (text,) = (text for text in snippets("docs/adding.md") if "Arm(" in text)
    ((name, arm),) = eval(f"{{{text}}}", {"Arm": Arm}).items()
    assert name == "random_unit" and arm.removes in REMOVED


@pytest.mark.parametrize("text", snippets("docs/environment.md"))
def test_the_hacks_that_are_shown_have_the_flavours_that_are_said(text: str) -> None:
    told = re.match(r'# (\w+).*flavour "(\w+)"', text)
    assert told, text
    assert flavour_of(text, "Solution().total", mode=told[1]) == told[2]


def test_every_snippet_is_python() -> None:
    for page in PAGES:
        for text in snippets(page):
            compile(text if "Arm(" not in text else f"{{{text}}}", page, "exec")
