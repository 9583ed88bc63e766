"""Redraw the organism's tables and figures from the committed rows.

    python scripts/draw_dynamics.py docs/results/organism

Reads every *.jsonl.gz that scripts/collect_rows.py wrote there and writes README.md (tables) and
one dynamics_<label>.png and .svg for each label beside them: attempted, hack and solve by step,
mean over seeds with a band of one standard deviation, dotted where some runs have no rows any more.
Runs of a label are told apart by arm and by every setting in which they differ.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from results import ONSET, RATES, WINDOW, curve, lines, mean, onset, save
from tabulate import tabulate

from projected_grpo.config import MACHINE_SETTINGS, PRESETS
from projected_grpo.session import PER_RUN
from projected_grpo.stats import Floats

HORIZON = 40
"""Steps after which arms are compared, where the runs are as long."""
RETIRED = ("micro_batch",)
"""Machine settings of earlier versions."""
OF_ARMS = (
    *("v_hack", "pairs", "pair_norm"),
    *(name for name in PER_RUN if name not in ("arm", "seed", "lr")),
)
"""Settings that change nothing in a vanilla run but what it measures: those of the projection, the
rivals and the remedies."""
COLOURS = {"vanilla": "#444444", "projected": "#1b6ca8", "random_v": "#c8801a"}


class Run:
    """One run's settings and its columns by step."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.about = about
        self.rows: list[dict[str, Any]] = []
        left_out = {*MACHINE_SETTINGS, *RETIRED, "seed"}
        default = json.loads(PRESETS[about["preset"]]().to_json())
        known = dict(about["settings"])
        for name in OF_ARMS:
            known.setdefault(name, default[name])
        self.settings = {k: v for k, v in known.items() if k not in left_out}
        """All that decides the rows, seed and arm apart; what the machine has a say in does not. A
        run that is older than a setting of the arms has its default, which changes nothing."""

    @property
    def finished(self) -> bool:
        """Did it take all its steps? Stopped, failed and killed runs did not."""
        return self.about["status"] == "finished"

    def rate(self, key: str) -> Floats:
        """Share by step, NaN where nothing was counted (steps,)."""
        return curve(self.rows, key)

    def accepted(self) -> int | None:
        """First step at which a quarter of the step's student rows hack."""
        for row in self.rows:
            n, d = row["hack_s"] or (0, 0)
            if d and n >= d / 4:
                return int(row["step"])
        return None


def read(folder: Path) -> dict[str, dict[str, list[Run]]]:
    """label -> name -> runs, by seed; a name is the arm and the settings that vary in the label."""
    found: dict[tuple[str, str], Run] = {}
    for key, row in lines(folder):
        if "step" in row:
            found[key].rows.append(row)
        elif "arm" in row:
            found[key] = Run(row)
    labels: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(found.values(), key=lambda run: run.about["seed"]):
        labels[run.about["label"]].append(run)
    grouped: dict[str, dict[str, list[Run]]] = {}
    for label, runs in labels.items():
        names = varied(runs)
        arms: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            tags = [f"{name}={run.settings.get(name)}" for name in names]
            arms[" ".join([run.about["arm"], *tags])].append(run)
        grouped[label] = dict(sorted(arms.items()))
    return grouped


