"""The harness of the benchmarks: arguments, models, interleaved rounds, machine, table and JSON.

A benchmark is a function from its `Arguments` to a `Result`; `main` does the rest.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import transformers
import tyro
from tabulate import tabulate
from transformers import Qwen3Config, Qwen3ForCausalLM

from projected_grpo.config import MiniConfig
from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.model.load import (
    DTYPES,
    ORGANISM,
    ORGANISM_FOLDER,
    LanguageModel,
    fuse_norms,
    load,
)
from projected_grpo.runs.distributed import ALONE, World
from projected_grpo.runs.session import Session, prepare

SHAPES = {
    "tiny": (64, 128, 2, 4, 2, 16),
    "organism": (256, 768, 6, 4, 2, 64),
    "smollm2": (576, 1536, 30, 9, 3, 64),
    "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 64),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 128),
}
"""Hidden size, MLP size, layers, heads, key-value heads, head size."""
VOCABULARY = {
    "tiny": 1024,
    "organism": 4096,
    "smollm2": 49152,
    "qwen2.5-0.5b": 151936,
    "qwen3-4b": 151936,
}
CPU = torch.device("cpu")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What every benchmark of a model is asked."""

    shape: Literal["tiny", "organism", "smollm2", "qwen2.5-0.5b", "qwen3-4b"] = "organism"
    layers: int = 0
    """Layers of a shaped model, which are all alike; 0 takes all."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    out: Path | None = None
    """Also write the figures here (.json)."""

    @property
    def place(self) -> torch.device:
        """The device."""
        return torch.device(self.device)


A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True)
class Result:
    """What a benchmark found: what was measured (the line above the table adds where), the rows of
    the table by header, what the JSON holds, and lines below the table."""

    what: str
    rows: Sequence[Mapping[str, object]]
    figures: Mapping[str, Any]
    below: Sequence[str] = ()


def main(measure: Callable[[A], Result | None], arguments: type[A], about: str | None) -> None:
    """Measure what the command line asks for; print the table and write the JSON. No result is that
    of a process that another one speaks for."""
    args = tyro.cli(arguments, description=about)
    found = measure(args)
    if found is None:
        return
    where = machine(args.place)
    print(f"{found.what}; {where}", "", table(found.rows), *found.below, sep="\n")
    if args.out is not None:
        settings = vars(args) | {"out": None}
        write_json(args.out, machine=where, settings=settings, **found.figures)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """A pipe table; numbers with a fraction have three digits."""
    cells = [[f"{c:.3g}" if isinstance(c, float) else c for c in row.values()] for row in rows]
    return tabulate(cells, [*rows[0]], "pipe", disable_numparse=True)


def write_json(path: Path, **record: Any) -> None:
    """Write what was found after the command that found it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"argv": sys.argv, **record}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def machine(device: torch.device) -> str:
    """Where and with what."""
    sha = subprocess.run(
        ["git", "-C", os.path.dirname(__file__), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    where = f"CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{where}; {versions}, Python {platform.python_version()}; commit {sha or 'unknown'}"


# --- Rounds


def wait(device: torch.device) -> None:
    """Until the GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(run: Callable[[], T], device: torch.device = CPU) -> tuple[float, T]:
    """Seconds, and what came of it."""
    wait(device)
    started = time.perf_counter()
    found = run()
    wait(device)
    return time.perf_counter() - started, found


def interleaved(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every way, round by round in turn, after one round that warms up."""
    found = measured({name: partial(timed, run, device) for name, run in ways.items()}, rounds)
    return {name: [seconds for seconds, _ in values] for name, values in found.items()}


def measured(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What every way says of itself, likewise."""
    every = [{name: run() for name, run in ways.items()} for _ in range(rounds + 1)]
    return {name: [found[name] for found in every[1:]] for name in ways}


def ratio(values: Iterable[float], floor: Iterable[float]) -> tuple[float, float, float]:
    """Median, least and largest ratio of the same round."""
    found = sorted(a / b for a, b in zip(values, floor, strict=True))
    return statistics.median(found), found[0], found[-1]


def in_words(values: Iterable[float], floor: Iterable[float]) -> str:
    """A ratio with its range."""
    return "{:.2f} ({:.2f}-{:.2f})".format(*ratio(values, floor))


# --- Models


def shaped(name: str, layers: int, vocabulary: int = 1024, **settings: Any) -> Qwen3Config:
    """The dimensions of a model with so many of its layers (0: all)."""
    hidden, mlp, depth, heads, kv_heads, head = SHAPES[name]
    return Qwen3Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=mlp,
        num_hidden_layers=layers or depth, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head, tie_word_embeddings=True, **settings,
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


def language_model(args: Arguments) -> LanguageModel:
    """The organism that ships, or random weights of the shape behind its tokenizer."""
    lm = load(ORGANISM, revision="main", dtype=DTYPES[args.dtype], device=args.place)
    if args.shape == "organism":
        return lm
    config = shaped(args.shape, args.layers, VOCABULARY[args.shape])
    return replace(lm, model=random_model(config, DTYPES[args.dtype], args.place))


def write_shaped(args: Arguments, into: Path, tokenizer_of: str = ORGANISM, **settings: Any) -> int:
    """Write random weights of the shape, with that model's tokenizer; the number of parameters."""
    lm = load(tokenizer_of, revision="main", dtype=torch.float32, device=CPU)
    ends = {"eos_token_id": lm.tokenizer.eos_token_id, "pad_token_id": lm.tokenizer.pad_token_id}
    config = shaped(args.shape, args.layers, VOCABULARY[args.shape], **ends, **settings)
    model = random_model(config, DTYPES[args.dtype], args.place)
    model.save_pretrained(into)
    lm.tokenizer.save_pretrained(into)
    return sum(p.numel() for p in model.parameters())


def folder_of(args: Arguments, into: Path) -> str:
    """Where the model is loaded from: the organism that ships, or random weights of the shape."""
    if args.shape == "organism":
        return str(ORGANISM_FOLDER)
    write_shaped(args, into)
    return str(into)


# --- Steps that cost what the trainer costs


def reward(text: str) -> float:
    """Deterministic, different within a group, and free."""
    return zlib.crc32(text.encode()) % 8 / 8


class Free(Grader):
    """Stands in for the grader."""

    def start(self, submissions: Iterable[Submission], *, labels: bool = True) -> None:
        """Do nothing: it takes no time."""

    def grade(self, submissions: Iterable[Submission], *, labels: bool = True) -> list[Grade]:
        """A grade each, of which only the reward differs."""
        some = Grade(
            passed=False, gt_correct=False, exploited=False, attempted=False, mechanism=None,
            flavour=None, fmt_ok=True, outcome=Outcome.PASSED, label=None, reward=0.0, seconds=0.0,
            error="",
        )  # fmt: skip
        return [replace(some, reward=reward(s.completion)) for s in submissions]


def free_session(
    args: Arguments, folder: str, stack: ExitStack, world: World = ALONE, **settings: Any
) -> Session:
    """A run as `train mini` makes it, without eos and with a free reward."""
    if args.shape != "organism":  # random weights: what is cached of them is of no further use
        os.environ["PROJECTED_GRPO_CACHE"] = folder
    cfg = MiniConfig(
        model=folder, dtype=args.dtype, device=args.device, pairs="builtin", v_hack_k=5, **settings
    )
    session, _ = prepare([cfg], stack, (), world)
    lm = replace(session.lm, eos_ids=frozenset())
    return replace(session, lm=lm, grader=Free())
