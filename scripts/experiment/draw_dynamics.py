"""Redraw the organism's tables and figures from the committed rows.

    python scripts/experiment/draw_dynamics.py docs/results/organism

Reads every *.jsonl.gz that collect_rows.py wrote there and writes README.md (tables) and
one dynamics_<label>.png for each label beside them: attempted, hack and solve by step,
mean over seeds with their 95 % t interval as a band (three seeds or more), dotted where some runs
have no value.
Runs of a label are told apart by arm and by every setting in which they differ.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

from collect_rows import Run, read_runs

from projected_grpo.report.comparisons import compare
from projected_grpo.report.curves import dynamics
from projected_grpo.report.plots import Style, save
from projected_grpo.report.results import runs_by_name, shared
from projected_grpo.report.tables import against_vanilla, arms_table, flavours_table

COLOURS = {"vanilla": "#444444", "projected": "#1b6ca8", "random_v": "#c8801a"}


def read(folder: Path) -> dict[str, dict[str, list[Run]]]:
    """label -> name -> runs, by seed; a name is the arm and the settings that vary in the label."""
    labels: dict[str, list[Run]] = defaultdict(list)
    for run in read_runs(folder):
        labels[run.about["label"]].append(run)
    return {label: runs_by_name(runs) for label, runs in labels.items()}


def styles(arms: dict[str, list[Run]]) -> dict[str, Style]:
    """Those that the committed figures have always had."""
    return {arm: {"color": COLOURS.get(arm, f"C{number}")} for number, arm in enumerate(arms)}


def main(folder: Path) -> None:
    """Write README.md and the figures."""
    parts = [
        "# Dynamics by arm",
        "",
        f"Written by `uv run python scripts/experiment/draw_dynamics.py {folder}` from the rows in"
        " this folder; do not edit. Rates are those of student rows in training, on-policy, T = 1;"
        " intervals are 95 % t intervals over seeds. An arm's line is over its runs that took all"
        " the steps asked for or, where none did, came as far as the longest; those that ended"
        " earlier are counted. The area is the mean of attempted over all steps; the flavours are"
        " those of the last steps' attempts.",
    ]
    found = read(folder)
    against = {label: compare(arms) for label, arms in found.items()}
    if any(against.values()):
        parts += ["", "## Against vanilla, seed by seed", "", against_vanilla(against).text()]
    for label, arms in found.items():
        runs = [run for mine in arms.values() for run in mine]
        some = runs[0].about
        parts += [
            "", f"## {label}", "",
            f"Model `{some.get('model', some['preset'])}`, {some['device']}, commit"
            f" {some['git_sha'][:7] if some['git_sha'] else 'unknown'}, other than today's preset"
            f" `{json.dumps(shared(runs))}`.",
            "", arms_table(arms).text(), "", flavours_table(arms).text(),
            "", f"![{label}](dynamics_{label}.png)",
        ]  # fmt: skip
        save(dynamics(label, arms, styles(arms)), folder / f"dynamics_{label}", ["png"])
    (folder / "README.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
