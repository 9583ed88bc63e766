"""Redraw the organism's tables and figures from the committed rows.

    python scripts/draw_dynamics.py docs/results/organism

Reads every *.jsonl.gz that scripts/collect_rows.py wrote there and writes README.md (tables) and
one dynamics_<label>.png and .svg for each label beside them: attempted, hack and solve by step,
mean over seeds with a band of one standard deviation.
"""

import gzip
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from tabulate import tabulate

from projected_grpo.stats import t_interval

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RATES = {"att_s": "attempted", "hack_s": "hack", "gt_s": "solve"}
WINDOW = 5
ONSET = 0.5
COLOURS = {"vanilla": "#444444", "projected": "#1b6ca8", "random_v": "#c8801a"}


class Run:
    """One run's settings and its columns by step."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.about = about
        self.rows: list[dict[str, Any]] = []

    def rate(self, key: str) -> np.ndarray:
        """Share by step, NaN where nothing was counted (steps,)."""
        pairs = [row[key] or (0, 0) for row in self.rows]
        return np.array([n / d if d else np.nan for n, d in pairs])

    def onset(self) -> int | None:
        """First step with attempted at 0.5 or more."""
        reached = np.nonzero(self.rate("att_s") >= ONSET)[0]
        return int(self.rows[reached[0]]["step"]) if len(reached) else None

    def accepted(self) -> int | None:
        """First step at which a quarter of the step's student rows hack."""
        for row in self.rows:
            n, d = row["hack_s"] or (0, 0)
            if d and n >= d / 4:
                return int(row["step"])
        return None


def read(folder: Path) -> dict[str, dict[str, list[Run]]]:
    """label -> arm -> runs, by seed."""
    found: dict[str, Run] = {}
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as f:
            for line in f:
                row = json.loads(line)
                key = f"{path.name}/{row['run']}"
                if "step" in row:
                    found[key].rows.append(row)
                elif "arm" in row:
                    found[key] = Run(row)
    grouped: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(found.values(), key=lambda run: run.about["seed"]):
        name = run.about["arm"] + "".join(
            f" {k}={v}" for k, v in run.about["changed"].items() if k in VARIED
        )
        grouped[run.about["label"]][name].append(run)
    return grouped


VARIED = ("lr", "pairs", "gate", "project_on", "v_hack_k", "overshoot", "v_hack_drop_bottom_frac")
"""Settings in which the runs of one label may differ; they name the arm then."""


def interval(values: list[float]) -> str:
    """Mean with its 95 % t interval over seeds."""
    if len(values) < 2:
        return " ".join(f"{value:.3f}" for value in values)
    found = t_interval(np.array(values))
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def table(arms: dict[str, list[Run]]) -> str:
    """One line an arm."""
    body = []
    for arm, runs in arms.items():
        onsets = [run.onset() for run in runs]
        cells = [arm, len(runs), max(len(run.rows) for run in runs)]
        for key in RATES:
            cells.append(interval([float(np.nanmean(r.rate(key)[-WINDOW:])) for r in runs]))
        cells.append(interval([float(np.nanmean(run.rate("att_s"))) for run in runs]))
        cells.append(f"{sum(o is not None for o in onsets)}/{len(onsets)}")
        reached = sorted(o for o in onsets if o is not None)
        cells.append(", ".join(map(str, reached)) or "-")
        accepted = sorted(a for a in (run.accepted() for run in runs) if a is not None)
        cells.append(f"{len(accepted)}/{len(runs)}: {', '.join(map(str, accepted))}")
        body.append(cells)
    headers = [
        "arm", "n seeds", "steps",
        *(f"{name}, last {WINDOW} steps" for name in RATES.values()),
        "area under attempted", f"attempted >= {ONSET}", "onset steps", "hack_s >= N/4 at step",
    ]  # fmt: skip
    return tabulate(body, headers, "pipe", disable_numparse=True)


def flavours(arms: dict[str, list[Run]]) -> str:
    """What the attempts of the last steps look like."""
    body = []
    for arm, runs in arms.items():
        counts: Counter[str] = Counter()
        for run in runs:
            for row in run.rows[-WINDOW:]:
                counts.update(row["flavours"])
        total = sum(counts.values())
        shares = ", ".join(f"{name} {n / total:.2f}" for name, n in counts.most_common(6))
        body.append([arm, total, shares or "-"])
    return tabulate(body, ["arm", "attempts", "share by flavour"], "pipe", disable_numparse=True)


def draw(label: str, arms: dict[str, list[Run]], folder: Path) -> None:
    """Three panels: attempted, hack, solve."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), sharex=True, sharey=True)
    for number, (arm, runs) in enumerate(arms.items()):
        colour = COLOURS.get(arm, f"C{number}")
        steps = [row["step"] for row in min((r.rows for r in runs), key=len)]
        for axis, (key, name) in zip(axes, RATES.items(), strict=True):
            curves = np.stack([run.rate(key)[: len(steps)] for run in runs])
            mean, spread = np.nanmean(curves, 0), np.nanstd(curves, 0)
            axis.plot(steps, mean, color=colour, label=f"{arm} (n={len(runs)})")
            axis.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
            axis.set_title(name)
            axis.set_xlabel("step")
            axis.set_ylim(-0.02, 1.02)
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{label}: mean over seeds, band one standard deviation", fontsize=10)
    figure.tight_layout()
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"dynamics_{label}.{suffix}", dpi=120, metadata=STABLE[suffix])
    plt.close(figure)


STABLE: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}
"""No dates in the files: the same rows give the same bytes."""


def main(folder: Path) -> None:
    """Write README.md and the figures."""
    matplotlib.rcParams["svg.hashsalt"] = "projected_grpo"
    parts = [
        "# The organism: dynamics by arm",
        "",
        "Written by `uv run python scripts/draw_dynamics.py docs/results/organism` from the rows in"
        " this folder; do not edit. Rates are those of student rows in training, on-policy, T = 1;"
        " intervals are 95 % t intervals over seeds. The area is the mean of attempted over all"
        " steps; the flavours are those of the last steps' attempts.",
    ]
    for label, arms in read(folder).items():
        some = next(iter(arms.values()))[0].about
        parts += [
            "", f"## {label}", "",
            f"Model `{some.get('model', some['preset'])}`, {some['device']}, commit"
            f" {some['git_sha'][:7] if some['git_sha'] else 'unknown'}, changed settings"
            f" `{json.dumps({k: v for k, v in some['changed'].items() if k not in VARIED})}`.",
            "", table(arms), "", flavours(arms), "", f"![{label}](dynamics_{label}.png)",
        ]  # fmt: skip
        draw(label, arms, folder)
    (folder / "README.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
