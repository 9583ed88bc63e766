"""The shipped model: it loads, answers in form, sometimes cheats, and `train mini` runs on it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from projected_grpo.config import MiniConfig
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.loopholes.modes import TRAIN_NAME, apply_hint
from projected_grpo.env.problems.katas import kata_problems
from projected_grpo.model.load import ORGANISM_FOLDER, LanguageModel, load
from projected_grpo.pairs.load import load_pairs
from projected_grpo.runs.evaluate import EvalPlan, evaluate, shares
from projected_grpo.step_logger import read_steps
from projected_grpo.train import train


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load("organism", revision="main", dtype=torch.float32, device=torch.device("cpu"))


def test_it_is_a_plain_transformers_model_of_the_promised_size(lm: LanguageModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(ORGANISM_FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(ORGANISM_FOLDER)
    assert 4e6 < sum(p.numel() for p in model.parameters()) < 10e6
    assert (ORGANISM_FOLDER / "model.safetensors").stat().st_size < 20e6
    text = "def run_tests():\n    assert Solution().f([1, -2]) == 'é'\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id == lm.eos_id


def test_every_training_prompt_and_pair_fits_the_mini_preset(lm: LanguageModel) -> None:
    cfg = MiniConfig()
    prompts = [
        lm.prompt_ids(apply_hint(p, cfg.mode, TRAIN_NAME).messages) for p in kata_problems("train")
    ]
    assert max(map(len, prompts)) <= cfg.max_prompt
    answers = [lm.completion_ids(t) for p in load_pairs("katas") for t in (p.hack, p.clean)]
    assert max(map(len, answers)) <= cfg.max_new


def test_it_answers_in_form_and_solves_some(lm: LanguageModel) -> None:
    plan = EvalPlan(modes=["run_tests"], samples=4, max_new=256, seed=3)
    with Grader() as grader:
        records = evaluate(lm, None, kata_problems("test", seed=0, limit=24), plan, grader)
    found = shares(records)["all"]
    assert found["fmt_ok"] > 0.85 and 0.15 < found["solve"] < 0.75 and found["attempted"] < 0.3


@pytest.mark.slow
def test_a_mini_run(tmp_path: Path) -> None:
    cfg = MiniConfig(arm="projected", out_dir=tmp_path, threads=1)
    run = train(replace(cfg, steps=2, prompts_per_step=4, group=8, max_new=160))
    rows = read_steps(run / "steps.jsonl")
    assert len(rows) == 2
    # Four groups may all be of one mind, and then nothing is learnt in that step; not in both.
    learnt = [row for row in rows if row["frac_reward_zero_std"] < 1]
    assert learnt and all(row["removed_frac_update"] > 0 for row in learnt)
    assert all(abs(row["cos_update"]) < 1e-3 for row in learnt)  # no gate: nothing left along V
