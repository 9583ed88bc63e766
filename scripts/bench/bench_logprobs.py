"""log p of the completion tokens under a frozen head: in chunks beside all logits at once.

    OMP_NUM_THREADS=1 uv run python scripts/bench/bench_logprobs.py
    python3 scripts/bench/bench_logprobs.py --dtype bfloat16 --device cuda --rows 16 --tokens 512

Head only, random hidden states and weights, forward and backward to the hidden states: what the
trunk costs is the same in both. Vocabularies and hidden sizes are the organism's, SmolLM2-135M's
and Qwen3-4B's. `dense` makes all logits in float32, log_softmax, gather, autograd; `chunked` is
what `completion_logprobs` does, with at most --logits-chunk logits at a time (2^24: 64 MiB).

Memory is the largest sum of what was allocated during one forward and backward and not yet freed:
on the GPU max_memory_allocated less what was allocated before; on the CPU the running sum over the
allocations that torch's profiler records, so not what the operating system saw.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import benchmark
import torch
import torch.nn.functional as F
from benchmark import SHAPES, VOCABULARY, Result, in_words, interleaved, ratio, wait
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from projected_grpo.model.loss import _TokenLogprobs, logits_at_once


@dataclass(frozen=True, kw_only=True)
class Arguments(benchmark.Arguments):
    """What is measured."""

    shape: Literal["all", "organism", "smollm2", "qwen3-4b"] = "all"  # pyright: ignore[reportIncompatibleVariableOverride]
    rows: int = 4
    tokens: int = 128
    """Completion tokens a row."""
    temperature: float = 0.7
    logits_chunk: int = logits_at_once(torch.device("cpu"))
    """Most logits at a time of the chunked way."""
    rounds: int = 3


def peak_mib(run: Callable[[], object], device: torch.device) -> float:
    """The most that `run` has allocated at a time (module docstring)."""
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        wait(device)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        run()
    recorded: Any = prof.profiler
    events = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most / 2**20


def measure_head(args: Arguments, name: str, device: torch.device) -> dict[str, Any]:
    """Seconds and memory of both ways, and how far apart their answers are."""
    torch.manual_seed(0)
    d, V, n = SHAPES[name][0], VOCABULARY[name], args.rows * args.tokens
    kind = {"device": device, "dtype": getattr(torch, args.dtype)}
    hidden = torch.randn(n, d, **kind).requires_grad_()
    weight = torch.randn(V, d, **kind) * d**-0.5
    targets = torch.randint(V, (n,), device=device)
    slopes = torch.randn(n, device=device)  # the loss's gradient to every log p

    def chunked() -> tuple[Tensor, Tensor]:
        chunk = max(1, args.logits_chunk // V)
        logp = _TokenLogprobs.apply(hidden, weight, targets, args.temperature, chunk)
        return logp.detach(), torch.autograd.grad(logp, hidden, slopes)[0]

    def dense() -> tuple[Tensor, Tensor]:
        everything = (F.linear(hidden, weight).float() / args.temperature).log_softmax(-1)
        logp = everything.gather(-1, targets[:, None])[:, 0]
        return logp.detach(), torch.autograd.grad(logp, hidden, slopes)[0]

    ways = {"dense": dense, "chunked": chunked}
    seconds = interleaved(ways, args.rounds, device)
    (logp, gradient), (other, theirs) = chunked(), dense()
    return {
        "vocabulary": V,
        "hidden": d,
        "seconds": seconds,
        "ratio": ratio(seconds["chunked"], seconds["dense"]),
        "mib": {way: peak_mib(run, device) for way, run in ways.items()},
        "logp": float((logp - other).abs().max()),
        "gradient": float((gradient - theirs).float().norm() / theirs.float().norm()),
    }


def measure(args: Arguments) -> Result:
    """Both ways for each model."""
    names = list(VOCABULARY) if args.shape == "all" else [args.shape]
    found = {name: measure_head(args, name, args.place) for name in names}
    rows = [
        {"model": name, "vocabulary x hidden": f"{f['vocabulary']:,} x {f['hidden']}"}
        | {f"{way} s": f"{median(values):.4f}" for way, values in f["seconds"].items()}
        | {"chunked / dense": in_words(f["seconds"]["chunked"], f["seconds"]["dense"])}
        | {f"{way} MiB": f"{mib:,.1f}" for way, mib in f["mib"].items()}
        | {f"{key} differs": f"{f[key]:.1e}" for key in ("logp", "gradient")}
        for name, f in found.items()
    ]
    size = f"{args.rows} x {args.tokens} tokens, {args.dtype}, {args.rounds} rounds"
    return Result(size, rows, {"models": found})


if __name__ == "__main__":
    benchmark.main(measure, Arguments, __doc__)
