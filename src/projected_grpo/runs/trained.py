"""What runs have trained, put on their base model again: for `evaluate`, `sample`, `merge` and
`probe-distill`."""

from dataclasses import dataclass
from pathlib import Path

import torch
from loguru import logger

from projected_grpo.config import Config
from projected_grpo.env.errors import InputError
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import DTYPES, LanguageModel, load
from projected_grpo.runs.adapters import adapter_of
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.status import is_finished
from projected_grpo.step_logger import read_steps

SAVED = "adapter.safetensors"


@dataclass(frozen=True, slots=True)
class Saved:
    """The trained vectors of a run, and where they lie."""

    folder: Path
    step: int
    """That they were saved after."""


def find_saved(run: RunDir) -> Saved:
    """Those of a finished run's adapter, or of the newest whole checkpoint of one that was stopped:
    of a run that is extended, its adapter is older than that. Raises InputError where there are
    none."""
    there = (run.adapter / SAVED).is_file()
    if there and is_finished(run.path):
        return Saved(run.adapter, len(read_steps(run.steps)))
    newest = run.newest_checkpoint([SAVED])
    if newest is None:
        raise InputError(f"{run.path} holds no adapter and no checkpoint")
    return Saved(newest.folder, newest.step)


def load_base(run: RunDir, cfg: Config, device: torch.device) -> LanguageModel:
    """The base model of a run as it was loaded for it, at the commit that it had on the hub."""
    return load(
        cfg.model,
        revision=run.base_revision(cfg),
        dtype=DTYPES[cfg.dtype],
        device=device,
        enable_thinking=cfg.enable_thinking,
    )


def load_saved(adapter: Adapter, run: RunDir) -> Saved:
    """Read a run's vectors into its adapter; a quarantine stays out, as it is not deployed. Raises
    InputError where there are none, or they are of other axes."""
    saved = find_saved(run)
    logger.info("adapter  {}, of step {}", saved.folder, saved.step)
    adapter.load(saved.folder / SAVED)
    return saved


@dataclass(frozen=True, slots=True)
class Trained:
    """A run's policy."""

    cfg: Config
    lm: LanguageModel
    adapter: Adapter
    saved: Saved


def open_trained(run: RunDir, device: torch.device) -> Trained:
    """Load the base model of a run and put on it what the run has trained. What is not there is
    refused before the model loads. Raises ConfigError or InputError."""
    cfg = run.stored_config()
    make = adapter_of(cfg)
    find_saved(run)
    lm = load_base(run, cfg, device)
    adapter = make(lm.model)
    return Trained(cfg, lm, adapter, load_saved(adapter, run))
