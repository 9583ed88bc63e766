"""Seconds of a step's two large parts, sampling and forward-backward, for packs of runs.

    python3 scripts/bench/bench_step.py --shape qwen2.5-0.5b --dtype bfloat16 --device cuda \\
        --runs 3 8 16
    uv run python scripts/bench/bench_step.py --shape tiny --runs 2 --prompts 1 --group 2

Random weights, prompts of 300 to 500 tokens, T .7, top_p .95, top_k 20; one token in 250 ends a
row, so that rows leave the batch as they do in training. Forward-backward is that of one
micro-batch, with every row's own gradient and its tokens' pulls along one direction.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import benchmark
import torch
from benchmark import Result, interleaved, language_model
from torch import nn
from transformers import PreTrainedModel

from projected_grpo.antipasto import AntiPaSTO, wrap
from projected_grpo.model.loss import collate, completion_logprobs
from projected_grpo.model.sampling import SamplingParams, sample_groups
from projected_grpo.model.svd import default_cache_dir

TEMPERATURE = 0.7


@dataclass(frozen=True, kw_only=True)
class Arguments(benchmark.Arguments):
    """What is measured."""

    runs: tuple[int, ...] = (1,)
    prompts: int = 8
    group: int = 8
    max_new: int = 400
    sampling_tokens: int = 1_500_000
    micro_batch_tokens: int = 32768
    rounds: int = 2


def prompts_of(count: int, vocabulary: int) -> list[list[int]]:
    """Random ids of random lengths."""
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(300, 500, (count,), generator=g).tolist()
    return [torch.randint(4, vocabulary, (n,), generator=g).tolist() for n in lengths]


def sampling_way(
    args: Arguments, model: PreTrainedModel, adapter: AntiPaSTO, runs: int, lengths: list[int]
) -> Callable[[], None]:
    """Sample a step's rows; `lengths` gets those of the last time."""
    places = [n for n in range(runs) for _ in range(args.prompts)]
    vocabulary = model.config.get_text_config().vocab_size
    prompts, ends = prompts_of(len(places), vocabulary), frozenset(range(7, vocabulary, 250))
    how = SamplingParams(args.max_new, TEMPERATURE, 0.95, 20, ends, 0, args.sampling_tokens)

    def run() -> None:
        groups = sample_groups(model, adapter, prompts, args.group, range(len(places)), how, places)
        lengths[:] = [len(sample.ids) for group in groups for sample in group]

    return run


def training_way(
    args: Arguments, model: PreTrainedModel, adapter: AntiPaSTO, runs: int
) -> tuple[Callable[[], None], int]:
    """Forward and backward of one micro-batch, and its tokens."""
    vocabulary = model.config.get_text_config().vocab_size
    prompt, completion = 330, min(220, args.max_new)
    rows = max(1, args.micro_batch_tokens // (prompt + completion))
    g = torch.Generator().manual_seed(2)
    ids = torch.randint(4, vocabulary, (rows, prompt + completion), generator=g).tolist()
    batch = collate([x[:prompt] for x in ids], [x[prompt:] for x in ids], 0, args.place)
    run_of_row = torch.arange(rows, device=args.place) % runs
    along = {
        name: torch.randn(rows, delta.shape[1], 1, device=args.place)
        for name, delta in adapter.delta_S.items()
    }

    def run() -> None:
        with ExitStack() as stack:
            leaves = stack.enter_context(adapter.rows(run_of_row))
            stack.enter_context(adapter.token_pull(along))
            logp = completion_logprobs(model, batch, TEMPERATURE)
            torch.autograd.grad(-logp.sum(), list(leaves.values()))

    return run, rows * (prompt + completion)


def measure_pack(args: Arguments, runs: int) -> dict[str, float]:
    """One row of the table."""
    model = language_model(args).model
    adapter = wrap(model, n_runs=runs, cache_dir=default_cache_dir())
    with torch.no_grad():
        for delta in adapter.delta_S.values():
            nn.init.normal_(delta, std=1e-3)
    adapter.fold()
    lengths: list[int] = []
    train, tokens = training_way(args, model, adapter, runs)
    ways = {"sampling": sampling_way(args, model, adapter, runs, lengths), "training": train}
    seconds = interleaved(ways, args.rounds, args.place)
    sampling, training = (median(seconds[name]) for name in ways)
    return {
        "runs": runs,
        "rows": len(lengths),
        "tokens a row": sum(lengths) / len(lengths),
        "sampling s": sampling,
        "micro-batch tokens": tokens,
        "forward-backward s": training,
        "tokens a second": tokens / training,
    }


def measure(args: Arguments) -> Result:
    """A row for each number of runs."""
    rows = [measure_pack(args, runs) for runs in args.runs]
    size = f"{args.prompts} x {args.group} x at most {args.max_new} tokens a run"
    return Result(f"{args.shape}, {args.dtype}, {size}", rows, {"rows": rows})


if __name__ == "__main__":
    benchmark.main(measure, Arguments, __doc__)