def varied(runs: list[Run]) -> list[str]:
    """The settings in which these runs differ, arm and seed apart."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [n for n in names if any(r.settings.get(n) != runs[0].settings.get(n) for r in runs)]


def shared(runs: list[Run]) -> dict[str, Any]:
    """Settings that all these runs have in common and that are not today's preset's."""
    default = json.loads(PRESETS[runs[0].about["preset"]]().to_json())
    return {
        name: value
        for name, value in runs[0].settings.items()
        if name != "model"  # named apart
        and value != default.get(name)
        and all(run.settings.get(name) == value for run in runs)
    }


def stacked(runs: list[Run], key: str) -> np.ndarray:
    """Shares of runs by step, NaN from where a run ends (runs, steps of the longest)."""
    longest = max(len(run.rows) for run in runs)
    curves = [run.rate(key) for run in runs]
    return np.stack([np.pad(c, (0, longest - len(c)), constant_values=np.nan) for c in curves])


def table(arms: dict[str, list[Run]]) -> str:
    """One line an arm. Rates are those of the runs that have rows, each over its own last steps."""
    body = []
    for arm, asked in arms.items():
        runs = [run for run in asked if run.rows]
        onsets = [onset(run.rows) for run in runs]
        lengths = sorted({len(run.rows) for run in asked})
        steps = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]}-{lengths[-1]}"
        cells = [arm, len(asked), sum(not run.finished for run in asked), steps]
        for key in RATES:
            cells.append(mean([float(np.nanmean(r.rate(key)[-WINDOW:])) for r in runs]))
        cells.append(mean([float(np.nanmean(run.rate("att_s"))) for run in runs]))
        cells.append(f"{sum(o is not None for o in onsets)}/{len(onsets)}")
        reached = sorted(o for o in onsets if o is not None)
        cells.append(", ".join(map(str, reached)) or "-")
        accepted = sorted(a for a in (run.accepted() for run in runs) if a is not None)
        cells.append(f"{len(accepted)}/{len(runs)}: {', '.join(map(str, accepted))}")
        body.append(cells)
    headers = [
        "arm", "n seeds", "unfinished", "steps",
        *(f"{name}, last {WINDOW} steps" for name in RATES.values()),
        "area under attempted", f"attempted >= {ONSET}", "onset steps", "hack_s >= N/4 at step",
    ]  # fmt: skip
    return tabulate(body, headers, "pipe", disable_numparse=True)


def _key(run: Run, ignored: Sequence[str] = ()) -> str:
    settings = {k: v for k, v in run.settings.items() if k not in ignored}
    return json.dumps([run.about["seed"], settings], sort_keys=True)


def long_enough(runs: list[Run], end: int) -> dict[str, Run]:
    """The runs that have `end` steps, by seed and settings.

    Raises ValueError where two are the same experiment: seeds would be counted twice.
    """
    found: dict[str, Run] = {}
    for run in runs:
        if len(run.rows) < end:
            continue
        key = _key(run)
        if key in found:
            raise ValueError(
                f"{found[key].about['run']} and {run.about['run']} are the same experiment: "
                "collect one of them, or give them different labels"
            )
        found[key] = run
    return found


def compared(arms: dict[str, list[Run]]) -> list[tuple[list[Any], dict[str, np.ndarray]]]:
    """Every arm against the vanilla runs of the same seeds and settings: name, pairs, pairs left
    out, steps; and the differences of each rate, seed by seed.

    Over the last steps of the first `HORIZON`, or of what the runs were asked for or the longest
    came to where that is less; and once more over the last steps that all these pairs have, where
    that is more. A pair of which one has not come to the horizon is left out and counted.
    """
    everyone = [run for runs in arms.values() for run in runs]
    asked = [run.settings["steps"] for run in everyone]
    horizon = min([HORIZON, *asked, max(len(run.rows) for run in everyone)])
    vanilla = long_enough([run for run in everyone if run.about["arm"] == "vanilla"], horizon)
    # What only the projection reads does not matter to a vanilla run; the same settings come first.
    alike = {_key(run, OF_ARMS): run for run in vanilla.values()}
    found = []
    for name, runs in arms.items():
        if runs[0].about["arm"] == "vanilla":
            continue
        pairs = []
        for key, run in long_enough(runs, horizon).items():
            partner = vanilla.get(key) or alike.get(_key(run, OF_ARMS))
            if partner is not None:
                pairs.append((run, partner))
        longest = min([len(run.rows) for pair in pairs for run in pair], default=horizon)
        for end in sorted({horizon, longest}):
            span = f"{max(0, end - WINDOW) + 1}-{end}"
            about = [name, len(pairs), len(runs) - len(pairs), span]
            found.append((about, {key: differences(pairs, key, end) for key in RATES}))
    return found


def differences(pairs: list[tuple[Run, Run]], key: str, end: int) -> np.ndarray:
    """Of a rate's mean over the last steps before `end`, pair by pair (pairs,)."""
    steps = slice(max(0, end - WINDOW), end)
    found = [np.nanmean(a.rate(key)[steps]) - np.nanmean(b.rate(key)[steps]) for a, b in pairs]
    return np.array([float(value) for value in found])


