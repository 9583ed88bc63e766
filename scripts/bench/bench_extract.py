"""The pairs' gradient differences: sequences in micro-batches beside one sequence at a time.

    OMP_NUM_THREADS=1 uv run python scripts/bench/bench_extract.py --shape organism
    OMP_NUM_THREADS=1 uv run python scripts/bench/bench_extract.py --shape smollm2 --layers 4 \
        --limit 12
    python3 scripts/bench/bench_extract.py --shape organism --device cuda --limit 0
    python3 scripts/bench/bench_extract.py --shape qwen3-4b --dtype bfloat16 --device cuda --no-hook

Every way makes the same D (pairs, r) of every module; `difference` is the largest |D - D'| / |D'|
of a module, D' being that of `one by one, hook`, or of `one by one` where that is left out.

- micro-batches of n tokens: as `extract` does it, every sequence's own gradient from one backward.
- one by one: the same code with batches of one; only the batching differs.
- one by one, hook: the method as first written, a forward and backward for each answer with one
  shared delta beside W (needs peft, as bench_adapter does).

The organism is the one that ships; the other shapes have random weights, their own vocabulary size
and the organism's tokenizer, so more tokens than theirs would make of the same text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import benchmark
import torch
from benchmark import Result, in_words, interleaved, language_model
from torch import Tensor

from projected_grpo.antipasto import wrap
from projected_grpo.extract_vhack_grad import hack_minus_clean, side_gradients
from projected_grpo.model.load import LanguageModel
from projected_grpo.model.loss import collate, completion_logprobs, micro_batches
from projected_grpo.model.svd import decompose
from projected_grpo.pairs.load import load_pairs
from projected_grpo.pairs.pair import Pair

Way = Callable[[], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Arguments(benchmark.Arguments):
    """What is measured."""

    pairs: str = "katas"
    limit: int = 48
    """Pairs, evenly spaced over the set; 0 takes all."""
    micro_batch_tokens: tuple[int, ...] = (1024, 4096, 16384)
    hook: bool = True
    rounds: int = 3


def chosen(args: Arguments) -> list[Pair]:
    """Some of the pairs."""
    pairs = load_pairs(args.pairs)
    return pairs[:: max(1, len(pairs) // (args.limit or len(pairs)))][: args.limit or None]


def batched(lm: LanguageModel, pairs: Sequence[Pair], sizes: Sequence[int]) -> list[Way]:
    """D in micro-batches of so many tokens; 1 makes batches of one."""
    adapter = wrap(lm.model)

    def find(tokens: int) -> dict[str, Tensor]:
        return hack_minus_clean(
            side_gradients(lm, adapter, pairs, temperature=1.0, micro_batch_tokens=tokens)
        )

    return [partial(find, tokens) for tokens in sizes]


def hooked(lm: LanguageModel, pairs: Sequence[Pair]) -> Way:
    """A forward and a backward for each answer, with one delta beside W."""
    from bench_adapter import BesideLinear, replaced

    replaced(lm.model, lambda linear: BesideLinear(linear, decompose(linear.weight)))
    deltas = {n.removesuffix(".delta"): p for n, p in lm.model.named_parameters() if "delta" in n}

    def gradient(pair: Pair, text: str) -> tuple[Tensor, ...]:
        ids = [lm.prompt_ids(pair.messages)], [lm.completion_ids(text)]
        batch = collate(*ids, lm.pad_id, lm.model.device)
        loss = -completion_logprobs(lm.model, batch, 1.0).sum()
        return torch.autograd.grad(loss, list(deltas.values()))

    def run() -> dict[str, Tensor]:
        both = [(gradient(pair, pair.hack), gradient(pair, pair.clean)) for pair in pairs]
        rows = [[h - c for h, c in zip(*one, strict=True)] for one in both]
        return dict(zip(deltas, map(torch.stack, zip(*rows, strict=True)), strict=True))

    return run


def difference(D: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest |D - D'| / |D'| of a module."""
    return max(float((D[name] - d).norm() / d.norm()) for name, d in other.items())


def measure(args: Arguments) -> Result:
    """Every way on the same pairs."""
    pairs, lm = chosen(args), language_model(args)
    lengths = [
        len(lm.prompt_ids(pair.messages)) + len(lm.completion_ids(text))
        for pair in pairs
        for text in (pair.hack, pair.clean)
    ]
    sizes = (1, *args.micro_batch_tokens)
    names = ["one by one", *(f"micro-batches of {n:,} tokens" for n in sizes[1:])]
    ways = dict(zip(names, batched(lm, pairs, sizes), strict=True))
    counts = {}  # forward passes, and tokens with their padding
    for name, size in zip(names, sizes, strict=True):
        batches = micro_batches(lengths, size)
        counts[name] = len(batches), sum(len(b) * lengths[b[0]] for b in batches)
    if args.hook:
        ways = {"one by one, hook": hooked(language_model(args), pairs), **ways}
        counts["one by one, hook"] = counts["one by one"]
    floor = next(iter(ways))
    truth = ways[floor]()
    apart = {name: difference(run(), truth) for name, run in ways.items()}
    seconds = interleaved(ways, args.rounds, args.place)
    layers = lm.model.config.num_hidden_layers
    rows = [
        {
            "way": name,
            "s": f"{median(s):.2f}",
            f"x faster than {floor}": in_words(seconds[floor], s),
        }
        | {"passes": counts[name][0], "tokens": f"{counts[name][1]:,}"}
        | {"difference": f"{apart[name]:.1e}"}
        for name, s in seconds.items()
    ]
    size = f"{layers} layers, {args.dtype}, {len(pairs)} pairs of {args.pairs}"
    figures = {"seconds": seconds, "pairs": len(pairs), "tokens": sum(lengths), "counts": counts}
    what = f"{args.shape}, {size}, {sum(lengths):,} tokens, {args.rounds} rounds"
    return Result(what, rows, {**figures, "difference": apart})


if __name__ == "__main__":
    benchmark.main(measure, Arguments, __doc__)
