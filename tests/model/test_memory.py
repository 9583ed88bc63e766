"""Micro-batches by tokens, checkpointed activations, and what the estimate says against what is
kept."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_qwen
from hypothesis import given
from hypothesis import strategies as st

from projected_grpo.antipasto import Adapter, wrap
from projected_grpo.config import SmokeConfig
from projected_grpo.model.load import LanguageModel, checkpoint_layers, load
from projected_grpo.model.loss import (
    TokenBatch,
    collate,
    completion_logprobs,
    micro_batches,
)
from projected_grpo.model.memory import cache_per_token, estimate_memory, kept_per_token


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_micro_batches_are_a_partition_within_the_budget(lengths: list[int], tokens: int) -> None:
    batches = micro_batches(lengths, tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens


def uneven(device: str = "cpu", rows: int = 4) -> TokenBatch:
    g = torch.Generator().manual_seed(0)
    texts = [
        (torch.randint(4, 90, (7 + b,), generator=g).tolist(),
         torch.randint(4, 90, (30 - 3 * b,), generator=g).tolist())
        for b in range(rows)
    ]  # fmt: skip
    return collate([p for p, _ in texts], [c for _, c in texts], 1, device)


def gradients(adapter: Adapter, batch: TokenBatch) -> tuple[list[torch.Tensor], int]:
    """Of every row, and the bytes kept for them."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with adapter.rows(torch.zeros(len(batch.prompt_lens), dtype=torch.long)) as leaves:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = completion_logprobs(adapter.model, batch, 0.7).sum()
        return list(torch.autograd.grad(loss, list(leaves.values()))), sum(kept.values())


@pytest.mark.parametrize("n_runs", [1, 2])
def test_checkpointed_activations_give_the_same_gradients_and_keep_less(n_runs: int) -> None:
    adapter = wrap(tiny_qwen(torch.float64, num_hidden_layers=4), n_runs=n_runs)
    expected, whole = gradients(adapter, uneven())
    checkpoint_layers(adapter.model, True)
    got, kept = gradients(adapter, uneven())
    checkpoint_layers(adapter.model, False)
    again, whole_again = gradients(adapter, uneven())
    for one, two, three in zip(expected, got, again, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)
    assert kept < whole / 2 and whole_again == whole


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load("tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu"))


def test_what_a_token_keeps_tells_what_a_batch_keeps(lm: LanguageModel) -> None:
    adapter = wrap(lm.model, n_runs=2)
    prompts = [[5] * 20] * 6
    batch = collate(prompts, [[6] * 80] * 6, lm.pad_id)
    _, weights_and_all = gradients(adapter, batch)
    _, less = gradients(adapter, collate(prompts[:3], [[6] * 80] * 3, lm.pad_id))
    assert kept_per_token(lm, adapter) * 300 == pytest.approx(weights_and_all - less, rel=0.1)
    text = lm.model.config
    heads = 2 * text.num_key_value_heads * text.head_dim
    assert cache_per_token(lm, adapter) == 4 * heads * text.num_hidden_layers


def test_the_estimate_knows_what_bounds_a_run() -> None:
    lm = load("tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu"))
    adapter = wrap(lm.model)
    cfg = SmokeConfig()
    few, many = (
        estimate_memory(replace(cfg, micro_batch_tokens=n), lm, adapter, 100) for n in (1, 10**9)
    )
    assert few.cache == many.cache and few.model == many.model > 4 * 64 * 1024
    # A row always goes whole; no more than all rows of a step are there.
    ratio = many.training / few.training
    assert ratio == pytest.approx(cfg.prompts_per_step * cfg.group, rel=1e-3)
    checkpoint_layers(lm.model, True)
    repeated = estimate_memory(
        replace(cfg, micro_batch_tokens=10**9, checkpoint_activations=True), lm, adapter, 100
    )
    rows = cfg.prompts_per_step * cfg.group
    logits = 12 * rows * (100 + cfg.max_new) * len(lm.tokenizer)
    assert repeated.training - logits < 0.8 * (many.training - logits)  # of two layers
    parts = estimate_memory(replace(cfg, sampling_tokens=1), lm, adapter, 100)
    assert parts.cache == pytest.approx(many.cache / cfg.prompts_per_step, rel=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_estimate_bounds_the_gpus_peak(checkpointed: bool) -> None:
    lm = load("organism", revision="main", dtype=torch.bfloat16, device=torch.device("cuda"))
    adapter = wrap(lm.model)
    checkpoint_layers(lm.model, checkpointed)
    cfg = SmokeConfig(
        micro_batch_tokens=65536, prompts_per_step=32, group=8, max_new=128,
        checkpoint_activations=checkpointed,
    )  # fmt: skip
    expected = estimate_memory(cfg, lm, adapter, 128)
    torch.cuda.reset_peak_memory_stats()
    batch = collate([[5] * 128] * 256, [[6] * 128] * 256, lm.pad_id, "cuda")
    with adapter.rows(torch.zeros(256, dtype=torch.long, device="cuda")) as leaves:
        loss = completion_logprobs(lm.model, batch, 0.7).sum()
        torch.autograd.grad(loss, list(leaves.values()))
    peak = torch.cuda.max_memory_allocated()
    assert 0.7 < peak / (expected.model + expected.training) < 1.15
