"""Decomposing every target Linear of a model: seconds by shape, accuracy, the cache on disk.

    OMP_NUM_THREADS=1 uv run python scripts/bench/bench_svd.py --shape smollm2 --cache
    OMP_NUM_THREADS=1 uv run python scripts/bench/bench_svd.py --shape smollm2 --decay 1e5
    python3 scripts/bench/bench_svd.py --shape qwen3-4b --dtype bfloat16 --device cuda --cache
    python3 scripts/bench/bench_svd.py --shape qwen3-4b --layers 1 --dtype bfloat16 --device cuda \\
        --decay 1e5

Each matrix is made where it is decomposed, seeded by its number, and freed before the next. Normal
entries have a kind spectrum; --decay multiplies the rows or columns along the short side by factors
that fall to 1 / decay (in random order). `full SVD` counts the matrices where `decompose` went on
to torch.linalg.svd. Errors are the worst of the first matrix of every shape: of the float64
factors, and as stored in the model's dtype, which bounds them. `read` finds the page cache warm.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest.mock import patch

import benchmark
import torch
from benchmark import Result, random_model, shaped, timed
from torch import Tensor, nn

from projected_grpo.antipasto import TARGET_MODULES
from projected_grpo.model.svd import Factors, decompose, decompose_all


@dataclass(frozen=True, kw_only=True)
class Arguments(benchmark.Arguments):
    """What is measured."""

    shape: Literal["organism", "smollm2", "qwen3-4b"] = "smollm2"
    decay: float = 1.0
    """Ratio of the largest to the smallest factor on the short side; 1: none."""
    cache: bool = False
    """Also fill a temporary cache folder and read it back."""


def shapes(args: Arguments) -> list[tuple[str, tuple[int, int]]]:
    """(name, (d_out, d_in)) of every target Linear; no weight is made."""
    model = random_model(shaped(args.shape, args.layers), torch.float32, torch.device("meta"))
    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    named = [(n.rpartition(".")[2], (m.out_features, m.in_features)) for n, m in linears]
    return [(name, shape) for name, shape in named if name in TARGET_MODULES]


def weight(args: Arguments, number: int, shape: tuple[int, int]) -> Tensor:
    """The matrix of this number, the same each time."""
    device = torch.device(args.device)
    seeded = torch.Generator(device).manual_seed(number)
    W = torch.randn(shape, generator=seeded, device=device) * 0.02
    short = 0 if shape[0] <= shape[1] else 1
    order = torch.randperm(shape[short], generator=seeded, device=device)
    scale = args.decay ** -(order / max(1, shape[short] - 1))
    return (W * (scale[:, None] if short == 0 else scale)).to(getattr(torch, args.dtype))


def errors(W: Tensor, f: Factors) -> dict[str, float]:
    """Orthonormality of U and Vh (largest entry of |Q Q^T - I|) and |U S Vh - W| / |W|."""
    U, S, Vh, W = f.U.double(), f.S.double(), f.Vh.double(), W.double()
    eye = torch.eye(len(S), dtype=torch.float64, device=W.device)
    return {
        "U": float((U.T @ U - eye).abs().max()),
        "Vh": float((Vh @ Vh.T - eye).abs().max()),
        "W": float(((U * S) @ Vh - W).norm() / W.norm()),
    }


def by_shape(args: Arguments, device: torch.device) -> list[dict[str, Any]]:
    """By shape: names, seconds of each matrix, full SVDs, condition and errors of the first."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for number, (name, shape) in enumerate(shapes(args)):
        W = weight(args, number, shape)
        with patch.object(torch.linalg, "svd", wraps=torch.linalg.svd) as full:
            seconds, factors = timed(lambda W=W: decompose(W), device)
        new = {"shape": shape, "names": {}, "seconds": [], "full": 0}
        entry = found.setdefault(shape, new)
        entry["names"][name] = entry["names"].get(name, 0) + 1
        entry["seconds"].append(seconds)
        entry["full"] += full.call_count
        if entry is new:
            exact = decompose(W.double())
            entry["condition"] = float(exact.S[0] / exact.S[-1])
            entry["float64"], entry["stored"] = errors(W, exact), errors(W, factors)
    return list(found.values())


def cached(args: Arguments, device: torch.device) -> dict[str, float]:
    """Seconds to fill a folder (decomposing included) and to read it back, and its size."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = {"fill": 0.0, "read": 0.0}
        for way in seconds:
            # Made before the clock starts: a whole model is on the device.
            every = [weight(args, number, shape) for number, (_, shape) in enumerate(shapes(args))]
            seconds[way], _ = timed(
                lambda every=every: [*decompose_all(every, Path(folder))] and None, device
            )
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    return {**seconds, "gib": size / 2**30}


def measure(args: Arguments) -> Result:
    """Every matrix once, and the cache if asked for."""
    device = args.place
    eye = torch.eye(8, dtype=torch.float64, device=device)
    first, _ = timed(lambda: (decompose(eye), torch.linalg.svd(eye)), device)
    entries = by_shape(args, device)
    total = sum(sum(entry["seconds"]) for entry in entries)
    count = sum(len(entry["seconds"]) for entry in entries)
    full = sum(entry["full"] for entry in entries)
    below = [
        "",
        f"{count} modules: {total:.1f} s, {full} by full SVD (first call {first:.2f} s apart)",
    ]
    for of in ("float64", "stored"):
        worst = {key: max(e[of][key] for e in entries) for key in ("U", "Vh", "W")}
        below.append(f"{of}: {', '.join(f'{key} error {e:.1e}' for key, e in worst.items())}")
    disk = cached(args, device) if args.cache else {}
    if disk:
        words = "cache: filled in {fill:.1f} s, read in {read:.1f} s, {gib:.2f} GiB"
        below.append(words.format(**disk))
    rows = [
        {"modules": ", ".join(e["names"]), "d_out x d_in": "{} x {}".format(*e["shape"])}
        | {"count": len(e["seconds"]), "s each": f"{median(e['seconds']):.3f}"}
        | {"largest": f"{max(e['seconds']):.3f}", "s": f"{sum(e['seconds']):.1f}"}
        | {"full SVD": e["full"], "cond": f"{e['condition']:.1e}"}
        for e in entries
    ]
    figures = {"first_call": first, "total": total, "shapes": entries, "cache": disk}
    return Result(f"{args.shape}, {args.dtype}, decay {args.decay:g}", rows, figures, below)


if __name__ == "__main__":
    benchmark.main(measure, Arguments, __doc__)
