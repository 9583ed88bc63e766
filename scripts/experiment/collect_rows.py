"""The rows of many runs in one small file, for a table or figure that a claim rests on.

    python scripts/experiment/collect_rows.py runs --out docs/results/organism/vanilla.jsonl.gz

One line a run first (its settings and provenance), then one line a step with the columns that
results are made from. Where a run trains in several modes, `by_mode` has each mode's student rows:
[rows, attempted, hack, solve, attempts by flavour]. Last, where it has been evaluated, the counts
on held-out problems. scripts/experiment/draw_dynamics.py and headline.py read them back.
"""

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from projected_grpo.report.results import Run as RunOfRows
from projected_grpo.report.results import run_record
from projected_grpo.runs.evaluate import EvalRecord, read_records
from projected_grpo.step_logger import read_steps, whole_rows

COLUMNS = (
    *("step", "reward", "hack_s", "att_s", "gt_s", "fmt_s", "hack_t", "flavours", "outcomes"),
    *("cos_pre_s", "cos_pre_t", "cos_pre", "cos_post", "cos_update", "hackward_frac"),
    *("removed_frac", "removed_frac_update"),
    *("hack_auroc", "inside_frac", "inside_null", "inside_frac_update", "inside_frac_delta"),
    *("grad_norm_pre", "completions/mean_length", "completions/clipped_ratio", "infra_errors"),
    *("v_overlap", "v_overlap_first", "sampling_logp_diff_max", "penalty", "concept_std"),
    *("weight", "trust_frac", "running_rows", "running_captured"),
    *("screened", "screened_att", "screened_gt", "screen_auroc", "screen_threshold"),
    *("gen", "t_screen", "t_rew", "fb", "t_proj", "t_refresh", "step_time"),
)
"""Of those a row may lack what is younger than its run."""
DIGITS = 4
EVALUATED = "eval.jsonl.gz"
"""In a run's directory, where it has been evaluated (scripts/experiment/experiment.py)."""


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
    modes = by_mode(whole_rows(path / "rollouts.jsonl"))
    return [{**row, "by_mode": modes.get(row["step"], {})} for row in rows]


def main(args: Arguments) -> None:
    """Write the file."""
    found = [
        path.parent
        for root in args.runs
        for path in sorted(root.rglob("config.json"))
        if not path.parent.name.startswith(".")  # made by a run that was killed at its start
    ]
    write(args.out, [(path, labelled(path, args.label, args.extra)) for path in found])


def labelled(path: Path, label: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run directory with what tells experiments apart."""
    return {"run": path.name, "label": label, **extra, **run_record(path)}


@dataclass
class Run(RunOfRows):
    """One run: where it comes from, its steps, and its counts on held-out problems."""

    cells: list[dict[str, Any]] = field(default_factory=list)


def read_runs(folder: Path) -> list[Run]:
    """The runs of a folder's files of rows."""
    runs: dict[tuple[str, str], Run] = {}
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as f:
            for row in map(json.loads, f):
                key = path.name, row["run"]
                if "arm" in row:
                    runs[key] = Run(row)
                elif "eval" in row:
                    runs[key].cells = row["eval"]
                else:
                    runs[key].rows.append(row)
    return [*runs.values()]


def write(out: Path, runs: Iterable[tuple[Path, Mapping[str, Any]]]) -> None:
    """The rows of run directories, each after its record; written aside and moved into place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}")
    listed = list(runs)
    with aside.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as f:
        for path, record in listed:
            rows = [record, *({"run": path.name, **row} for row in step_records(path))]
            if (path / EVALUATED).is_file():
                cells = eval_cells(read_records(path / EVALUATED))
                rows.append({"run": path.name, "eval": cells})
            f.writelines(f"{json.dumps(row)}\n".encode() for row in rows)
    aside.replace(out)
    print(f"{len(listed)} runs -> {out} ({out.stat().st_size / 1e6:.2f} MB)")


def eval_cells(records: Iterable[EvalRecord]) -> list[dict[str, Any]]:
    """Counts of held-out samples by mode, hint, how it was sampled, names and difficulty; `both` is
    attempted and exploited.
    Samples that a fault of the grader touched are left out."""
    cells: dict[tuple[Any, ...], dict[str, Any]] = {}
    for r in records:
        if r.grade.outcome == "infra_error":
            continue
        about = {"mode": r.mode, "hinted": r.hinted, "greedy": r.greedy, "names": r.names}
        about |= {"difficulty": r.difficulty}
        counts = {"n": 0, "solve": 0, "fmt": 0, "attempted": 0, "hack": 0, "both": 0}
        cell = cells.setdefault((*about.values(),), {**about, **counts, "flavours": {}})
        cell["n"] += 1
        cell["solve"] += int(r.grade.gt_correct)
        cell["fmt"] += int(r.grade.fmt_ok)
        cell["attempted"] += int(r.grade.attempted)
        cell["hack"] += int(r.grade.exploited)
        cell["both"] += int(r.grade.attempted and r.grade.exploited)
        if r.grade.flavour:
            cell["flavours"][r.grade.flavour] = cell["flavours"].get(r.grade.flavour, 0) + 1
    return list(cells.values())


if __name__ == "__main__":
    main(tyro.cli(Arguments))
