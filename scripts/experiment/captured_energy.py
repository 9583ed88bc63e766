"""How much of held-out contrast pairs' gradient differences lies in V, for V and its controls.

    python scripts/experiment/captured_energy.py --model organism --pairs katas --pair-norm unit

V is made from a part of the pairs, the energy |D V^T|^2 / |D|^2 (over all modules together) is that
of the others, which share no family of tasks with them; beside it V from placebo pairs, from the
same pairs without their labels (arm shuffled_v), and random V, of the same k. A control that
captures much is no null for the arm that it controls.

Whitened V is V by the clean sides' gradients: generalised eigenvectors of the differences against
what honest answers have. The second table is the *selectivity* of each: its share of the held-out
differences over its share of the held-out clean sides' gradients. 1 is no more hack than honest.

Intervals resample the held-out pairs, by family: V is fixed, so they say nothing of other training
pairs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from tabulate import tabulate
from torch import Tensor

from projected_grpo.antipasto import wrap
from projected_grpo.config import stream_seed
from projected_grpo.env.errors import InputError
from projected_grpo.extract_vhack_grad import (
    Sides,
    hack_minus_clean,
    side_gradients,
    top_axes,
    unit_pairs,
    without_labels,
)
from projected_grpo.model.load import DTYPES, load, resolve_device
from projected_grpo.model.svd import default_cache_dir
from projected_grpo.pairs.load import PLACEBO, holdout_split, load_pairs
from projected_grpo.pairs.pair import Pair
from projected_grpo.proj import random_orthonormal, squared_norm
from projected_grpo.report.stats import Estimate, clustered_bootstrap

Differences = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Captured energy of held-out pair differences."""

    model: str = "organism"
    pairs: str = "builtin"
    pair_norm: Literal["none", "unit"] = "none"
    """unit gives every pair's difference the same length, those held out too."""
    placebo: str = ""
    """Default: the set's own, on the same tasks."""
    every: int = 4
    """Every n-th family of a mechanism is held out."""
    ks: tuple[int, ...] = (1, 5, 12, 32)
    temperature: float = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    micro_batch_tokens: int = 2048
    seed: int = 0
    out: Path | None = None
    """Also write the figures here (.json)."""


def inside(D: Differences, axes: Differences, k: int) -> np.ndarray:
    """|d|^2 of every pair's difference, over modules, in the first k rows of `axes` (n,).

    Raises ValueError where a module has fewer: sources would be compared at different k.
    """
    fewest = min(len(rows) for rows in axes.values())
    if fewest < k:
        raise ValueError(f"a basis has {fewest} axes, {k} are asked for: lower --ks")
    parts = [(d @ axes[name][:k].T).square().sum(1) for name, d in D.items()]
    return torch.stack(parts).sum(0).double().cpu().numpy()


def energies(
    D: Differences, sources: dict[str, Differences], ks: tuple[int, ...], families: list[str]
) -> dict[str, list[Estimate]]:
    """Share of |D|^2 in each source's axes, for each k, and the first source's lead over the
    second."""
    total = squared_norm(D).double().cpu().numpy()

    def share(held: np.ndarray) -> Estimate:
        rows = np.stack([held, total], 1)
        return clustered_bootstrap(rows, families, lambda x: float(x[:, 0].sum() / x[:, 1].sum()))

    held = {label: [inside(D, axes, k) for k in ks] for label, axes in sources.items()}
    first, second = list(sources)[:2]
    lead = [a - b for a, b in zip(held[first], held[second], strict=True)]
    held[f"{first} - {second}"] = lead
    return {label: [share(values) for values in by_k] for label, by_k in held.items()}


RIDGE = 0.1
"""Of the mean eigenvalue, which whitening adds: directions that no clean side has are not all."""


def whitened_axes(D: Tensor, clean: Tensor) -> Tensor:
    """Orthonormal rows (min(n, r), r) that span the directions with most of D (n, r) for what the
    clean gradients (n, r) have of them, the most selective first."""
    _, s, rows = torch.linalg.svd(clean.float(), full_matrices=False)
    variance = s.square() / len(clean)
    ridge = float(RIDGE * variance.sum() / clean.shape[1])
    gain = (variance + ridge).rsqrt() - ridge**-0.5

    def whiten(x: Tensor) -> Tensor:
        return x * ridge**-0.5 + (x @ rows.T * gain) @ rows

    axes, _ = top_axes(whiten(D.float()))
    Q, _ = torch.linalg.qr(whiten(axes).T)
    return Q.T


