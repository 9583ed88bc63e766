"""Seconds to sample: cache in fixed memory beside a growing one, interleaved; share of bandwidth.

    uv run python scripts/bench/bench_decode.py --runs 1 6
    python3 scripts/bench/bench_decode.py --runs 4 24 --device cuda --prompts 16
    python3 scripts/bench/bench_decode.py --shape qwen3-4b --dtype bfloat16 --device cuda \\
        --prompts 4 --group 4 --max-new 256

The same prompts, seeds and tokens both ways (compared); medians over the rounds, and their ratio. A
token's own time is that of max-new tokens less that of a quarter of them; the bandwidth's share is
the time to read the base model's weights once, at the speed of a copy, over it. Shaped models have
random weights, prompts of --prompt-tokens and no eos.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import benchmark
import torch
from benchmark import Result, interleaved, language_model, ratio

from projected_grpo.antipasto import wrap
from projected_grpo.config import MiniConfig
from projected_grpo.env.loopholes.modes import TRAIN_NAME, apply_hint
from projected_grpo.env.problems.katas import kata_problems
from projected_grpo.model import sampling as rollout
from projected_grpo.model.decode import Decoder, GrowingDecoder, make_decoder
from projected_grpo.model.load import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Arguments(benchmark.Arguments):
    """What is measured."""

    runs: tuple[int, ...] = (1,)
    prompts: int = 8
    group: int = 8
    max_new: int = 208
    prompt_tokens: int = 256
    rounds: int = 3


def growing(model, prefilled, mask, group, max_new) -> Decoder:
    """`make_decoder`, always with the growing cache."""
    return GrowingDecoder(model, prefilled, mask, group)


def prompts_of(args: Arguments, lm: LanguageModel, count: int) -> list[list[int]]:
    """Ids of `count` prompts."""
    if args.shape == "organism":
        problems = [apply_hint(p, MiniConfig().mode, TRAIN_NAME) for p in kata_problems("train")]
        return [lm.prompt_ids(problems[n % len(problems)].messages) for n in range(count)]
    g = torch.Generator().manual_seed(0)
    return torch.randint(4, 1000, (count, args.prompt_tokens), generator=g).tolist()


def copy_speed(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.empty(2**30 if device.type == "cuda" else 2**27, dtype=torch.uint8).to(device)
    target = torch.empty_like(source)
    copy = interleaved({"copy": partial(target.copy_, source)}, 20, device)["copy"]
    return 2 * source.nbytes / median(copy)


def measure_pack(args: Arguments, runs: int) -> dict[str, float | str]:
    """One row of the table."""
    places = [n for n in range(runs) for _ in range(args.prompts)]
    lm = language_model(args)
    model, prompts = lm.model, prompts_of(args, lm, len(places))
    eos = lm.eos_ids if args.shape == "organism" else frozenset[int]()
    weights = sum(p.nbytes for p in {id(p): p for p in model.parameters()}.values())
    adapter = wrap(model, n_runs=runs)
    found: dict[str, list[list[int]]] = {}

    def way(name: str, make: Callable[..., Decoder], max_new: int) -> Callable[[], None]:
        sampling = rollout.SamplingParams(max_new, 1.0, 1.0, 0, eos, 0, 2**24)

        def run() -> None:
            setattr(rollout, "make_decoder", make)  # noqa: B010
            groups = rollout.sample_groups(
                model, adapter, prompts, args.group, range(len(places)), sampling, places
            )
            found[name] = [sample.ids for group in groups for sample in group]

        return run

    short = max(1, args.max_new // 4)
    ways = {
        "fixed": way("fixed", make_decoder, args.max_new),
        "growing": way("growing", growing, args.max_new),
        "short": way("short", make_decoder, short),
    }
    seconds = interleaved(ways, args.rounds, args.place)
    fixed, grown, less = (seconds[name] for name in ways)
    token = median(a - b for a, b in zip(fixed, less, strict=True)) / (args.max_new - short)
    alike = sum(a == b for a, b in zip(found["fixed"], found["growing"], strict=True))
    return {
        "runs": runs,
        "rollouts": len(places) * args.group,
        "fixed s": median(fixed),
        "growing s": median(grown),
        "growing / fixed": ratio(grown, fixed)[0],
        "same tokens": f"{alike}/{len(found['fixed'])}",
        "ms a token": token * 1e3,
        "share of bandwidth": weights / copy_speed(args.place) / token,
    }


def measure(args: Arguments) -> Result:
    """A row for each number of runs."""
    rows = [measure_pack(args, runs) for runs in args.runs]
    size = f"{args.prompts} x {args.group} x {args.max_new} tokens, {args.rounds} rounds"
    return Result(f"{args.shape}, {args.dtype}, {size}", rows, {"rows": rows})


if __name__ == "__main__":
    benchmark.main(measure, Arguments, __doc__)
