"""What the bench_*.py scripts share: interleaved rounds, medians, the machine, JSON."""

import json
import platform
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import Qwen3Config, Qwen3ForCausalLM

from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.model.load import DTYPES, ORGANISM, fuse_norms, load, resolve_device

SHAPES = {
    "organism": (256, 768, 6, 4, 2, 64),
    "smollm2": (576, 1536, 30, 9, 3, 64),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 128),
}
"""Hidden size, MLP size, layers, heads, key-value heads, head size."""
VOCABULARY = {"organism": 4096, "smollm2": 49152, "qwen3-4b": 151936}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a model is measured on."""

    shape: Literal["organism", "smollm2", "qwen3-4b"]
    layers: int = 0
    """Layers of a shaped model, which are all alike; 0 takes all."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    out: Path | None = None
    """Also write the figures here (.json)."""


def shaped(name: str, layers: int, vocabulary: int = 1024) -> Qwen3Config:
    """The dimensions of a model with so many of its layers (0: all)."""
    hidden, mlp, depth, heads, kv_heads, head = SHAPES[name]
    return Qwen3Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=mlp,
        num_hidden_layers=layers or depth, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head, tie_word_embeddings=True,
    )  # fmt: skip


def random_model(config: Qwen3Config, dtype: torch.dtype, device: torch.device) -> Qwen3ForCausalLM:
    """Seeded random weights, made on the device; norms as `model.load` makes them."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = Qwen3ForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    fuse_norms(model)
    return model


def reward(text: str) -> float:
    """Deterministic, different within a group, and free."""
    return zlib.crc32(text.encode()) % 8 / 8


class Free:
    """Stands in for the grader."""

    def grade(self, submissions: Sequence[Submission], labels: bool = False) -> list[Grade]:
        """A grade each, of which only the reward differs."""
        some = Grade(
            passed=False, gt_correct=False, exploited=False, attempted=False, mechanism=None,
            flavour=None, fmt_ok=True, outcome=Outcome.PASSED, label=None, reward=0.0, seconds=0.0,
            error="",
        )  # fmt: skip
        return [replace(some, reward=reward(s.completion)) for s in submissions]


def folder_of(args: Measured, into: Path) -> str:
    """Where the model is loaded from: the organism that ships, or random weights of the shape, put
    there with its tokenizer."""
    if args.shape == "organism":
        return str(Path(__file__).parents[2] / "src" / "projected_grpo" / ORGANISM)
    device = resolve_device(args.device)
    tokenizer = load(ORGANISM, revision="main", dtype=DTYPES["float32"], device=device).tokenizer
    config = shaped(args.shape, args.layers, VOCABULARY[args.shape])
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    random_model(config, DTYPES[args.dtype], device).save_pretrained(into)
    tokenizer.save_pretrained(into)
    return str(into)


def interleaved(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every way, round by round in turn, after one round that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            wait(device)
            started = time.perf_counter()
            run()
            wait(device)
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def wait(device: torch.device) -> None:
    """Until the GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def ratios(seconds: dict[str, list[float]], floor: str) -> dict[str, tuple[float, float, float]]:
    """Median, least and largest ratio to `floor` of the same round."""
    out = {}
    for name, values in seconds.items():
        found = sorted(a / b for a, b in zip(values, seconds[floor], strict=True))
        out[name] = (statistics.median(found), found[0], found[-1])
    return out


def machine(device: torch.device) -> str:
    """Where and with what: for the line above a table."""
    sha = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    where = f"CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{where}; {versions}, Python {platform.python_version()}; commit {sha or 'unknown'}"


def report(args: Measured, device: torch.device, **found: Any) -> None:
    """Write the figures as JSON where a path is given."""
    if args.out is not None:
        settings = vars(args) | {"out": None}
        record = {"argv": sys.argv, "machine": machine(device), "settings": settings, **found}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