def selectivities(
    D: Differences,
    clean: Differences,
    sources: dict[str, Differences],
    ks: tuple[int, ...],
    families: list[str],
) -> dict[str, list[Estimate]]:
    """(share of |D|^2 inside) / (share of |clean|^2 inside), for each source and k."""
    totals = [squared_norm(g).double().cpu().numpy() for g in (D, clean)]

    def ratio(x: np.ndarray) -> float:
        a, b, c, d = x.sum(0)
        return float((a / b) / (c / d))

    return {
        label: [
            clustered_bootstrap(
                np.stack([inside(D, axes, k), totals[0], inside(clean, axes, k), totals[1]], 1),
                families,
                ratio,
            )
            for k in ks
        ]
        for label, axes in sources.items()
    }


def main(args: Arguments) -> None:
    """Print the table."""
    if not args.placebo and args.pairs not in PLACEBO:
        raise InputError(f"{args.pairs} has no placebo set of its own: name one by --placebo")
    placebo = load_pairs(args.placebo or PLACEBO[args.pairs])
    train, held_out = holdout_split(load_pairs(args.pairs), args.every)
    families = [pair.family for pair in held_out]
    device = resolve_device(args.device)
    lm = load(args.model, revision="main", dtype=DTYPES[args.dtype], device=device)
    adapter = wrap(lm.model, cache_dir=default_cache_dir())

    def sides(pairs: list[Pair]) -> Sides:
        return side_gradients(
            lm,
            adapter,
            pairs,
            temperature=args.temperature,
            micro_batch_tokens=args.micro_batch_tokens,
        )

    def normed(D: Differences) -> Differences:
        return unit_pairs(D) if args.pair_norm == "unit" else D

    texts = sides(train)
    others = sides(held_out)
    D, H = normed(hack_minus_clean(texts)), normed(hack_minus_clean(others))
    clean, clean_out = ({name: g[:, 1] for name, g in some.items()} for some in (texts, others))
    P = normed(hack_minus_clean(sides([p for p in placebo if p.family not in families])))
    shuffled = normed(without_labels(texts, args.seed))
    random = {}
    for name, d in D.items():
        g = torch.Generator().manual_seed(stream_seed("energy", args.seed, name))
        random[name] = random_orthonormal(max(args.ks), d.shape[1], g).to(d)
    sources = {
        "V": {name: top_axes(d)[0] for name, d in D.items()},
        "placebo V": {name: top_axes(d)[0] for name, d in P.items()},
        "shuffled V": {name: top_axes(d)[0] for name, d in shuffled.items()},
        "random V": random,
        "whitened V": {name: whitened_axes(d, clean[name]) for name, d in D.items()},
    }
    found = energies(H, sources, args.ks, families)
    print(
        f"{args.model}, {args.pairs}, pair_norm {args.pair_norm}: {len(train)} pairs "
        f"in, {len(held_out)} pairs of {len(set(families))} other families held out"
    )
    selective = selectivities(H, clean_out, sources, args.ks, families)
    for title, estimates in (("share of |D|^2, k =", found), ("selectivity, k =", selective)):
        body = [
            [label, *(f"{e.estimate:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in by_k)]
            for label, by_k in estimates.items()
        ]
        print(tabulate(body, [title, *map(str, args.ks)], "pipe", disable_numparse=True) + "\n")
    if args.out is not None:
        about = {name: vars(args)[name] for name in ("model", "pairs", "pair_norm")}
        about["n"] = [len(train), len(held_out)]
        rows = [
            {name: [[e.estimate, e.low, e.high] for e in by_k] for name, by_k in some.items()}
            for some in (found, selective)
        ]
        text = json.dumps(
            {**about, "ks": args.ks, "energy": rows[0], "selectivity": rows[1]}, indent=1
        )
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
