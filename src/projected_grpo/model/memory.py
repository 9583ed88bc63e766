"""What a run needs of memory at least, from two short forward passes of the very model at its
start.

A table of formulas would have to know every architecture; what autograd keeps for one more token
can be counted instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from projected_grpo.config import Config
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel, checkpoint_layers
from projected_grpo.model.loss import collate, completion_logprobs, logits_at_once, tokens_at_once

PROBE = 64
"""Tokens of the shorter probe."""
TRANSIENT = 1.1
"""What a layer's backward holds for a moment on top of what was kept for it."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes on the device at the two peaks of a step."""

    model: int
    """Weights and adapters."""
    cache: int
    """Keys and values of the rows that are sampled at once."""
    training: int
    """Activations of one micro-batch, of rows or of pairs."""

    @property
    def peak(self) -> int:
        """Extraction, sampling and training follow one another, so the largest counts."""
        return self.model + max(self.cache, self.training)

    def __str__(self) -> str:
        parts = (self.model, self.cache, self.training, self.peak)
        model, cache, training, peak = (f"{part / 2**30:.2f}" for part in parts)
        return (
            f"at least {peak} GiB: model {model} and the larger of cache {cache} and "
            f"micro-batch {training}"
        )


def estimate_memory(
    cfg: Config,
    lm: LanguageModel,
    adapter: Adapter,
    longest_prompt: int,
    answers: Sequence[int] = (),
) -> MemoryEstimate:
    """Of a run, or of a pack, whose longest prompt has so many tokens; the caller's random state
    and gradients stay as they are.

    answers: the lengths of those that V is extracted from.
    """
    rows = cfg.prompts_per_step * adapter.n_runs
    row = longest_prompt + cfg.max_new
    sampled = cfg.student_rows_most
    columns = min(max(cfg.sampling_tokens, sampled * row), rows * sampled * row)
    at_once = tokens_at_once(cfg.micro_batch_tokens, lm.model.device)
    trained = min(max(at_once, row), rows * cfg.group * row)
    if answers:
        longest = max(answers)
        trained = max(trained, min(max(at_once, longest), len(answers) * longest))
    kept = TRANSIENT * trained * kept_per_token(lm, adapter)
    if cfg.checkpoint_activations:  # one layer is computed again at a time, as it was first
        layers = lm.model.config.get_text_config().num_hidden_layers
        checkpoint_layers(lm.model, False)
        kept += TRANSIENT * trained * kept_per_token(lm, adapter) / layers
        checkpoint_layers(lm.model, True)
    at_a_time = min(logits_at_once(lm.model.device), trained * len(lm.tokenizer))
    logits = 3 * 4 * at_a_time  # three in float32
    # Of a factored module the dense W stays in the CPU's memory, for merging.
    aside = [weight for weight in adapter.aside if weight.device == lm.model.device]
    return MemoryEstimate(
        model=_unique_bytes([*lm.model.parameters(), *lm.model.buffers(), *aside])
        + adapter.to_come,
        # The prompts' own cache, one row a group, is there beside its copies at first.
        cache=round(columns * (1 + 1 / sampled) * cache_per_token(lm, adapter)),
        training=round(kept) + logits,
    )


def kept_per_token(lm: LanguageModel, adapter: Adapter) -> float:
    """Bytes that autograd keeps for one more token of a row."""
    return (_kept(lm, adapter, 2 * PROBE) - _kept(lm, adapter, PROBE)) / PROBE


def _kept(lm: LanguageModel, adapter: Adapter, tokens: int) -> int:
    device = lm.model.device
    seen: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        # Without its history, of which it would be a part that holds the whole.
        seen.append(tensor.detach())  # held until counted, so that no address is used twice
        return seen[-1]

    ids = [lm.eos_id] * (tokens // 2)
    batch = collate([ids], [ids], lm.pad_id, device)
    with (
        adapter.rows(torch.zeros(1, dtype=torch.long, device=device)),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        logp = completion_logprobs(lm.model, batch, 1.0)
    total = _unique_bytes(seen)
    del logp
    return total


@torch.no_grad()
def cache_per_token(lm: LanguageModel, adapter: Adapter) -> float:
    """Bytes of keys and values for one token of a row; layers with a state of fixed size have
    none."""
    device = lm.model.device
    cache = DynamicCache(config=lm.model.config)
    ids = torch.full((1, PROBE), lm.eos_id, device=device)
    with adapter.rows(torch.zeros(1, dtype=torch.long, device=device)):
        lm.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    grown = [layer for layer in cache.layers if type(layer) is DynamicLayer]
    parts = [part for layer in grown for part in (layer.keys, layer.values)]
    return sum(part.nbytes for part in parts if part is not None) / PROBE


def _unique_bytes(tensors: Sequence[Tensor]) -> int:
    """Of the storages behind these tensors, each counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
