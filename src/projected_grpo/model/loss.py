"""The GRPO loss as pure functions (Dr.GRPO, arXiv 2503.20783; clip as in PPO, arXiv 1707.06347).

Deviations from textbook GRPO (arXiv 2402.03300), each on purpose:
- A = R - mean of the group; no division by its standard deviation.
- The loss is a sum over tokens divided by the constant G * max_new * prompts_per_step: long
  answers are not diluted, and skipping a group does not make the others count more.
- A group without reward variance adds nothing, not even KL; the constant stays.
- A masked sample (infra_error) is out of its group's mean and of the loss.
- Teacher rows have ratio 1 by definition: advantage-weighted imitation, not off-policy correction.

Axes: P prompts, G group, B rows of a micro-batch, T tokens (padded), C completion tokens (padded).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

PromptCompletion = tuple[list[int], list[int]]
"""Prompt ids and completion ids; the eos is among these where the completion ends by one."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows padded on the right: prompt, completion, padding."""

    input_ids: Tensor  # (B, T)
    prompt_lens: Tensor  # (B,)
    completion_lens: Tensor  # (B,)

    @property
    def completion_mask(self) -> Tensor:
        """(B, C) bool, from lengths only: a pad or eos *value* never decides what is trained on."""
        C = int(self.completion_lens.max())
        return torch.arange(C, device=self.input_ids.device) < self.completion_lens[:, None]


def collate(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device | str = "cpu",
) -> TokenBatch:
    """Concatenate prompt and completion ids row by row and pad on the right.

    Raises ValueError for an empty prompt or completion: there would be nothing to condition on or
    learn.
    """
    if not all(prompts) or not all(completions):
        raise ValueError("every row needs at least one prompt token and one completion token")
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    T = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (T - len(row))] for row in rows])
    lens = torch.tensor([len(row) for row in rows])
    prompt_lens = torch.tensor([len(prompt) for prompt in prompts])
    return TokenBatch(ids.to(device), prompt_lens.to(device), (lens - prompt_lens).to(device))


def tokens_at_once(asked: int, device: torch.device) -> int:
    """`micro_batch_tokens` as it is asked for, or for 0 what suits the device: a CPU is busy with a
    few hundred tokens of a real model, and more of them take more memory only."""
    return asked or (512 if device.type == "cpu" else 4096)


def micro_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Rows of these lengths in batches of at most `tokens` tokens, padding included; indices.

    Rows of like length share a batch; the longest come first, so that memory that does not suffice
    is found out at once. A row longer than `tokens` goes alone.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


