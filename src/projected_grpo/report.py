"""Tables, figures and one page to look at, from run directories alone; console script `report`.

    report/index.html               the page: nothing else is needed to read it
    report/tables/*.{md,csv,tex}    runs, arms, against_vanilla, flavours
    report/figures/*.{png,svg}      for each experiment dynamics_, alignment_, differences_, scores_

An experiment is what may be compared: runs of one preset that share all settings but those in which
the runs of a pack may differ. The same runs give the same files, byte for byte.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
from loguru import logger

from projected_grpo import figures, report_page
from projected_grpo.catalogue import RunError
from projected_grpo.cli import ReportConfig
from projected_grpo.config import CAUTIONS, PER_RUN, ArmName, ConfigError
from projected_grpo.results import (
    RATES,
    Cell,
    Comparison,
    Run,
    Table,
    against_vanilla,
    arms_table,
    compared,
    flavours_table,
    named,
    over_seeds,
    run_record,
    same_experiment,
    shared,
)
from projected_grpo.rollout_sample import RolloutSample, sample_rollouts
from projected_grpo.stats import Estimate, Floats
from projected_grpo.step_logger import footnote, marked, read_steps

FILES = ("config.json", "run.json", "steps.jsonl", "rollouts.jsonl")
"""What a run directory must have to be reported."""
ALIGNMENT = {
    "cos_pre_s": "cos_pre, student rows",
    "cos_pre_t": "cos_pre, teacher rows",
    "removed_frac": "removed fraction, gradient",
    "removed_frac_update": "removed fraction, update",
}
"""Column -> what figures call it."""
FORMS = {"md": "pipe", "tex": "latex_booktabs"}
"""Suffix -> tabulate's name."""


class StoredRun(Run):
    """A run read from its directory."""

    def __init__(self, path: Path, rollouts: int) -> None:
        """Raises OSError, KeyError, TypeError or ValueError where its files are damaged."""
        super().__init__(run_record(path), read_steps(path / "steps.jsonl"))
        self.path = path
        self.sample: RolloutSample = sample_rollouts(path / "rollouts.jsonl", rollouts)


@dataclass(frozen=True)
class Experiment:
    """Runs that may be compared."""

    name: str
    runs: Sequence[StoredRun]

    @property
    def file(self) -> str:
        """Its part of file names."""
        return self.name.replace(" ", "_").replace("(", "").replace(")", "")

    @cached_property
    def arms(self) -> Mapping[str, Sequence[StoredRun]]:
        """name -> runs, vanilla first; a dagger marks arms whose curve is not to be compared with
        others'."""
        order = get_args(ArmName)
        found = sorted(
            named(self.runs).items(), key=lambda item: order.index(item[1][0].about["arm"])
        )
        return {marked(name, {name: caution(runs)}): runs for name, runs in found}

    @cached_property
    def against(self) -> list[Comparison]:
        """Every arm against vanilla; none where no run has a step."""
        return compared(self.arms) if any(run.rows for run in self.runs) else []

    @property
    def about(self) -> str:
        """What its runs have in common."""
        abouts = [run.about for run in self.runs]
        shas = sorted({(about["git_sha"] or "unknown")[:7] for about in abouts})
        settings = json.dumps(shared(self.runs))
        return (
            f"{len(abouts)} runs, model {self.runs[0].settings['model']}, "
            f"{', '.join(sorted({about['device'] for about in abouts}))}, commit "
            f"{', '.join(shas)}; other than today's preset: {settings}."
        )

    @property
    def note(self) -> str:
        """What its daggers mean; empty where it has none."""
        return footnote({name: caution(runs) for name, runs in named(self.runs).items()})


def caution(runs: Sequence[Run]) -> str:
    """Why the training curve of an arm is not to be compared with others'; empty: it may be."""
    return CAUTIONS.get(runs[0].about["arm"], "")


