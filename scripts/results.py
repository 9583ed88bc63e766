"""What draw_dynamics.py and headline.py share: collected rows, rates by step, figures."""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from projected_grpo.stats import Floats, t_interval

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

RATES = {"att_s": "attempted", "hack_s": "hack", "gt_s": "solve"}
"""Column -> what tables call it."""
WINDOW = 5
"""The last steps that rates are taken over."""
ONSET = 0.5
STABLE: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}
"""No dates in the files: the same rows give the same bytes."""

Rows = Sequence[dict[str, Any]]


def lines(folder: Path) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """Every line of a folder's files of rows (collect_rows.py), after the key of its run."""
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as f:
            for line in f:
                row = json.loads(line)
                yield (path.name, row["run"]), row


def curve(rows: Rows, key: str) -> Floats:
    """Share by step, NaN where nothing was counted (steps,)."""
    pairs = [row[key] or (0, 0) for row in rows]
    return np.array([n / d if d else np.nan for n, d in pairs])


def onset(rows: Rows) -> int | None:
    """First step with attempted at 0.5 or more."""
    reached = np.nonzero(curve(rows, "att_s") >= ONSET)[0]
    return int(rows[reached[0]]["step"]) if len(reached) else None


def mean(values: Sequence[float]) -> str:
    """Mean with its 95 % t interval over seeds; the value alone where n = 1."""
    if len(values) < 2:
        return "".join(f"{value:.3f}" for value in values) or "-"
    found = t_interval(np.array(values))
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def save(figure: Figure, path: Path) -> None:
    """As png and svg."""
    figure.tight_layout()
    for suffix in ("png", "svg"):
        figure.savefig(path.with_name(f"{path.name}.{suffix}"), dpi=120, metadata=STABLE[suffix])
    plt.close(figure)
