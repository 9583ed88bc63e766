"""Where a run's time went: start-up, generate, reward, forward-backward, projection, refresh, rest.

    uv run python scripts/bench/breakdown.py runs/20260101-120000_mini_projected_s1_abc1234
    python3 scripts/bench/breakdown.py $OUT/runs/* --out breakdown.json

From steps.jsonl, run.json and train.log. The loop writes down seconds a step; `rest of a step` is
step_time less its parts. Start-up (loading, decomposing, extracting; not Python's imports) is what
the log's last line says less what run.json has between `started` and `ended`, so to a second;
`between steps` is what neither holds: banner, log, checkpoints. Both are missing where a run was
resumed or did not end by itself. Runs of one pack share their steps, so each shows the pack's time.
"""

import json
import re
import statistics
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import tyro
from benchmark import table, write_json

from projected_grpo.step_logger import read_steps

PARTS = {
    "generate": "gen",
    "reward": "t_rew",
    "forward-backward": "fb",
    "projection": "t_proj",
    "refresh": "t_refresh",
}
"""Parts of a step and their columns; rows written before V could be refreshed lack the last."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is read."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""
    out: Path | None = None
    """Also write the figures here (.json)."""


def whole_run(run: Path, text: str) -> dict[str, float]:
    """Seconds of `start-up` and of all `after` it, where run.json and the log tell them."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    ends = re.findall(r"(?:finished|stopped) after (\d+) s, peak", text)
    if len(ends) != 1 or "resumed" in record or "ended" not in record:
        return {}
    started, ended = (datetime.fromisoformat(record[key]) for key in ("started", "ended"))
    after = (ended - started).total_seconds()
    return {"start-up": max(0.0, float(ends[0]) - after), "after": after}


def breakdown(run: Path) -> dict[str, Any]:
    """Every part's seconds in total, median and first of a step; memory, steps, rows, tokens."""
    rows = read_steps(run / "steps.jsonl")
    if not rows:
        sys.exit(f"{run} has no steps yet")
    steps = {part: [row.get(key, 0.0) for row in rows] for part, key in PARTS.items()}
    whole = [row["step_time"] for row in rows]
    known = [sum(values) for values in zip(*steps.values(), strict=True)]
    steps["rest of a step"] = [a - b for a, b in zip(whole, known, strict=True)]
    parts = {
        part: {"total": sum(v), "median": statistics.median(v), "first": v[0]}
        for part, v in (steps | {"a step": whole}).items()
    }
    log = run / "train.log"
    text = log.read_text(encoding="utf-8") if log.is_file() else ""
    around = whole_run(run, text)
    if around:
        parts["start-up"] = {"total": around["start-up"]}
        parts["between steps"] = {"total": max(0.0, around["after"] - sum(whole))}
    return {
        "run": run.name,
        "pack": max(1, len(re.findall(r"INFO +run  ", text))),
        "steps": len(rows),
        "tokens": rows[-1]["num_tokens"],
        "peak_mem_gib": max(row["peak_mem_gib"] for row in rows),
        "seconds": parts,
    }


def parts_table(found: dict[str, Any]) -> str:
    """The parts in the order in which they come; shares are of all that is listed."""
    parts = found["seconds"]
    order = ["start-up", *PARTS, "rest of a step", "between steps"]
    listed = [name for name in order if name in parts]
    everything = sum(parts[name]["total"] for name in listed)
    rows = [{"part": name, "s": f"{parts[name]['total']:.1f}"} for name in listed]
    for row in rows:
        part = parts[row["part"]]
        row["median s a step"], row["first step"] = (
            f"{part[key]:.3f}" if key in part else "-" for key in ("median", "first")
        )
        row["share"] = f"{part['total'] / everything:.1%}"
    step = [f"{parts['a step'][key]:.3f}" for key in ("median", "first")]
    whole = ["all", f"{everything:.1f}", *step, ""]
    return table([*rows, dict(zip(rows[0], whole, strict=True))])


def main(args: Arguments) -> None:
    """Print a table for every run."""
    every = [breakdown(run) for run in args.runs]
    for found in every:
        print(
            "{run}: {steps} steps, pack of {pack}, {tokens:,} tokens of this run, "
            "peak {peak_mem_gib:.2f} GiB\n".format(**found)
        )
        print(f"{parts_table(found)}\n")
    if args.out is not None:
        write_json(args.out, runs=every)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
