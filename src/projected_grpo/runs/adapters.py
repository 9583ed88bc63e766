"""The adapters by the name of their setting."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from loguru import logger
from torch import nn

from projected_grpo.antipasto import wrap
from projected_grpo.config import AdapterName, ConfigError
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.svd import default_cache_dir

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
        logger.info("singular axes of the weights: from {}, or decomposed and kept there", cache)
        return wrap(model, n_runs=n_runs, cache_dir=cache)

    return make


def _lora(cfg: AdapterSettings, n_runs: int) -> Make:
    if n_runs != 1:
        raise ConfigError(
            f"LoRA has no form for {n_runs} runs in one batch: train them one by one, without "
            "--arms and --seeds, or with --adapter=antipasto"
        )
    try:
        from projected_grpo.model.lora import LoRA
    except ModuleNotFoundError as error:
        raise ConfigError("--adapter=lora needs PEFT: install projected_grpo[peft]") from error
    return lambda model: LoRA(model, cfg.lora_rank, cfg.lora_alpha)


ADAPTERS: dict[AdapterName, Callable[[AdapterSettings, int], Make]] = {
    "antipasto": _antipasto,
    "lora": _lora,
}


def adapter_of(cfg: AdapterSettings, n_runs: int = 1) -> Make:
    """How to make the adapter that the settings ask for, of so many runs. Raises ConfigError where
    there is none; call it before a model is loaded."""
    return ADAPTERS[cfg.adapter](cfg, n_runs)
