"""How much of a removed direction returns through AdamW's scaling: projected gradient, step, both.

    uv run python scripts/experiment/adam_leak.py --out /tmp/leak
    uv run python scripts/experiment/adam_leak.py --out /tmp/leak --table

A pack of vanilla and projected runs for each pair of betas on the organism; then, from their rows,
the share |V x| / |x| of the gradient, of the step and of all steps so far.
"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from tabulate import tabulate

from projected_grpo.config import MiniConfig
from projected_grpo.runs.directory import RunDir
from projected_grpo.step_logger import read_steps
from projected_grpo.train import train_runs

BETAS = ((0.5, 0.9), (0.9, 0.99))


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is run."""

    out: Path
    """Folder of run directories."""
    seed: int = 1
    steps: int = 16
    threads: int = 0
    table: bool = False
    """Only read the runs that are there."""


def main(args: Arguments) -> None:
    """Run, and print the table."""
    if not args.table:
        for betas in BETAS:
            base = MiniConfig(
                adam_betas=betas, seed=args.seed, steps=args.steps, out_dir=args.out,
                threads=args.threads,
            )  # fmt: skip
            projected = [
                replace(base, arm="projected", project_on=on) for on in ("grad", "update", "both")
            ]
            train_runs([base, *projected])
    body = []
    for path in sorted(p.parent for p in args.out.glob("*/config.json")):
        cfg = RunDir.open(path).stored_config(MiniConfig)
        rows = read_steps(path / "steps.jsonl")
        on = cfg.project_on if cfg.arm == "projected" else "nothing (vanilla)"

        def mean(key: str, rows: list = rows) -> str:
            found = [row[key] for row in rows if row["grad_norm_pre"] > 0]
            return f"{statistics.fmean(found):.3f}"

        body.append(
            [str(cfg.adam_betas), on, cfg.seed, len(rows), mean("inside_frac"),
             mean("inside_frac_update"), f"{rows[-1]['inside_frac_delta']:.3f}"]
        )  # fmt: skip
    headers = ["betas", "projected", "seed", "steps", "gradient", "step taken", "delta_S at end"]
    print(tabulate(sorted(body), headers, "pipe", disable_numparse=True))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
