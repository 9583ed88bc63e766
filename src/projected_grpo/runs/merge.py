"""What a run has trained, as a whole model in a folder of its own (the `merge` command)."""

import os
import secrets
import shutil
import stat
from pathlib import Path

from loguru import logger

from projected_grpo.model.load import DTYPES, resolve_device
from projected_grpo.runs.cards import model_card
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.files import writing
from projected_grpo.runs.policy_commands import MergeConfig
from projected_grpo.runs.trained import open_trained


def merge(asked: MergeConfig) -> Path:
    """Write weights, config, generation config, tokenizer with its chat template, and a card; the
    folder is there whole or not at all. Raises ConfigError or InputError."""
    asked.require()
    run = RunDir.open(asked.run)
    trained = open_trained(run, resolve_device(asked.device))
    lm, dtype = trained.lm, asked.dtype or trained.cfg.dtype
    card = model_card(run.path, trained.saved.step)
    if (trained.saved.folder / "quarantine.safetensors").exists():
        logger.info("its quarantine is left out: it is not deployed")
    trained.adapter.merge(dtype=DTYPES[dtype])
    aside = asked.out.with_name(f".{asked.out.name}.{secrets.token_hex(4)}")
    try:
        with writing(asked.out.parent):
            aside.mkdir(parents=True)
            lm.model.save_pretrained(aside)
            lm.tokenizer.save_pretrained(aside)
            (aside / "README.md").write_text(card, encoding="utf-8")
            mode = stat.S_IMODE((aside / "README.md").stat().st_mode)
            for path in aside.iterdir():  # safetensors writes 0600
                path.chmod(mode)
            os.rename(aside, asked.out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # gone already where all went well
    logger.info(
        "{} of step {}, merged in {}, -> {}", run.path, trained.saved.step, dtype, asked.out
    )
    return asked.out
