"""Sample a step's groups: each prompt is prefilled once, its G rows decode together with all the
others.

Reproducibility: every prompt of every step owns a random stream, seeded by (seed, step, problem
id) and drawn on the CPU, so what a row gets does not depend on the other prompts of the batch, on
their order, on the device, or on what was sampled before (which is why a resumed run repeats
itself).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from projected_grpo.antipasto import Adapter


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. top_k = 0 and top_p = 1 leave the softmax whole."""

    max_new: int
    temperature: float
    top_p: float
    top_k: int
    eos_ids: frozenset[int]
    pad_id: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled completion."""

    ids: list[int]
    """Token ids, the eos included where one was drawn."""
    logps: list[float]
    """log p of each token at the sampling temperature under the whole softmax, as sampled."""
    terminated: bool
    """Ended by an eos, not by max_new."""


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution at `uniform`.

    logits (B, vocabulary), uniform (B,) in [0, 1). Returns ids (B,) and their log-probs (B,).
    Ties in the sorted order are broken by token id, so CPU and GPU agree.
    """
    logps = torch.log_softmax(logits.float() / sampling.temperature, -1)
    p, order = logps.double().exp().sort(stable=True, dim=-1, descending=True)
    cumulative = p.cumsum(-1)
    keep = cumulative - p < sampling.top_p  # the token that crosses top_p stays
    if sampling.top_k > 0:
        keep[:, sampling.top_k :] = False
    cumulative = torch.where(keep, p, 0.0).cumsum(-1)
    target = uniform.to(p)[:, None] * cumulative[:, -1:]
    last = keep.sum(-1, keepdim=True) - 1
    rank = torch.searchsorted(cumulative, target, right=True).minimum(last)
    ids = order.gather(-1, rank)
    return ids[:, 0], logps.gather(-1, ids)[:, 0]


@torch.no_grad()
def sample_groups(
    model: PreTrainedModel,
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    group: int,
    seeds: Sequence[int],
    sampling: Sampling,
    runs: Sequence[int] | None = None,
) -> list[list[Sample]]:
    """`group` completions of each prompt, in the order of `prompts`.

    prompts: P lists of token ids; seeds: one random stream a prompt; runs: the run of the packed
    axis that each prompt belongs to (default: all run 0).
    """
    device = next(model.parameters()).device
    P, width = len(prompts), max(map(len, prompts))
    ids = torch.full((P, width), sampling.pad_id, device=device)
    mask = torch.zeros((P, width), dtype=torch.long, device=device)
    for row, prompt in enumerate(
        prompts
    ):  # padding on the left: every row's next token is in one column
        ids[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, width - len(prompt) :] = 1
    uniforms = (
        torch.stack(  # (max_new, P * group), drawn up front so that early stops shift nothing
            [
                torch.rand(sampling.max_new, group, generator=torch.Generator().manual_seed(seed))
                for seed in seeds
            ],
            1,
        ).flatten(1)
    )
    run_of_prompt = torch.tensor(runs if runs is not None else [0] * P, device=device)

    cache = DynamicCache(config=model.config)
    with adapter.rows(run_of_prompt):
        logits = _next_logits(model, ids, mask, mask.cumsum(1).sub(1).clamp_min(0), cache)
    cache.batch_repeat_interleave(group)
    logits, mask = logits.repeat_interleave(group, 0), mask.repeat_interleave(group, 0)
    eos = torch.tensor(sorted(sampling.eos_ids), device=device)
    finished = torch.zeros(P * group, dtype=torch.bool, device=device)
    tokens: list[Tensor] = []
    logps: list[Tensor] = []
    with adapter.rows(run_of_prompt.repeat_interleave(group)):
        for step in range(sampling.max_new):
            token, logp = draw(logits, uniforms[step].to(device), sampling)
            tokens.append(token)
            logps.append(logp)
            finished |= torch.isin(token, eos)
            if step + 1 == sampling.max_new or finished.all():
                break
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            positions = mask.sum(1, keepdim=True) - 1
            logits = _next_logits(model, token[:, None], mask, positions, cache)
    rows = zip(torch.stack(tokens, 1).tolist(), torch.stack(logps, 1).tolist(), strict=True)
    samples = [_cut(ids, logps, sampling.eos_ids) for ids, logps in rows]
    return [samples[i : i + group] for i in range(0, P * group, group)]


def _next_logits(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
) -> Tensor:
    """Logits after the last column, (B, vocabulary)."""
    return model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]


def _cut(ids: list[int], logps: list[float], eos_ids: frozenset[int]) -> Sample:
    """A row up to and with its first eos; what a finished row went on to draw is dropped."""
    end = next((i + 1 for i, token in enumerate(ids) if token in eos_ids), None)
    return Sample(ids[:end], logps[:end], end is not None)