def report(cfg: ReportConfig) -> None:
    """Write the report. Raises RunError where there is no run to report or no place to write,
    ConfigError for a negative number of rollouts."""
    if cfg.rollouts < 0:
        raise ConfigError(f"rollouts must not be negative, it is {cfg.rollouts}")
    runs, left_out = read(cfg.runs, cfg.rollouts)
    for sentence in left_out:
        logger.warning(sentence)
    if not runs:
        raise RunError(f"there is no run to report in {', '.join(map(str, cfg.runs))}")
    experiments = split(runs)
    tables, drawn = tables_of(experiments), figures_of(experiments)
    try:
        for folder in ("tables", "figures"):
            (cfg.out / folder).mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            for suffix, form in FORMS.items():
                write(cfg.out / "tables" / f"{name}.{suffix}", table.text(form) + "\n")
            write(cfg.out / "tables" / f"{name}.csv", table.csv())
        for name, figure in drawn.items():
            figures.save(figure, cfg.out / "figures" / name)
        chapters = chapters_of(experiments, cfg.out / "figures", drawn)
        notes = [e.note for e in experiments if e.note]
        samples = {run.about["run"]: run.sample for e in experiments for run in e.runs}
        page = report_page.page(chapters, tables, notes, left_out, samples)
        write(cfg.out / "index.html", page)
    except OSError as error:
        raise RunError(f"cannot write to {cfg.out}: {error.strerror}") from error
    size = (cfg.out / "index.html").stat().st_size / 1e6
    print(
        f"{len(runs)} runs -> {cfg.out / 'index.html'} ({size:.1f} MB), {len(tables)} tables in "
        f"{cfg.out / 'tables'}, {len(drawn)} figures in {cfg.out / 'figures'}"
    )


def write(path: Path, text: str) -> None:
    """A text file, in UTF-8 wherever this runs."""
    path.write_text(text, encoding="utf-8")


# --- Reading


def read(roots: Iterable[Path], rollouts: int) -> tuple[list[StoredRun], list[str]]:
    """The runs of these directories and folders of them, with up to so many rollouts each; and a
    sentence for everything that was left out. Raises RunError for a folder that is not there."""
    paths: dict[Path, Path] = {}
    left_out: list[str] = []
    for root in roots:
        if not root.is_dir():
            raise RunError(f"there is no folder {root}")
        found = run_directories(root)
        paths |= {path.resolve(): path for path in found}
        if not found:
            left_out.append(f"{root} is left out: there is no run in it")
    best: dict[tuple[str, ...], StoredRun] = {}
    for path in paths.values():
        if missing := [name for name in FILES if not (path / name).is_file()]:
            left_out.append(f"{path} is left out: it has no {' and no '.join(missing)}")
            continue
        try:
            run = StoredRun(path, rollouts)
            key = (run.about["preset"], run.about["arm"], same_experiment(run))
        except (KeyError, TypeError, ValueError) as error:
            left_out.append(f"{path} is left out: damaged or of another version ({error})")
            continue
        other = best.get(key)
        if other is None or len(run.rows) >= len(other.rows):
            best[key] = run
        if other is not None:
            kept, dropped = best[key], other if best[key] is run else run
            left_out.append(
                f"{dropped.path} is left out: it is the same experiment as {kept.path}, which has "
                f"{len(kept.rows)} steps where it has {len(dropped.rows)}"
            )
    names = Counter(run.path.name for run in best.values())
    for run in best.values():
        if names[run.path.name] > 1:  # in two folders
            run.about["run"] = str(run.path)
    return sorted(best.values(), key=lambda run: (run.about["seed"], run.about["run"])), left_out


def run_directories(root: Path) -> list[Path]:
    """The folders in `root`, itself included, that hold a run or what is left of one; hidden ones
    are of runs that were killed at their start."""
    marks = (path for name in ("run.json", "steps.jsonl") for path in root.rglob(name))
    return sorted({path.parent for path in marks if not path.parent.name.startswith(".")})


def split(runs: Sequence[StoredRun]) -> list[Experiment]:
    """The experiments, by preset."""
    found: dict[tuple[str, str], list[StoredRun]] = defaultdict(list)
    for run in runs:
        common = {k: v for k, v in run.settings.items() if k not in {*PER_RUN} - {"lr"}}
        found[run.about["preset"], json.dumps(common, sort_keys=True)].append(run)
    presets = Counter(preset for preset, _ in found)
    number: Counter[str] = Counter()
    made = []
    for (preset, _), mine in sorted(found.items()):
        number[preset] += 1
        made.append(
            Experiment(f"{preset} ({number[preset]})" if presets[preset] > 1 else preset, mine)
        )
    return made


# --- What is written


def tables_of(experiments: Sequence[Experiment]) -> dict[str, Table]:
    """File name -> table, over all experiments."""
    return {
        "runs": runs_table(experiments),
        "arms": joined(experiments, [arms_table(e.arms) for e in experiments]),
        "against_vanilla": against_vanilla({e.name: e.against for e in experiments}),
        "flavours": joined(experiments, [flavours_table(e.arms) for e in experiments]),
    }


def joined(experiments: Sequence[Experiment], tables: Sequence[Table]) -> Table:
    """One table of several with the same columns, the experiment's name first."""
    pairs = zip(experiments, tables, strict=True)
    body = [[e.name, *row] for e, table in pairs for row in table.body]
    return Table(["experiment", *tables[0].headers], body)


