"""Decoding in fixed memory gives what a growing cache gives, on the GPU from a graph."""

import pytest
import torch
from conftest import tiny_qwen
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from projected_grpo.antipasto import Adapter, wrap
from projected_grpo.model import decode
from projected_grpo.model.decode import FixedDecoder, GrowingDecoder, make_decoder, next_logits

GROUP, MAX_NEW = 3, 40
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def prefill(model: PreTrainedModel, mask: Tensor, ids: Tensor) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    next_logits(model, ids, mask, mask.cumsum(1).sub(1).clamp_min(0), cache)
    return cache


def decoded(adapter: Adapter, kind: str, device: str) -> list[Tensor]:
    """Logits after each of 30 given tokens; two rows leave after the tenth."""
    model = adapter.model
    assert isinstance(model, PreTrainedModel)
    g = torch.Generator().manual_seed(5)
    ids = torch.randint(4, 90, (2, 6), generator=g).to(device)
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]], device=device)
    given = torch.randint(4, 90, (30, 2 * GROUP), generator=g).to(device)
    runs = torch.tensor([0, 1], device=device).repeat_interleave(GROUP)
    with torch.no_grad():
        with adapter.rows(runs[::GROUP]):
            cache = prefill(model, mask, ids)
        if kind == "fixed":
            decoder = FixedDecoder(model, cache, mask, GROUP, MAX_NEW)
        else:
            decoder = GrowingDecoder(model, cache, mask, GROUP)
        everyone = torch.arange(2 * GROUP, device=device)
        staying = torch.tensor([0, 2, 3, 5], device=device)
        with adapter.rows(runs):
            logits = [decoder.step(token[everyone]).clone() for token in given[:10]]
        decoder.keep(staying)
        with adapter.rows(runs[staying]):
            logits += [decoder.step(token[staying]).clone() for token in given[10:]]
    return logits


@pytest.mark.parametrize("device", DEVICES)
def test_fixed_memory_gives_the_logits_of_a_growing_cache(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(decode.WINDOW, "cpu", 8)  # the window widens several times
    adapter = wrap(tiny_qwen(), n_runs=2)
    adapter.model.to(device)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for delta in adapter.delta_S.values():
            delta.copy_(torch.randn(delta.shape, generator=g) * 0.2)
    pairs = zip(decoded(adapter, "fixed", device), decoded(adapter, "growing", device), strict=True)
    for number, (fixed, growing) in enumerate(pairs):
        assert len(fixed) == (6 if number < 10 else 4)
        assert torch.allclose(fixed, growing, atol=1e-4), number


def test_other_layers_than_full_attention_keep_the_growing_cache() -> None:
    config = Qwen2Config(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, use_sliding_window=True, sliding_window=4,
        layer_types=["full_attention", "sliding_attention"],
    )  # fmt: skip
    mask, ids = torch.ones(2, 6, dtype=torch.long), torch.arange(12).view(2, 6)
    with torch.no_grad():
        sliding = Qwen2ForCausalLM(config).eval()
        kinds = [
            type(make_decoder(model, prefill(model, mask, ids), mask, 2, 8))
            for model in (sliding, tiny_qwen())
        ]
    assert kinds == [GrowingDecoder, FixedDecoder]
