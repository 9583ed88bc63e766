"""The gradient of given answers under a policy, and the cache of those under the base model.

V is made of the gradients of contrast pairs, and at the start of a run these depend on nothing but
the base model and the pairs' text. They take minutes where the axes that are made of them take a
second, so they are what is kept: arms that compare other sides of the same pairs, at any seed, and
every later run read the same file.

A file's name is a digest of all that its numbers depend on, beyond rounding. It holds a digest of
these numbers too, by which damage is found.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from loguru import logger
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from projected_grpo.env.errors import InputError
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel, checkpointed
from projected_grpo.model.loss import (
    PromptCompletion,
    collate,
    completion_logprobs,
    micro_batches,
    tokens_at_once,
)
from projected_grpo.model.memory import kept_per_token
from projected_grpo.model.progress import progress_bar
from projected_grpo.model.svd import digest_of
from projected_grpo.model.tensor_file import put_tensors

GRADIENTS_VERSION = 1
"""Part of every name: raise it where `nll_gradients` changes its answer."""

KEPT_ON_CPU = 2**29
"""Bytes of activations; 240 tokens of Qwen2.5-Coder-0.5B in float32."""


def nll_gradients(
    lm: LanguageModel,
    adapter: Adapter,
    answers: Sequence[PromptCompletion],
    *,
    temperature: float,
    micro_batch_tokens: int,
    run: int | None = 0,
) -> dict[str, Tensor]:
    """Gradient of each answer's summed completion NLL under the policy of one run, or the base
    model (None): module -> (answers, r). Leaves no gradient behind.

    On a CPU, whose memory is the whole machine's, a batch that would keep more than KEPT_ON_CPU
    computes its layers again in the backward.
    """
    device = next(lm.model.parameters()).device
    a_token = kept_per_token(lm, adapter) if device.type == "cpu" else 0
    lengths = [len(prompt) + len(completion) for prompt, completion in answers]
    found: dict[str, Tensor] = {}
    with progress_bar("gradients of pairs", sum(lengths), "token") as bar:
        for some in micro_batches(lengths, tokens_at_once(micro_batch_tokens, device)):
            prompts, completions = zip(*(answers[i] for i in some), strict=True)
            batch = collate(prompts, completions, lm.pad_id, device)
            large = a_token * batch.input_ids.numel() > KEPT_ON_CPU
            of_row = torch.full((len(prompts),), run or 0, device=device)
            rows = adapter.rows(of_row, at_base=run is None)
            with checkpointed(lm.model, large), rows as leaves:
                loss = -completion_logprobs(lm.model, batch, temperature).sum()
                gradients = torch.autograd.grad(loss, list(leaves.values()))
            for name, gradient in zip(leaves, gradients, strict=True):
                if name not in found:
                    found[name] = gradient.new_empty(len(answers), gradient.shape[1])
                found[name][some] = gradient
            bar.update(sum(lengths[i] for i in some))
    return found


def cached_nll_gradients(
    lm: LanguageModel,
    adapter: Adapter,
    answers: Sequence[PromptCompletion],
    folder: Path,
    *,
    temperature: float,
    micro_batch_tokens: int,
) -> dict[str, Tensor]:
    """`nll_gradients` under the base model, read from `folder` or written to it.

    Several processes may share the folder. A file that was damaged is made anew, with a warning.
    Raises ValueError where a policy has moved, InputError where the folder cannot be written to.
    """
    moving = [*adapter.trained.values(), *adapter.quarantine.values()]
    if any(value.any() for value in moving):
        raise ValueError("the policy has moved: only gradients under the base model are kept")
    try:
        folder.mkdir(parents=True, exist_ok=True)  # before minutes of work
    except OSError as error:
        raise InputError(f"cannot make the cache of V, {folder}: {error.strerror}") from error
    path = folder / f"{_name_of(lm, adapter, answers, temperature)}.safetensors"
    what = f"gradients of {len(answers)} answers"
    found = _stored(path)
    if found is not None:
        logger.info("{}: from the cache, {}", what, path)
        return {name: found[name].to(lm.model.device) for name in adapter.trained}
    logger.info("{}: {:,} tokens", what, sum(len(p) + len(c) for p, c in answers))
    started = time.perf_counter()
    found = nll_gradients(
        lm, adapter, answers, temperature=temperature, micro_batch_tokens=micro_batch_tokens
    )
    here = {name: gradient.cpu() for name, gradient in found.items()}
    seconds = time.perf_counter() - started
    try:
        put_tensors(here, path, {"sha256": _digest(here)})
    except OSError as error:
        raise InputError(
            f"cannot write to the cache of V ({path}: {error.strerror}): make room there, or name "
            "another folder in PROJECTED_GRPO_CACHE"
        ) from error
    logger.info("{}: took {:.1f} s, kept in {}", what, seconds, path)
    return found


def _name_of(
    lm: LanguageModel, adapter: Adapter, answers: Sequence[PromptCompletion], temperature: float
) -> str:
    """A digest of all that the gradients depend on."""
    config = json.loads(lm.model.config.to_json_string())
    for about in ("_name_or_path", "transformers_version"):  # where it came from, not what it is
        config.pop(about, None)
    told = [
        GRADIENTS_VERSION,
        adapter.format,
        adapter.fingerprint(),
        _rest(lm.model, adapter),
        config,
    ]
    told += [str(lm.model.dtype), temperature, answers]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _rest(model: nn.Module, adapter: Adapter) -> str:
    """A digest of the base model's tensors that the adapter's fingerprint does not speak for:
    embeddings, norms, biases, the positions' frequencies."""
    spoken_for = {tensor.data_ptr() for tensor in adapter.fingerprinted}
    rest = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return digest_of(*(t for place, t in rest.items() if place not in spoken_for))


def _digest(gradients: dict[str, Tensor]) -> str:
    names = sorted(gradients)
    listed = json.dumps(names) + digest_of(*(gradients[name] for name in names))
    return hashlib.sha256(listed.encode()).hexdigest()


def _stored(path: Path) -> dict[str, Tensor] | None:
    """What was kept at `path`; None where there is nothing, or what is there was damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as f:
            found = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
            whole = (f.metadata() or {}).get("sha256") == _digest(found)
    except SafetensorError:
        whole = False
    if not whole:
        logger.warning("{} was damaged: V is extracted anew", path)
        return None
    return found
