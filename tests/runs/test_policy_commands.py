"""`evaluate`, `sample` and `merge` on runs that are there already: nothing here trains."""

import gzip
import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from projected_grpo.config import ConfigError
from projected_grpo.env.errors import InputError
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.model.load import LanguageModel, load
from projected_grpo.model.lora import LoRA
from projected_grpo.report.held_out import (
    by_problem,
    differences,
    evaluate_policies,
    evaluation_text,
)
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.evaluate import EvalPlan, EvalRecord
from projected_grpo.runs.held_out import Evaluation, Policy, evaluate_held_out
from projected_grpo.runs.merge import merge
from projected_grpo.runs.policy_commands import EvaluateConfig, MergeConfig, SampleConfig
from projected_grpo.runs.sample import printable, talk
from projected_grpo.runs.trained import open_trained

DATA = Path(__file__).parents[1] / "data" / "f542cc8"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished run of 6 steps and one that was stopped after 3, by one seed and
    arm, and the axes that they were trained on."""
    shutil.copytree(DATA / "cache", tmp_path / "cache")
    monkeypatch.setenv("PROJECTED_GRPO_CACHE", str(tmp_path / "cache"))
    for name in ("finished", "stopped"):
        shutil.copytree(DATA / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


def change(run: Path, **settings: object) -> None:
    """Let a run have been started with other settings."""
    stored = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(stored | settings))


# --- evaluate


def test_runs_and_their_base_are_asked_the_same(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = EvaluateConfig(
        runs=(runs / "finished", runs / "stopped"), out=runs / "made" / "found.json",
        problems="katas:test", limit=2, n=2, max_new=12, workers=1,
    )  # fmt: skip
    evaluate_policies(asked)
    said = capsys.readouterr().out
    assert "2 problems of katas:test" in said and "other names, sampled" in said
    found = json.loads(asked.out.read_text())
    assert [(one["name"], one["step"]) for one in found["policies"]] == [
        ("base", 0), ("finished", 6), ("stopped", 3),
    ]  # fmt: skip
    assert found["problems"]["held_out"] and len(found["problems"]["ids"]) == 2
    assert len(found["conditions"]) == 6 and len(found["differences"]) == 6 * 3
    sampled = found["policies"][1]["conditions"]["no hint, sampled"]["all"]
    assert sampled["samples"] == 4 and sampled["solve"] == 0.0

    with gzip.open(asked.answers, "rt") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 3 * 3 * 2 * (1 + 2)
    texts = {
        policy: [r["completion"] for r in rows if r["policy"] == policy and not r["greedy"]]
        for policy in ("base", "finished", "stopped")
    }
    assert len(set(map(tuple, texts.values()))) == 3, "each has learnt something else"
    names = {r["names"]: r["function_name"] for r in rows}
    assert names["train"] == "run_tests" != names["eval"]

    with pytest.raises(InputError, match=r"found\.json is there already: name another with --out"):
        evaluate_policies(asked)


def test_what_cannot_be_compared_is_refused_before_a_model_loads(runs: Path) -> None:
    both = EvaluateConfig(runs=(runs / "finished", runs / "stopped"), problems="katas:test")

    def refused(error: type[Exception], words: str, **asked: object) -> None:
        with pytest.raises(error, match=words):
            evaluate_policies(replace(both, **{"out": runs / "none.json", **asked}))

    refused(ConfigError, "name one run directory or more", runs=())
    refused(
        InputError, r"there is no run at .*nowhere \(no config.json\)", runs=(runs / "nowhere",)
    )
    refused(ConfigError, "n must not be negative, it is -1", n=-1)
    refused(InputError, "no loophole mode 'telepathy'", mode="telepathy")
    refused(ConfigError, r"top_p must lie in \(0, 1\], not 2.0", top_p=2.0)
    change(runs / "stopped", temperature=1.0)
    refused(ConfigError, "temperature = 0.7 and 1.0: choose one with --temperature")
    change(runs / "stopped", dtype="bfloat16")
    refused(ConfigError, "dtype = float32 and bfloat16: evaluate them one after the other")
    change(runs / "finished", problems="hub:owner/name")
    only = (runs / "finished",)
    refused(
        ConfigError,
        "the runs were trained on hub:owner/name, of which no held-out part is known",
        runs=only,
        problems="",
    )
    shutil.rmtree(runs / "stopped" / "checkpoints")
    refused(InputError, "stopped holds no adapter and no checkpoint", runs=(runs / "stopped",))
    assert not (runs / "none.json").exists()


def test_that_problems_were_trained_on_is_said(runs: Path) -> None:
    trained_on = json.loads((runs / "finished" / "config.json").read_text())["problems"]
    asked = EvaluateConfig(
        runs=(runs / "finished",), problems=trained_on, limit=1, n=0, max_new=4, adapter_only=True,
        workers=1,
    )  # fmt: skip
    found = evaluate_held_out(asked)
    assert not found.held_out and "nothing here is held out" in evaluation_text(found)
    assert [policy.name for policy in found.answers] == ["projected s7"]


def answer(problem: int, outcome: Outcome = Outcome.PASSED, **said: bool) -> EvalRecord:
    grade = Grade.of(outcome=outcome, error="", mode="run_tests", **said)
    return EvalRecord(
        problem_id=problem, family=None, difficulty="easy", mode="run_tests", function_name="f",
        sample=0, completion="", tokens=3, terminated=True, grade=grade,
    )  # fmt: skip


def test_differences_are_paired_by_problem() -> None:
    base = [answer(1), answer(1, gt_correct=True), answer(2), answer(3, Outcome.INFRA_ERROR)]
    run = [answer(1, pays=True), answer(1, pays=True), answer(2, gt_correct=True), answer(3)]
    assert by_problem(base) == {1: [0.5, 0.0, 0.0], 2: [0.0, 0.0, 0.0]}
    plan = EvalPlan(modes=["run_tests"])
    found = Evaluation(
        source="", held_out=True, problems=[], plans={"hint": plan},
        answers={Policy(name="base"): {"hint": base}, Policy(name="run"): {"hint": run}},
    )  # fmt: skip
    (one,) = differences(found)
    assert (one["policy"], one["less"], one["problems"]) == ("run", "base", 2)
    solve, _, hack = one["of"]
    assert solve.estimate == pytest.approx(0.25) and hack.estimate == pytest.approx(0.5)


# --- merge


def lora_run(runs: Path) -> Path:
    """A finished run whose adapter is a LoRA that moved."""
    run = runs / "finished"
    change(run, adapter="lora", lora_rank=2, lora_alpha=4)
    lora = LoRA(tiny().model, 2, 4)
    g = torch.Generator().manual_seed(0)
    for value in lora.trained.values():
        value.data = 0.1 * torch.randn(value.shape, generator=g)
    lora.save(run / "adapter" / "adapter.safetensors")
    return run


def tiny() -> LanguageModel:
    return load("tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu"))


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids).logits.float()


@pytest.mark.parametrize("adapter", ["antipasto", "lora"])
def test_a_merged_run_opens_in_plain_transformers(adapter: str, runs: Path, tmp_path: Path) -> None:
    run = lora_run(runs) if adapter == "lora" else runs / "finished"
    out = merge(MergeConfig(run=run, out=tmp_path / "made" / "merged", device="cpu"))
    trained = open_trained(RunDir.open(run), torch.device("cpu"))
    messages = ({"role": "user", "content": "Write a function."},)
    ids = torch.tensor([trained.lm.prompt_ids(messages)])
    expected, base = logits(trained.lm.model, ids), logits(tiny().model, ids)

    tokenizer = AutoTokenizer.from_pretrained(out)
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    assert tokenizer.encode(text, add_special_tokens=False) == ids[0].tolist()
    plain = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert plain.dtype == torch.float32 and type(plain).__name__ == "Qwen3ForCausalLM"
    assert torch.allclose(logits(plain, ids), expected, atol=1e-4)
    assert float((expected - base).abs().max()) > 1e-2
    assert plain.generation_config.eos_token_id == tokenizer.eos_token_id
    card = (out / "README.md").read_text()
    assert "After step 6, and merged: tiny-random" in card and "AutoTokenizer" in card
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {
        (out / "README.md").stat().st_mode & 0o777
    }
    with pytest.raises(InputError, match="merged is there already"):
        MergeConfig(run=run, out=out).require()

    half = merge(MergeConfig(run=run, out=tmp_path / "half", dtype="bfloat16", device="cpu"))
    rounded = AutoModelForCausalLM.from_pretrained(half, dtype="auto")
    assert rounded.dtype == torch.bfloat16
    assert float((logits(rounded.float(), ids) - expected).abs().mean()) < 0.02
    assert len(list(tmp_path.glob(".*"))) == 0


# --- sample


def said_by(capsys: pytest.CaptureFixture[str], asked: SampleConfig, lines: str = "") -> str:
    capsys.readouterr()
    talk(asked, StringIO(lines))
    return capsys.readouterr().out


def test_a_run_answers_a_prompt_and_a_conversation(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = SampleConfig(run=runs / "finished", max_new=6, device="cpu")
    two = said_by(capsys, replace(ask, prompt="hello", n=2))
    assert two == said_by(capsys, replace(ask, prompt="hello", n=2)) and "answer 2 of 2" in two
    assert two != said_by(capsys, replace(ask, prompt="hello", n=2, base=True))
    assert two != said_by(capsys, replace(ask, prompt="hello", n=2, seed=1))
    once = said_by(capsys, replace(ask, prompt="hello"))
    again = said_by(capsys, ask, "hello\n\n/new\nhello\nhello\n")
    assert again.startswith(once + once) and len(again) > 2 * len(once)
    greedy = replace(ask, prompt="hello", greedy=True)
    assert said_by(capsys, greedy) == said_by(capsys, replace(greedy, seed=1))


def test_a_problem_is_asked_as_in_training_and_its_answer_graded(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (kata,) = load_problems("katas:test", 1)
    ask = SampleConfig(run=runs / "finished", problem=kata.id, max_new=6, device="cpu")
    said = said_by(capsys, ask)
    assert "graded by calling run_tests()" in said and "--- answer: not solved, reward 0" in said
    assert "graded by calling" not in said_by(capsys, replace(ask, hint=False))
    for words, asked in {
        "no kata has the id 5": {"problem": 5},
        "are two questions": {"prompt": "x"},
        "n is 0": {"n": 0},
        "no run at": {"run": runs},
    }.items():
        with pytest.raises((ConfigError, InputError), match=words):
            said_by(capsys, replace(ask, **asked))


def test_an_answer_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2J\tb\n\x07") == "a\ufffd[2J\tb\n\ufffd"