def runs_table(experiments: Sequence[Experiment]) -> Table:
    """One line a run, in the order in which the page has them."""
    body: list[list[Cell]] = []
    for e in experiments:
        for arm, runs in e.arms.items():
            for run in runs:
                about = run.about
                steps = f"{len(run.rows)}/{run.settings['steps']}"
                cells: list[Cell] = [about["run"], e.name, arm, about["seed"]]
                cells += [about["status"] or "no end recorded", steps]
                cells += [over_seeds([run.late(key)]) for key in RATES]
                cells += [run.onset(), *(over_seeds([run.late(key)]) for key in ALIGNMENT)]
                cells += [about["device"], (about["git_sha"] or "unknown")[:7]]
                body.append(cells)
    headers = ["run", "experiment", "arm", "seed", "status", "steps", *RATES.values(), "onset"]
    headers += [*ALIGNMENT, "device", "commit"]
    return Table(headers, body)


def figures_of(experiments: Sequence[Experiment]) -> dict[str, figures.Figure]:
    """File name -> figure; those without anything to draw are left out."""
    found = {}
    for e in experiments:
        styles = figures.styles_of(list(e.arms))
        if any(run.rows for run in e.runs):
            drawn = figures.dynamics(e.name, e.arms, styles)
            found[f"dynamics_{e.file}"] = figures.for_any_runs(drawn)
        if measured := measured_of(e):
            drawn = figures.dynamics(e.name, e.arms, styles, measured, limits=None)
            found[f"alignment_{e.file}"] = figures.for_any_runs(drawn)
        if lines := differences_of(e):
            title = f"{e.name}, steps {e.against[0].steps}"
            projected = [name for name in lines if name.startswith("projected")]
            found[f"differences_{e.file}"] = figures.forest(title, lines, projected, {})
        scores = {name: scores_of(runs) for name, runs in e.arms.items()}
        scores = {name: kinds for name, kinds in scores.items() if any(map(len, kinds.values()))}
        if scores:
            title = f"{e.name}: hack scores of student rows, all steps and seeds, by density"
            found[f"scores_{e.file}"] = figures.distributions(title, scores)
    return found


def measured_of(e: Experiment) -> dict[str, str]:
    """The columns of `ALIGNMENT` that some row of the experiment has."""
    rows = [row for run in e.runs for row in run.rows]
    return {
        key: title
        for key, title in ALIGNMENT.items()
        if any(row.get(key) is not None for row in rows)
    }


CAPTIONS = {
    "dynamics": "Attempted, hack and solve rate of student rows by step: mean over seeds, band one "
    "standard deviation, dotted where some runs have no rows any more.",
    "alignment": "Alignment of the gradient with the hack directions before projection, of student "
    "and of teacher rows (above 0 is hack-ward), and the part of the gradient or of AdamW's step "
    "that the arm removes; only what was measured.",
    "differences": "Every arm less the vanilla runs of its seeds: mean paired difference with its "
    "95 % t interval over seeds. With two or three seeds these intervals are wide.",
    "scores": "Hack scores (alignment of a row's own gradient with the hack directions) of student "
    "rows that hack, that solve and that do neither, each scaled to the same area; only rows "
    "that were scored (those with a gradient).",
}


def chapters_of(
    experiments: Sequence[Experiment], folder: Path, drawn: Iterable[str]
) -> list[report_page.Chapter]:
    """The experiments with the figures that were written of them."""
    chapters = []
    for number, e in enumerate(experiments):
        found = []
        for n, (what, caption) in enumerate(CAPTIONS.items()):
            if (name := f"{what}_{e.file}") in drawn:
                svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
                found.append((caption, report_page.inline(svg, len(CAPTIONS) * number + n)))
        chapters.append(report_page.Chapter(e.name, f"figures-{number}", e.about, found))
    return chapters


def differences_of(e: Experiment) -> dict[str, dict[str, Estimate]]:
    """arm -> rate -> difference to vanilla, where two seeds or more give every one an interval and
    the training curve is that of what is deployed."""
    lines: dict[str, dict[str, Estimate]] = {}
    for one in e.against:
        found = {key: over_seeds(one.by_seed[key]) for key in RATES}
        whole = {key: value for key, value in found.items() if isinstance(value, Estimate)}
        if len(whole) == len(RATES) and not caution(e.arms[one.name]):
            lines.setdefault(one.name, whole)  # at the horizon that all arms share
    return lines


def scores_of(runs: Sequence[StoredRun]) -> dict[str, Floats]:
    """kind -> hack scores over runs."""
    return {
        kind: np.array([score for run in runs for score in run.sample.scores[kind]])
        for kind in figures.KINDS
    }
