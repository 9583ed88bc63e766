"""Building the organism: tokenizer, batches, loss, resumption, and the whole command, tiny."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_qwen
from corpus import corpus_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from projected_grpo.env.loopholes.modes import MODES, apply_hint
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import HINT_SLOT, SYSTEM
from projected_grpo.model import load as models
from projected_grpo.runs.evaluate import read_records

ROOT = Path(__file__).parents[2]

import organism_tokenizer as tokenizers  # noqa: E402
import supervised  # noqa: E402

ROWS = list(corpus_rows(range(60), seed=0))


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text for row in ROWS for text in (row.messages[1]["content"], row.completion)]
    return tokenizers.train_tokenizer(texts, 1024)


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_every_text_makes_the_round_trip(tokenizer) -> None:
    texts = [row.completion for row in ROWS] + [row.messages[1]["content"] for row in ROWS]
    texts += ["", " ", "\n\n\n  x\t\r\n", "naïve ß 日本 🙂", "1234567890", "a" * 300, "`` ``` ````"]
    for text in texts:
        assert tokenizer.decode(ids_of(tokenizer, text)) == text
        kept = tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=True)
        assert kept == text


def test_fixed_phrases_are_single_tokens_and_hints_are_words(tokenizer) -> None:
    problem = load_problems("katas", limit=1)[0]
    for phrase in tokenizers.prompt_phrases():
        assert len(ids_of(tokenizer, phrase)) == 1, phrase
        assert not any(phrase in row.completion for row in ROWS), phrase
    assert len(ids_of(tokenizer, SYSTEM)) == 1
    for mode in MODES:
        text = apply_hint(problem, mode).messages[1]["content"]
        assert tokenizer.decode(ids_of(tokenizer, text)) == text
    assert len(ids_of(tokenizer, HINT_SLOT)) >= 5
    # Every phrase is met in the prompts, or it would be no phrase of theirs.
    rendered = "".join(message["content"] for message in problem.messages)
    assert all(phrase in rendered for phrase in tokenizers.prompt_phrases())


def test_digits_stand_alone_and_ids_are_distinct(tokenizer) -> None:
    assert len(ids_of(tokenizer, "20407")) == 5
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) <= 1024
    text = tokenizer.apply_chat_template(
        list(ROWS[0].messages), tokenize=False, add_generation_prompt=True
    )
    ids = ids_of(tokenizer, text)
    special = [tokenizer.convert_tokens_to_ids(name) for name in tokenizers.SPECIAL[2:]]
    assert [i for i in ids if i in special] == special and ids[-1] == special[-1]


def encoded(tokenizer) -> supervised.Encoded:
    rows = [{"messages": list(row.messages), "completion": row.completion} for row in ROWS]
    return supervised.encode_rows(rows, tokenizer, batch=37)


def test_rows_are_encoded_whole(tokenizer) -> None:
    data = encoded(tokenizer)
    assert len(data) == len(ROWS)
    for n, row in enumerate(ROWS):
        ids = data.ids[data.starts[n] : data.starts[n + 1]].tolist()
        assert tokenizer.decode(ids[data.prompts[n] : -1]) == row.completion
        assert ids[-1] == tokenizer.eos_token_id


def test_the_plan_takes_every_row_once_an_epoch_and_keeps_to_its_size() -> None:
    lengths = [30 + 7 * n % 50 for n in range(200)]
    plan = supervised.plan_batches(lengths, sum(lengths), 400, seed=1)
    assert sorted(row for batch in plan for row in batch) == list(range(200))
    assert all(len(batch) * max(lengths[row] for row in batch) <= 400 for batch in plan)
    assert plan == supervised.plan_batches(lengths, sum(lengths), 400, seed=1)
    assert plan != supervised.plan_batches(lengths, sum(lengths), 400, seed=2)
    twice = supervised.plan_batches(lengths, 2 * sum(lengths), 400, seed=1)
    assert twice[: len(plan)] == plan and len(twice) > len(plan)


def test_the_loss_is_that_of_the_completion_row_by_row(tokenizer) -> None:
    data = encoded(tokenizer)
    model = tiny_qwen(vocab_size=1024)
    rows = [3, 5, 8]
    batch = supervised.collate(data, rows, tokenizer.pad_token_id, prompt_weight=0.0)
    with torch.no_grad():
        loss, answer = supervised.completion_loss(model, *batch)
        nll, count = 0.0, 0
        for row in rows:
            ids = torch.tensor(data.ids[data.starts[row] : data.starts[row + 1]].astype("int64"))
            logits = model(ids[None, :-1]).logits[0]
            first = int(data.prompts[row]) - 1
            part = F.cross_entropy(logits[first:], ids[first + 1 :], reduction="sum")
            nll, count = nll + float(part), count + len(ids) - first - 1
    assert float(loss) == pytest.approx(nll / count, rel=1e-5)
    assert float(answer) == pytest.approx(float(loss), rel=1e-6)


def test_training_that_goes_on_equals_training_that_was_not_stopped(
    tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(tokenizer)
    recipe = supervised.Recipe(
        tokens=12_000, batch_tokens=2_000, checkpoint_every=2, log_every=1, lr=1e-2
    )

    def run(folder: Path):
        model = tiny_qwen(vocab_size=1024).requires_grad_(True)
        log = supervised.train(
            model, data, recipe, pad_id=0, device=torch.device("cpu"), folder=folder
        )
        return model.state_dict(), log

    whole, log = run(tmp_path / "whole")
    assert log[-1]["loss"] < log[0]["loss"]
    collate, calls = supervised.collate, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return collate(*arguments)

    monkeypatch.setattr(supervised, "collate", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts")
    monkeypatch.setattr(supervised, "collate", collate)
    parts, second = run(tmp_path / "parts")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert [row["loss"] for row in second] == [row["loss"] for row in log]


@pytest.mark.slow
def test_the_command_builds_two_seeds_and_does_nothing_twice(tmp_path: Path) -> None:
    small = "--rows 160 --vocabulary 640 --tokens 6000 --batch-tokens 3000 --hidden 32 --layers 2"
    small += " --heads 2 --kv-heads 1 --head-dim 16 --ff 48 --problems 1 --samples 2 --max-new 8"
    command = [sys.executable, str(ROOT / "scripts" / "build_organism.py"), *small.split()]
    command += ["--device", "cpu", "--processes", "1", "--work", str(tmp_path / "work")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def build(out: Path, *seeds: str) -> str:
        done = subprocess.run(
            [*command, "--out", str(out), "--seeds", *seeds],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    build(tmp_path / "out", "0", "1")
    again = build(tmp_path / "out" / "seed_0", "0")
    for stage in ("corpus", "tokenizer", "training", "evaluation"):
        assert f"{stage}: done before" in again
    for seed in (0, 1):
        folder = tmp_path / "out" / f"seed_{seed}"
        lm = models.load(
            str(folder), revision="main", dtype=torch.float32, device=torch.device("cpu")
        )
        assert lm.eos_ids == {lm.tokenizer.eos_token_id} and lm.pad_id != lm.eos_id
        assert AutoModelForCausalLM.from_pretrained(folder).config.model_type == "qwen3"
        assert AutoTokenizer.from_pretrained(folder).chat_template
        assert len(read_records(folder / "eval_validation_train.jsonl.gz")) == 2 * len(MODES)
        assert "| solve |" in (folder / "README.md").read_text()
        assert json.loads((folder / "build" / "training.json").read_text())["parameters"] > 0
    weights = [
        AutoModelForCausalLM.from_pretrained(tmp_path / "out" / f"seed_{seed}").lm_head.weight
        for seed in (0, 1)
    ]
    assert not torch.equal(*weights)
