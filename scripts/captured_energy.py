"""How much of held-out contrast pairs' gradient differences lies in V, for V and its controls.

    python scripts/captured_energy.py --model organism --pairs builtin

V is made from a part of the pairs, the energy |D V^T|^2 / |D|^2 (over all modules together) is that
of the others; beside it random V and V from placebo pairs, of the same k. (Labels shuffled within
pairs only change signs, and an uncentred SVD has the same span then.) A control that captures much
is no null for the arm that it controls.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from tabulate import tabulate
from torch import Tensor

from projected_grpo.antipasto import wrap
from projected_grpo.extract_vhack_grad import directions, pair_differences
from projected_grpo.model import DTYPES, load, resolve_device
from projected_grpo.pairs import holdout_split, load_pairs
from projected_grpo.proj import random_orthonormal
from projected_grpo.seeds import stream_seed
from projected_grpo.svd import default_cache_dir

Differences = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Captured energy of held-out pair differences."""

    model: str = "organism"
    pairs: str = "builtin"
    placebo: str = "placebo"
    every: int = 4
    """Every n-th pair of a mechanism is held out."""
    ks: tuple[int, ...] = (1, 5, 12, 32)
    temperature: float = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    micro_batch: int = 16
    seed: int = 0
    out: Path | None = None
    """Also write the figures here (.json)."""


def captured(D: Differences, axes: Differences, k: int) -> float:
    """Share of |D|^2, over modules, in the first k rows of `axes`."""
    inside = sum(float((D[n] @ axes[n][:k].T).square().sum()) for n in D)
    return inside / sum(float(d.square().sum()) for d in D.values())


def main(args: Arguments) -> None:
    """Print the table."""
    device = resolve_device(args.device)
    lm = load(args.model, revision="main", dtype=DTYPES[args.dtype], device=device)
    adapter = wrap(lm.model, cache_dir=default_cache_dir())
    train, held_out = holdout_split(load_pairs(args.pairs), args.every)

    def differences(pairs) -> Differences:
        return pair_differences(
            lm, adapter, pairs, temperature=args.temperature, micro_batch=args.micro_batch
        )

    D, H = differences(train), differences(held_out)
    P = differences(holdout_split(load_pairs(args.placebo), args.every)[0])
    random = {}
    for name, d in D.items():
        g = torch.Generator().manual_seed(stream_seed("energy", args.seed, name))
        random[name] = random_orthonormal(max(args.ks), d.shape[1], g).to(d)
    sources = {
        "V": {name: directions(d)[0] for name, d in D.items()},
        "placebo V": {name: directions(d)[0] for name, d in P.items()},
        "random V": random,
    }
    rows = {label: [captured(H, axes, k) for k in args.ks] for label, axes in sources.items()}
    print(f"{args.model}, {args.pairs}: {len(train)} pairs in, {len(held_out)} held out")
    print(
        tabulate(
            [[k, *v] for k, v in rows.items()], ["k =", *map(str, args.ks)], "pipe", floatfmt=".3f"
        )
    )
    if args.out is not None:
        about = {"model": args.model, "pairs": args.pairs, "n": [len(train), len(held_out)]}
        text = json.dumps({**about, "ks": args.ks, "energy": rows}, indent=1)
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
