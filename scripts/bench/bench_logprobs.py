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

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from benchmark import SHAPES, VOCABULARY, Measured, interleaved, machine, ratios, report, wait
from tabulate import tabulate
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from projected_grpo.model.loss import LOGITS_CHUNK, _TokenLogprobs


@dataclass(frozen=True, kw_only=True)
class Arguments(Measured):
    """What is measured."""

    shape: Literal["all", "organism", "smollm2", "qwen3-4b"] = "all"  # pyright: ignore[reportIncompatibleVariableOverride]
    rows: int = 4
    tokens: int = 128
    """Completion tokens a row."""
    temperature: float = 0.7
    logits_chunk: int = LOGITS_CHUNK
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


def measured(args: Arguments, name: str, device: torch.device) -> dict[str, Any]:
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
        "ratio": ratios(seconds, "dense")["chunked"],
        "mib": {way: peak_mib(run, device) for way, run in ways.items()},
        "logp": float((logp - other).abs().max()),
        "gradient": float((gradient - theirs).float().norm() / theirs.float().norm()),
    }


def main(args: Arguments) -> None:
    """Print the table."""
    device = torch.device(args.device)
    names = list(VOCABULARY) if args.shape == "all" else [args.shape]
    found = {name: measured(args, name, device) for name in names}
    body = [
        [name, f"{f['vocabulary']:,} x {f['hidden']}",
         *(f"{statistics.median(f['seconds'][way]):.4f}" for way in ("dense", "chunked")),
         "{:.2f} ({:.2f}-{:.2f})".format(*f["ratio"]),
         *(f"{f['mib'][way]:,.1f}" for way in ("dense", "chunked")),
         f"{f['logp']:.1e}", f"{f['gradient']:.1e}"]
        for name, f in found.items()
    ]  # fmt: skip
    print(f"{args.rows} x {args.tokens} tokens, {args.dtype}, {args.rounds} rounds; "
          f"{machine(device)}\n")  # fmt: skip
    headers = ["model", "vocabulary x hidden", "dense s", "chunked s", "chunked / dense"]
    headers += ["dense MiB", "chunked MiB", "log p differs", "gradient differs"]
    print(tabulate(body, headers, "pipe", disable_numparse=True))
    report(args, device, models=found)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
