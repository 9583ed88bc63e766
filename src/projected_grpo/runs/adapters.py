"""The adapters by the name of their setting, and the check that one changes nothing at first."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from loguru import logger
from torch import nn

from projected_grpo.antipasto import wrap
from projected_grpo.config import AdapterName, ConfigError
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel
from projected_grpo.model.svd import default_cache_dir

PROBE_TOKENS = 128
MOST_DRIFT = 0.05
"""Most nats a token by which wrapping may change the policy; SmolLM2-135M in bf16 has 0.002."""

Make = Callable[[nn.Module], Adapter]
"""model -> the adapter in that model."""


class AdapterSettings(Protocol):
    """The settings that an adapter is made by; Config and ExtractConfig have them."""

    @property
    def adapter(self) -> AdapterName: ...
    @property
    def lora_rank(self) -> int: ...
    @property
    def lora_alpha(self) -> int: ...
    @property
    def svd_cache(self) -> Path | None: ...


def _antipasto(cfg: AdapterSettings, n_runs: int) -> Make:
    def make(model: nn.Module) -> Adapter:
        cache = cfg.svd_cache or default_cache_dir()
        started, had = time.perf_counter(), _files_in(cache)
        logger.info("axes     of the weights, from {} or decomposed and kept there", cache)
        adapter = wrap(model, n_runs=n_runs, cache_dir=cache)
        new, seconds = _files_in(cache) - had, time.perf_counter() - started
        how = f"{new} of {len(adapter.trained)} decomposed" if new > 0 else "all from the cache"
        logger.info("axes     {} in {:.1f} s", how, seconds)
        return adapter

    return make


def _files_in(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*.safetensors"))


def _lora(cfg: AdapterSettings, n_runs: int) -> Make:
    from projected_grpo.model.lora import LoRA  # PEFT is slow to import

    return lambda model: LoRA(model, cfg.lora_rank, cfg.lora_alpha, n_runs)


ADAPTERS: dict[AdapterName, Callable[[AdapterSettings, int], Make]] = {
    "antipasto": _antipasto,
    "lora": _lora,
}


def adapter_of(cfg: AdapterSettings, n_runs: int = 1) -> Make:
    """How to make the adapter that the settings ask for, of so many runs. Raises ConfigError where
    there is none; call it before a model is loaded."""
    return ADAPTERS[cfg.adapter](cfg, n_runs)


def attach_adapter(make: Make, lm: LanguageModel, n_runs: int, prompts: list[list[int]]) -> Adapter:
    """Put the adapter into the model, if at delta_S = 0 it is still the model that was loaded.

    In bf16 the factors are rounded, and every later figure is relative to that same rounded map, so
    a base that suffered (outlier channels, one huge singular value) would not show in any of them.
    Raises ConfigError for such a base.
    """
    if n_runs == 1 and lm.model.dtype == torch.float32:  # at delta_S = 0 that is W itself
        return make(lm.model)
    dense = _log_probs(lm, prompts)
    adapter = make(lm.model)
    with adapter.disable():
        drift = float((dense.exp() * (dense - _log_probs(lm, prompts))).sum(-1).mean())
    logger.info("rounding KL(loaded || wrapped at delta_S = 0) = {:.2g} nats a token", drift)
    if not drift < MOST_DRIFT:
        raise ConfigError(
            f"in {lm.model.dtype} the decomposition changes this model by {drift:.2g} nats a "
            f"token, more than {MOST_DRIFT}: set --dtype=float32"
        )
    return adapter


@torch.no_grad()
def _log_probs(lm: LanguageModel, prompts: list[list[int]]) -> torch.Tensor:
    """log p of every next token at the start of some prompts, (prompts, tokens, vocabulary)."""
    tokens = min(PROBE_TOKENS, *(len(prompt) for prompt in prompts))
    ids = torch.tensor([prompt[:tokens] for prompt in prompts], device=lm.model.device)
    return lm.model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
