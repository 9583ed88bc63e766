"""What `train --dry-run` says: the runs, their settings beside the preset's, memory and time as far
as they are known without the model, and the files that would be written. Imports no torch."""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from projected_grpo.arms.arms import ARMS
from projected_grpo.config import SETTINGS, Config
from projected_grpo.runs.status import read_settings, runs_by_settings
from projected_grpo.step_logger import read_steps

BYTES = {"float32": 4, "bfloat16": 2}
GIB = 2**30


def plan(cfg: Config) -> str:
    """What these settings would run, a line for each thing that there is to know."""
    if cfg.resume is not None:
        stored = read_settings(cfg.resume)
        done = len(read_steps(cfg.resume / "steps.jsonl"))
        return f"resume   {cfg.resume}: {done} of {stored.steps} steps have rows"
    runs = cfg.runs()
    lines = [
        ("arm", f"{arm} (seeds {', '.join(str(r.seed) for r in runs if r.arm == arm)}): "
                f"{ARMS[arm].meaning}")
        for arm in dict.fromkeys(run.arm for run in runs)
    ]  # fmt: skip
    lines += [("settings", text) for text in different_settings(cfg) or ["all are the preset's"]]
    rollouts = cfg.steps * cfg.prompts_per_step * cfg.group
    lines += [
        ("step", f"{cfg.prompts_per_step} prompts x {cfg.group} rows ({cfg.student_rows} student, "
                 f"{cfg.teacher_rows} teacher), {cfg.steps} steps: {rollouts} rollouts a run"),
        ("model", f"{cfg.model} ({cfg.dtype}, {cfg.device})"),
        ("memory", memory(cfg, len(runs))),
        ("time", duration(cfg, len(runs))),
        *(("files", text) for text in files(cfg, len(runs))),
    ]  # fmt: skip
    said: set[str] = set()
    shown = []
    for title, text in lines:
        shown.append(f"{'' if title in said else title:<8} {text}")
        said.add(title)
    return "\n".join([*shown, "Nothing was run, loaded or written."])


def different_settings(cfg: Config) -> list[str]:
    """Those that are not the preset's, each with the preset's value."""
    usual = type(cfg)()
    return [
        f"--{name.replace('_', '-')} {getattr(cfg, name)} (preset: {getattr(usual, name)})"
        for name in SETTINGS
        if getattr(cfg, name) != getattr(usual, name)
    ]


def memory(cfg: Config, n_runs: int) -> str:
    """What weights and the rows that are sampled at once take, where the model's files are here."""
    folder = model_folder(cfg.model)
    if folder is None:
        return "not known before the model is loaded: the start of the run says how much"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        numbers = sum(n for file in folder.glob("*.safetensors") for n in tensor_sizes(file))
        width = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
    except (OSError, ValueError, KeyError, struct.error):
        numbers = width = 0
    if not numbers:  # the hub's cache may have config.json alone
        return "not known before the model is loaded: the start of the run says how much"
    size = BYTES[cfg.dtype]
    most = n_runs * cfg.prompts_per_step * cfg.student_rows_most * (cfg.max_prompt + cfg.max_new)
    columns = min(
        most, max(cfg.sampling_tokens, cfg.student_rows_most * (cfg.max_prompt + cfg.max_new))
    )
    weights, cache = numbers * size / GIB, columns * width * size / GIB
    return (
        f"at least {weights + cache:.2f} GiB: weights {weights:.2f} ({numbers / 1e6:,.1f} million "
        f"numbers) and at most {cache:.2f} of rows sampled at once; factors, where the adapter "
        "needs them, and activations come on top, which the start of the run counts"
    )


def model_folder(model: str) -> Path | None:
    """The folder of a model's files, where they are on this disk."""
    if model == "organism":
        return Path(__file__).parents[1] / "model" / "organism"
    if Path(model).is_dir():
        return Path(model)
    if model == "tiny-random" or model.endswith(".gguf"):
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def tensor_sizes(file: Path) -> Iterator[int]:
    """How many numbers each tensor of a safetensors file has, by its header. Raises ValueError or
    struct.error where it has none."""
    with file.open("rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header: Mapping[str, Any] = json.loads(f.read(length))
    for name, about in header.items():
        if name != "__metadata__":
            n = 1
            for side in about["shape"]:
                n *= side
            yield n


SHAPE = ("model", "dtype", "group", "prompts_per_step", "max_new", "adapter")
"""Settings that decide most of how long a step takes."""


def duration(cfg: Config, n_runs: int) -> str:
    """How long the steps would take, by runs of the same shape in the folder of runs."""
    times: list[float] = []
    for runs in runs_by_settings(cfg.out_dir).values() if cfg.out_dir.is_dir() else ():
        for run in runs:
            had = read_settings(run)
            if all(getattr(had, name) == getattr(cfg, name) for name in SHAPE):
                rows = read_steps(run / "steps.jsonl")
                times += [float(row["step_time"]) for row in rows]
    if not times:
        return (
            f"not known: {cfg.out_dir} has no run of this shape; docs/performance.md has measured "
            "times of presets, and the bar of a run says the rest"
        )
    step = median(times)
    whole = f", times {n_runs} runs at most, which share a pass" if n_runs > 1 else ""
    return (
        f"{step:.3g} s a step (median of {len(times)} steps of this shape in {cfg.out_dir}), so "
        f"about {cfg.steps * step / 60:.3g} min for {cfg.steps} steps{whole}; loading comes before"
    )


def files(cfg: Config, n_runs: int) -> list[str]:
    """What would be written, and where."""
    kept = -(-cfg.steps // cfg.checkpoint_every)
    many = f"{n_runs} folders" if n_runs > 1 else "one folder"
    v_hack = " v_hack.safetensors" if cfg.measure == "v" else ""
    return [
        f"{many} {cfg.out_dir}/<date>_{cfg.preset_name}_<arm>_s<seed>_<commit>/",
        f"  config.json run.json prompt.txt steps.jsonl rollouts.jsonl train.log{v_hack}",
        f"  checkpoints/ ({kept}, one every {cfg.checkpoint_every} steps)  adapter/ (at the end)",
        "decompositions and pairs' gradients in --svd-cache and $PROJECTED_GRPO_CACHE, by default "
        "~/.cache/projected_grpo",
    ]
