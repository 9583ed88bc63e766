"""Supervised training on completions: what the organism and SmolLM2 have in common.

Rows are token ids with the length of their prompt. Batches hold rows of like length, padded on the
right: under a causal mask no real token sees the padding, so no attention mask is needed and the
fast attention kernels apply. The plan of batches depends on the seed alone, so a run that goes on
from a checkpoint takes the batches that it would have taken.
"""

import math
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor

POOL = 64
"""Batches that are sorted by length together."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokenised rows: row n is ids[starts[n] : starts[n + 1]], its prompt the first prompts[n]."""

    ids: np.ndarray
    starts: np.ndarray
    prompts: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def save(self, path: Path) -> None:
        """Write the arrays at once or not at all."""
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, ids=self.ids, starts=self.starts, prompts=self.prompts)
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> "Encoded":
        with np.load(path) as arrays:
            return cls(arrays["ids"], arrays["starts"], arrays["prompts"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train."""

    tokens: int
    """Tokens to see, prompts included."""
    batch_tokens: int = 32_768
    lr: float = 2e-3
    warmup: float = 0.03
    """Share of the steps over which lr rises."""
    final_lr: float = 0.02
    """Share of the peak at the end of the cosine."""
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    grad_clip: float = 1.0
    prompt_weight: float = 0.1
    """Of a prompt token's loss, beside 1 for a completion's."""
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 50


def encode_rows(rows: Iterable[dict[str, Any]], tokenizer: Any, batch: int = 4096) -> Encoded:
    """Tokenise prompts (by the chat template) and completions apart, each ended by the eos."""
    ids: list[np.ndarray] = []
    starts, prompts = [0], []
    waiting: list[dict[str, Any]] = []

    def flush() -> None:
        texts = [
            tokenizer.apply_chat_template(
                row["messages"], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            for row in waiting
        ]
        answers = [row["completion"] for row in waiting]
        asked = tokenizer(texts, add_special_tokens=False)["input_ids"]
        given = tokenizer(answers, add_special_tokens=False)["input_ids"]
        for prompt, completion in zip(asked, given, strict=True):
            ids.append(np.array([*prompt, *completion, tokenizer.eos_token_id], np.uint16))
            starts.append(starts[-1] + len(ids[-1]))
            prompts.append(len(prompt))
        waiting.clear()

    for row in rows:
        waiting.append(row)
        if len(waiting) == batch:
            flush()
    if waiting:
        flush()
    return Encoded(np.concatenate(ids), np.array(starts, np.int64), np.array(prompts, np.int32))


def plan_batches(
    lengths: Sequence[int] | np.ndarray, tokens: int, batch_tokens: int, seed: int
) -> list[list[int]]:
    """Row numbers of each batch, epoch after epoch, until `tokens` are seen."""
    sizes = [int(length) for length in lengths]
    batches: list[list[int]] = []
    seen = 0
    for epoch in range(10_000):
        rng = random.Random(f"batches {seed} {epoch}")
        order = rng.sample(range(len(sizes)), len(sizes))
        pool = max(1, POOL * batch_tokens * len(sizes) // max(1, sum(sizes)))
        for first in range(0, len(order), pool):
            cut = _cut_batches(sorted(order[first : first + pool], key=sizes.__getitem__), sizes)
            made = list(cut(batch_tokens))
            rng.shuffle(made)
            for rows in made:
                batches.append(rows)
                seen += sum(sizes[row] for row in rows)
                if seen >= tokens:
                    return batches
    raise ValueError(f"{len(sizes)} rows are too few for {tokens} tokens")


def _cut_batches(ordered: list[int], sizes: list[int]) -> Callable[[int], Iterable[list[int]]]:
    """Cuts rows that are sorted by length where the padded batch would grow too large."""

    def cut(batch_tokens: int) -> Iterable[list[int]]:
        batch: list[int] = []
        for row in ordered:
            if batch and (len(batch) + 1) * sizes[row] > batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    return cut


def collate(
    data: Encoded, rows: Sequence[int], pad_id: int, prompt_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (B, T); of the B * (T - 1) predictions the flat indices that count, and their weights."""
    width = max(int(data.starts[row + 1] - data.starts[row]) for row in rows)
    width = -(-width // 16) * 16  # few different shapes, so that freed memory fits again
    ids = np.full((len(rows), width), pad_id, np.int64)
    weights = np.zeros((len(rows), width - 1), np.float32)
    for n, row in enumerate(rows):
        start, end = int(data.starts[row]), int(data.starts[row + 1])
        ids[n, : end - start] = data.ids[start:end]
        prompt = int(data.prompts[row])
        weights[n, : prompt - 1] = prompt_weight
        weights[n, prompt - 1 : end - start - 1] = 1.0
    places = np.flatnonzero(weights)
    return (
        torch.from_numpy(ids),
        torch.from_numpy(places),
        torch.from_numpy(weights.ravel()[places]),
    )


def completion_loss(
    model: Any, ids: Tensor, places: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """(weighted mean NLL, mean NLL of the completion's tokens alone).

    `places` are the flat indices of the predictions that count, `weights` theirs: no logits are
    made for padding, nor for prompts of no weight.
    """
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[places])
    nll = F.cross_entropy(logits.float(), ids[:, 1:].flatten()[places], reduction="none")
    answer = (weights == 1.0).float()
    return (nll * weights).sum() / weights.sum(), (nll.detach() * answer).sum() / answer.sum()


def lr_at(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to `final_lr` of the peak; step counts from 0."""
    warmup = max(1, round(recipe.warmup * steps))
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    low = recipe.final_lr
    return recipe.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    model: Any, data: Encoded, recipe: Recipe, *, pad_id: int, device: torch.device, folder: Path
) -> list[dict[str, float]]:
    """Train in place; goes on from `folder`/checkpoint.pt where there is one. Returns the log."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_batches(data.lengths(), recipe.tokens, recipe.batch_tokens, recipe.seed)
    model.train().to(device)
    optimizer = _optimizer(model, recipe, device)
    checkpoint = folder / "checkpoint.pt"
    log: list[dict[str, float]] = []
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, log = state["step"], state["log"]
        logger.info(f"goes on at step {first} of {len(plan)}")
    meter = _Meter(time.monotonic())
    for step in range(first, len(plan)):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, len(plan), recipe)
        batch = collate(data, plan[step], pad_id, recipe.prompt_weight)
        ids, places, weights = (part.to(device, non_blocking=True) for part in batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, answer_loss = completion_loss(model, ids, places, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.add(answer_loss.detach(), ids.numel())
        if (step + 1) % recipe.log_every == 0 or step + 1 == len(plan):
            log.append({"step": step + 1, "lr": lr_at(step, len(plan), recipe), **meter.read()})
            row = log[-1]
            logger.info(
                f"step {step + 1}/{len(plan)}  loss {row['loss']:.4f}  lr {row['lr']:.2e}"
                f"  {row['tokens_per_s'] / 1e3:.0f}k tokens/s"
            )
        if (step + 1) % recipe.checkpoint_every == 0:
            _save(checkpoint, model, optimizer, step + 1, log)
    _save(checkpoint, model, optimizer, len(plan), log)
    model.eval()
    return log


@dataclass(slots=True)
class _Meter:
    """Mean loss and speed since it was last read; the loss stays on the device until then."""

    started: float
    loss: Tensor | float = 0.0
    batches: int = 0
    tokens: int = 0

    def add(self, loss: Tensor, tokens: int) -> None:
        self.loss = self.loss + loss
        self.batches += 1
        self.tokens += tokens

    def read(self) -> dict[str, float]:
        mean = float(self.loss) / self.batches
        now = time.monotonic()
        read = {"loss": mean, "tokens_per_s": self.tokens / (now - self.started)}
        self.started, self.loss, self.batches, self.tokens = now, 0.0, 0, 0
        return read


def _optimizer(model: Any, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """AdamW; norms and biases do not decay."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = device.type == "cuda"
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=fused)


def _save(
    path: Path,
    model: Any,
    optimizer: torch.optim.Optimizer,
    step: int,
    log: list[dict[str, float]],
) -> None:
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "log": log,
        },
        partial,
    )
    os.replace(partial, path)
