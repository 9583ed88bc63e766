"""The rows of many runs in one small file, for a table or figure that a claim rests on.

    python scripts/collect_rows.py runs --out docs/results/organism/vanilla.jsonl.gz

One line a run first (its settings and provenance), then one line a step with the columns that
results are made from. Where a run trains in several modes, `by_mode` has each mode's student rows:
[rows, attempted, hack, solve, attempts by flavour]. scripts/draw_dynamics.py and headline.py read
them back.
"""

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from projected_grpo.step_logger import read_steps

COLUMNS = (
    *("step", "reward", "hack_s", "att_s", "gt_s", "fmt_s", "hack_t", "flavours", "outcomes"),
    *("cos_pre", "cos_post", "cos_update", "hackward_frac", "removed_frac", "removed_frac_update"),
    *("hack_auroc", "inside_frac", "inside_frac_update", "inside_frac_delta"),
    *("grad_norm_pre", "completions/mean_length", "completions/clipped_ratio", "infra_errors"),
    *("v_overlap", "v_overlap_first", "sampling_logp_diff_max"),
    *("gen", "t_rew", "fb", "t_proj", "t_refresh", "step_time"),
)
DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Collect the rows of run directories."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, or folders of them."""
    out: Path
    """File to write (.jsonl.gz)."""
    label: str = ""
    """Stored with every run, to tell experiments apart."""
    extra: dict[str, str] = field(default_factory=dict)
    """More to store with every run."""


def rounded(value: Any) -> Any:
    """Floats to `DIGITS` significant digits: the rest is noise and does not compress."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def by_mode(rollouts: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, list[Any]]]:
    """step -> mode -> [student rows, attempted, hack, solve, {flavour: attempts}]; rows that the
    grader itself failed on are left out, as in every rate."""
    found: dict[int, dict[str, list[Any]]] = {}
    for row in rollouts:
        if row["source"] != "student" or row["outcome"] == "infra_error":
            continue
        cell = found.setdefault(row["step"], {}).setdefault(row["mode"], [0, 0, 0, 0, {}])
        for i, value in enumerate((1, row["attempted"], row["exploited"], row["gt_correct"])):
            cell[i] += int(value)
        if row["flavour"]:
            cell[4][row["flavour"]] = cell[4].get(row["flavour"], 0) + 1
    return found


def step_records(path: Path) -> list[dict[str, Any]]:
    """The steps of a run directory with the columns that results are made from."""
    rows = [
        {key: rounded(row[key]) for key in COLUMNS if key in row}
        for row in read_steps(path / "steps.jsonl")
    ]
    stored = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if "," not in stored["mode"]:
        return rows
    with (path / "rollouts.jsonl").open(encoding="utf-8") as f:
        modes = by_mode(map(json.loads, f))
    return [{**row, "by_mode": modes.get(row["step"], {})} for row in rows]


def run_record(path: Path, args: Arguments) -> dict[str, Any]:
    """What tells this run from others, and where it comes from."""
    stored = json.loads((path / "config.json").read_text(encoding="utf-8"))
    about = json.loads((path / "run.json").read_text(encoding="utf-8"))
    return {
        "run": path.name,
        "label": args.label,
        **args.extra,
        "preset": stored["preset"],
        "arm": stored["arm"],
        "seed": stored["seed"],
        "settings": {k: v for k, v in stored.items() if k not in ("preset", "arm", "out_dir")},
        "git_sha": about["git_sha"],
        "device": about["gpu"] or about["device"],
        "status": about.get("status"),
        "argv": about["argv"],
    }


def main(args: Arguments) -> None:
    """Write the file."""
    found = [
        path.parent
        for root in args.runs
        for path in sorted(root.rglob("config.json"))
        if not path.parent.name.startswith(".")  # made by a run that was killed at its start
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with (
        args.out.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as f,
    ):
        for path in found:
            f.write(f"{json.dumps(run_record(path, args))}\n".encode())
            for row in step_records(path):
                f.write(f"{json.dumps({'run': path.name, **row})}\n".encode())
    print(f"{len(found)} runs -> {args.out} ({args.out.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