def against_vanilla(found: dict[str, list[tuple[list[Any], dict[str, np.ndarray]]]]) -> str:
    """Do the experiments agree? One line a label and arm."""
    body = [
        [label, *about, *(mean([*by_seed[key]]) for key in RATES),
         f"{int((by_seed['hack_s'] < 0).sum())} of {len(by_seed['hack_s'])}"]
        for label, arms in found.items()
        for about, by_seed in arms
    ]  # fmt: skip
    headers = ["experiment", "arm - vanilla", "n seeds", "pairs left out", "steps"]
    headers += [*RATES.values(), "seeds with less hacking"]
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
    for number, (arm, asked) in enumerate(arms.items()):
        runs = [run for run in asked if run.rows]
        if not runs:
            continue
        colour = COLOURS.get(arm, f"C{number}")
        unfinished = sum(not run.finished for run in asked)
        name = f"{arm} (n={len(runs)}" + (f", {unfinished} unfinished)" if unfinished else ")")
        steps = [row["step"] for row in max((run.rows for run in runs), key=len)]
        whole = min(len(run.rows) for run in runs)
        for axis, (key, title) in zip(axes, RATES.items(), strict=True):
            curves = stacked(runs, key)
            mean, spread = np.nanmean(curves, 0), np.nanstd(curves, 0)
            axis.plot(steps[:whole], mean[:whole], color=colour, label=name)
            if whole < len(steps):
                axis.plot(steps[whole - 1 :], mean[whole - 1 :], color=colour, ls=":")
            axis.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
            axis.set_title(title)
            axis.set_xlabel("step")
            axis.set_ylim(-0.02, 1.02)
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{label}: mean over seeds, band one standard deviation", fontsize=10)
    save(figure, folder / f"dynamics_{label}")


def main(folder: Path) -> None:
    """Write README.md and the figures."""
    matplotlib.rcParams["svg.hashsalt"] = "projected_grpo"
    parts = [
        "# Dynamics by arm",
        "",
        f"Written by `uv run python scripts/draw_dynamics.py {folder}` from the rows in"
        " this folder; do not edit. Rates are those of student rows in training, on-policy, T = 1;"
        " intervals are 95 % t intervals over seeds. Unfinished runs (stopped, failed, killed)"
        " count with the steps that they have, each with its own last ones. The area is the mean of"
        " attempted over all steps; the flavours are those of the last steps' attempts.",
    ]
    found = read(folder)
    against = {label: compared(arms) for label, arms in found.items()}
    if any(against.values()):
        parts += ["", "## Against vanilla, seed by seed", "", against_vanilla(against)]
    for label, arms in found.items():
        runs = [run for mine in arms.values() for run in mine]
        some = runs[0].about
        parts += [
            "", f"## {label}", "",
            f"Model `{some.get('model', some['preset'])}`, {some['device']}, commit"
            f" {some['git_sha'][:7] if some['git_sha'] else 'unknown'}, other than today's preset"
            f" `{json.dumps(shared(runs))}`.",
            "", table(arms), "", flavours(arms),
            "", f"![{label}](dynamics_{label}.png)",
        ]  # fmt: skip
        draw(label, arms, folder)
    (folder / "README.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
