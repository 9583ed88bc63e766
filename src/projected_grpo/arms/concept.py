"""A direction in hidden states that tells the pairs' hacks from their clean sides, and how far
along it a completion lies (Wu & Tang 2026, arXiv 2604.01476).

The state of a text is that of its last token (the eos where it ended by one, as all sides of pairs
do; of a completion that was cut its last one), averaged over the outputs of the layers at 60 to
75 % of the depth. The direction is the mean over pairs of hack minus clean, not normalised, from
the base model; the score is of the policy as it is.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn

from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel, layers_of
from projected_grpo.model.loss import PromptCompletion, collate, micro_batches, tokens_at_once
from projected_grpo.pairs.pair import Pair


def concept_layers(depth: int) -> range:
    """Indices of the layers whose outputs are averaged: 22 to 27 of 36, counted from 1. A model so
    shallow that none lies at 60 to 75 % has its nearest."""
    first, last = math.ceil(0.6 * depth), math.floor(0.75 * depth)
    if first > last:
        first = last = max(1, round(0.675 * depth))
    return range(first - 1, last)


@torch.no_grad()
def last_states(
    lm: LanguageModel,
    adapter: Adapter,
    texts: Sequence[PromptCompletion],
    runs: Sequence[int],
    micro_batch_tokens: int,
) -> Tensor:
    """State of each text under its run's policy, (texts, d) float32.

    Raises InputError for a model without a list of layers.
    """
    device = lm.model.device
    layers = layers_of(lm.model, "read states from")
    lengths = [len(prompt) + len(completion) for prompt, completion in texts]
    states = torch.empty(len(texts), cast(Any, lm.model.config).hidden_size, device=device)
    for some in micro_batches(lengths, tokens_at_once(micro_batch_tokens, device)):
        prompts, completions = zip(*(texts[i] for i in some), strict=True)
        batch = collate(prompts, completions, lm.pad_id, device)
        last = batch.prompt_lens + batch.completion_lens - 1
        found: list[Tensor] = []

        def keep(module: nn.Module, args: object, output: Any, last=last, found=found) -> None:
            hidden = output[0] if isinstance(output, tuple) else output  # (B, T, d)
            found.append(hidden[torch.arange(len(last), device=hidden.device), last].float())

        of_row = torch.tensor([runs[i] for i in some], device=device)
        with ExitStack() as stack:
            for index in concept_layers(len(layers)):
                stack.callback(layers[index].register_forward_hook(keep).remove)
            stack.enter_context(adapter.rows(of_row))
            lm.model.get_decoder()(input_ids=batch.input_ids, use_cache=False)
        states[some] = torch.stack(found).mean(0)
    return states


def concept_direction(
    lm: LanguageModel, adapter: Adapter, pairs: Sequence[Pair], micro_batch_tokens: int
) -> Tensor:
    """d (hidden size,): mean over pairs of the hack's state minus the clean side's, of the policy
    of run 0. Call it before anything is learned: that is the base model then."""
    texts = [
        (lm.prompt_ids(pair.messages), lm.completion_ids(text))
        for pair in pairs
        for text in (pair.hack, pair.clean)
    ]
    states = last_states(lm, adapter, texts, [0] * len(texts), micro_batch_tokens)
    return (states[0::2] - states[1::2]).mean(0)


def pairs_direction(d: Tensor, seed: int) -> Tensor:
    """The pairs' own direction."""
    return d


def random_direction(d: Tensor, seed: int) -> Tensor:
    """A random direction of the same norm."""
    drawn = torch.randn(len(d), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn / drawn.norm()).to(d) * d.norm()


CONCEPTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "of_pairs": pairs_direction,
    "random": random_direction,
}
"""Arm.concept -> (the pairs' direction in hidden states, seed) -> the direction along which rows
are scored."""
