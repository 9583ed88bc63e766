"""Seconds to sample one step of a pack: cache in fixed memory beside a growing one, interleaved.

    uv run python scripts/bench_decode.py --runs 1 6
    python3 scripts/bench_decode.py --runs 1 8 24 --device cuda --prompts 16

The same prompts, seeds and tokens both ways (checked); medians over the rounds, and their ratio.
"""

import argparse
import statistics
import time

import torch
from tabulate import tabulate

from projected_grpo import model as models
from projected_grpo import rollout
from projected_grpo.antipasto import wrap
from projected_grpo.config import MiniConfig
from projected_grpo.decode import Decoder, GrowingDecoder, decoder_of
from projected_grpo.env.katas import kata_problems
from projected_grpo.env.loopholes import TRAIN_NAME, apply_hint


def growing(model, prefilled, mask, group, max_new) -> Decoder:
    """`decoder_of`, always with the growing cache."""
    return GrowingDecoder(model, prefilled, mask, group)


def measure(args: argparse.Namespace, runs: int) -> list[object]:
    """One row of the table."""
    device, cfg = models.resolve_device(args.device), MiniConfig()
    lm = models.load(args.model, revision="main", dtype=getattr(torch, args.dtype), device=device)
    adapter = wrap(lm.model, n_runs=runs)
    problems = [apply_hint(p, cfg.mode, TRAIN_NAME) for p in kata_problems("train")]
    places = [n for n in range(runs) for _ in range(args.prompts)]
    prompts = [lm.prompt_ids(problems[n % len(problems)].messages) for n in range(len(places))]
    sampling = rollout.Sampling(args.max_new, 1.0, 1.0, 0, lm.eos_ids, lm.pad_id, 2**24)
    seconds: dict[str, list[float]] = {"fixed": [], "growing": []}
    alike = total = 0
    for number in range(args.rounds + 1):  # the first warms up
        found = {}
        for name, make in (("fixed", decoder_of), ("growing", growing)):
            setattr(rollout, "decoder_of", make)  # noqa: B010
            started = time.perf_counter()
            groups = rollout.sample_groups(
                lm.model, adapter, prompts, args.group, range(len(places)), sampling, places
            )
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - started)
            found[name] = [sample.ids for group in groups for sample in group]
        alike += sum(a == b for a, b in zip(found["fixed"], found["growing"], strict=True))
        total += len(found["fixed"])
    ratio = statistics.median(
        a / b for a, b in zip(seconds["growing"], seconds["fixed"], strict=True)
    )
    medians = [round(statistics.median(values), 2) for values in seconds.values()]
    return [runs, len(prompts) * args.group, *medians, round(ratio, 2), f"{alike}/{total}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="organism")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, nargs="+", default=[1])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--max-new", type=int, default=208)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = [measure(args, runs) for runs in args.runs]
    where = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(f"{args.model}, {args.dtype}, {where}, {torch.get_num_threads()} threads")
    names = ["runs", "rollouts", "fixed s", "growing s", "growing / fixed", "same tokens"]
    print(tabulate(rows, headers=names, tablefmt="github"))


if __name__ == "__main__":
    main()
