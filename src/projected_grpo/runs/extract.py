"""The `extract-vhack` command: contrast pairs -> a file of directions, for `train --v-hack`."""

from loguru import logger

from projected_grpo.config import ConfigError
from projected_grpo.extract_vhack_grad import extract, v_cache
from projected_grpo.model.load import DTYPES, load, resolve_device
from projected_grpo.pairs.load import load_pairs
from projected_grpo.runs.adapters import adapter_of
from projected_grpo.runs.commands import ExtractConfig
from projected_grpo.runs.files import require_new, writing


def extract_to_file(cfg: ExtractConfig) -> None:
    """The `extract-vhack` command: load, decompose, extract, write."""
    require_new(cfg.out, cfg.overwrite)  # before minutes of work
    aside = cfg.out.with_name(f".{cfg.out.name}.tmp")
    if not cfg.temperature > 0:
        raise ConfigError(f"temperature must be above 0, not {cfg.temperature}")
    make = adapter_of(cfg)
    pairs = load_pairs(cfg.pairs, cfg.pair_flavours or None, cfg.pair_modes or None)
    device = resolve_device(cfg.device)
    logger.info("loading  {} ({}, {})", cfg.model, cfg.dtype, device)
    lm = load(
        cfg.model,
        revision=cfg.model_revision,
        dtype=DTYPES[cfg.dtype],
        device=device,
        enable_thinking=cfg.enable_thinking,
    )
    adapter = make(lm.model)
    v_hack = extract(
        lm,
        adapter,
        pairs,
        temperature=cfg.temperature,
        micro_batch_tokens=cfg.micro_batch_tokens,
        model_name=cfg.model,
        pair_norm=cfg.pair_norm,
        v_axes=cfg.v_axes,
        cache=v_cache(),
    )
    try:
        with writing(cfg.out):
            cfg.out.parent.mkdir(parents=True, exist_ok=True)
            v_hack.save(aside)
            aside.replace(cfg.out)
    finally:
        aside.unlink(missing_ok=True)
    logger.info("{} pairs, {} modules -> {}", len(pairs), len(v_hack.axes), cfg.out)