class _TokenLogprobs(torch.autograd.Function):
    """log p of one target a position under a frozen linear head, never with all logits at once.

    The gradient of log p_t to its hidden state, (W[target] - sum_v p_v W_v) / temperature, does not
    depend on what follows, so it is made in the forward pass and nothing is computed twice: what is
    kept is (n, d) instead of (n, vocabulary).
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, chunk):
        exact = torch.promote_types(hidden.dtype, torch.float32)
        logp = torch.empty(len(hidden), dtype=exact, device=hidden.device)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), chunk):
            some = slice(start, start + chunk)
            logits = F.linear(hidden[some], weight).to(exact).div_(temperature)
            total = torch.logsumexp(logits, -1, keepdim=True)
            target = targets[some, None]
            logp[some] = (logits.gather(-1, target) - total)[:, 0]
            if slope is not None:
                p = logits.sub_(total).exp_().neg_()
                p.scatter_add_(-1, target, torch.ones_like(target, dtype=exact))
                slope[some] = (p.to(weight.dtype) @ weight).div_(temperature)
        ctx.save_for_backward(slope)
        return logp

    @staticmethod
    def backward(ctx, *grads):
        (slope,) = ctx.saved_tensors
        return (grads[0][:, None] * slope).to(slope.dtype), None, None, None, None


def logits_at_once(device: torch.device) -> int:
    """Logits in memory at once: 64 MiB of them in float32; on a GPU, which such small products
    leave idle, 256 MiB."""
    return 2**24 if device.type == "cpu" else 2**26


def completion_logprobs(
    model: PreTrainedModel, batch: TokenBatch, temperature: float, logits_chunk: int = 0
) -> Tensor:
    """log p(token) of every completion token at the sampling temperature, (B, C) float32 or better.

    Zero beyond a row's own completion. top_p and top_k are not part of it: the distribution that is
    differentiated is the whole softmax. The head must be a frozen Linear without bias or
    soft-capping (`model.load` checks it); at most `logits_chunk` logits exist at a time, 0 being as
    many as suit the device.
    """
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)  # `model.load` has seen to it
    # No mask: what a causal model makes of a token does not depend on the padding to its right, and
    # attention without a mask takes the fast kernels.
    hidden = model.get_decoder()(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    mask = batch.completion_mask
    row, column = mask.nonzero(as_tuple=True)
    place = batch.prompt_lens[row] + column  # of the token itself, in input_ids
    logp = _TokenLogprobs.apply(
        hidden[row, place - 1],
        head.weight,
        batch.input_ids[row, place],
        temperature,
        max(1, (logits_chunk or logits_at_once(hidden.device)) // head.weight.shape[0]),
    )
    return torch.zeros(mask.shape, dtype=logp.dtype, device=logp.device).index_put(
        (row, column), logp
    )


def group_advantages(rewards: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """A = R - mean over the valid rows of the group, and which rows take part, both (P, G).

    Masked rows and all rows of a group without reward variance take no part and have A = 0; a row
    whose reward is the group's mean has A = 0 and takes part (its KL counts). "Without variance"
    means exactly equal rewards, so that float noise in a mean cannot make a gradient. rewards (P,
    G) float, valid (P, G) bool.
    """
    count = valid.sum(1, keepdim=True)
    low = torch.where(valid, rewards, torch.inf).amin(1, keepdim=True)
    high = torch.where(valid, rewards, -torch.inf).amax(1, keepdim=True)
    mean = torch.where(valid, rewards, 0.0).sum(1, keepdim=True) / count.clamp_min(1)
    learns = valid & (count > 1) & (high > low)
    return torch.where(learns, rewards - mean, 0.0), learns


def policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    denominator: float,
    clip_eps: float,
    beta: float = 0.0,
    ref_logp: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate plus beta times the k3 estimate of KL(policy || reference), summed /
    denominator.

    logp, old_logp, ref_logp (B, C); advantages (B,); mask (B, C) bool. Returns the loss and every
    row's detached sums over its tokens (B,), for the caller to add up by run: `loss` (divided as
    the loss is), `clipped`, `kl`, `tokens`. k3 (Schulman 2020): exp(ref - logp) - (ref - logp) - 1,
    times the ratio, without which its gradient is not that of the reverse KL even where the ratio
    is 1 (DeepSeek-V3.2, arXiv 2512.02556; TRL's default).

    Raises ValueError when beta > 0 comes without ref_logp.
    """
    ratio = torch.exp(logp - old_logp)
    A = advantages[:, None]
    surrogate = torch.minimum(ratio * A, ratio.clamp(1 - clip_eps, 1 + clip_eps) * A)
    per_token = -surrogate
    kl = torch.zeros_like(logp)
    if beta > 0:
        if ref_logp is None:
            raise ValueError("beta > 0 needs the reference policy's log-probs")
        log_ratio = ref_logp - logp
        kl = ratio * (torch.exp(log_ratio) - log_ratio - 1)
        per_token = per_token + beta * kl
    row_loss = torch.where(mask, per_token, 0.0).sum(1) / denominator
    outside = ((ratio < 1 - clip_eps) & (A < 0)) | ((ratio > 1 + clip_eps) & (A > 0))
    metrics = {
        "loss": row_loss.detach(),
        "clipped": (outside & mask).sum(1),
        "kl": torch.where(mask, kl, 0.0).sum(1).detach(),
        "tokens": mask.sum(1),
    }
    return row_loss.sum(), metrics
