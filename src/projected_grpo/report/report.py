"""Tables, figures and one page to look at, from run directories alone; console script `report`.

    report/index.html               the page: nothing else is needed to read it
    report/tables/*.{md,csv,tex}    runs, arms, against_vanilla, against_controls, alignment,
                                    flavours
    report/figures/*.{png,svg}      for each experiment attempts_, dynamics_, differences_,
                                    alignment_, removed_, scores_

An experiment is what may be compared: runs of one preset that share all settings but those in which
the runs of a pack may differ. The same runs give the same files, byte for byte.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from loguru import logger

from projected_grpo.config import ConfigError
from projected_grpo.env.errors import InputError
from projected_grpo.report import plots
from projected_grpo.report.alignment import alignment_table
from projected_grpo.report.experiments import Experiment, commit, split
from projected_grpo.report.figures import FIGURE_KINDS, CaptionedFigure, figures_of
from projected_grpo.report.findings import findings
from projected_grpo.report.page import render
from projected_grpo.report.page.opening import Opening, origin_of, why_none
from projected_grpo.report.read import read
from projected_grpo.report.results import MEASURED, RATES, Run
from projected_grpo.report.rollouts import strong_pulls
from projected_grpo.report.tables import (
    Cell,
    Table,
    against_controls,
    against_vanilla,
    arms_table,
    flavours_table,
    number_or_none,
)
from projected_grpo.report.tasks import tasks_of
from projected_grpo.runs.commands import ReportConfig
from projected_grpo.runs.files import writing
from projected_grpo.runs.status import n_runs

TABLE_FORMATS = {"md": "pipe", "tex": "latex_booktabs"}
"""Suffix -> tabulate's name."""
TABLES = ("runs", "arms", "against_vanilla", "against_controls", "alignment", "flavours")
PAGE = "index.html"
MADE_BY_US = b"<title>projected_grpo: report</title>"
"""Every page of a report has it near its beginning."""
MOST_MB = 25
"""Beyond it browsers take seconds to open the page."""


def report(cfg: ReportConfig) -> None:
    """Write the report. Raises InputError where there is no run to report or no place to write,
    ConfigError for a negative number of rollouts."""
    if cfg.rollouts < 0:
        raise ConfigError(f"rollouts must not be negative, it is {cfg.rollouts}")
    require_replaceable(cfg.out)
    runs, left_out = read(cfg.runs, cfg.rollouts)
    missing = [*left_out, *(sentence for run in runs for sentence in run.cut)]
    for sentence in missing:
        logger.warning(sentence)
    if not runs:
        raise InputError(f"there is no run to report in {', '.join(map(str, cfg.runs))}")
    experiments = split(runs)
    tables, drawn = tables_of(experiments), [figures_of(e) for e in experiments]
    with writing(cfg.out):
        cfg.out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".report_", dir=cfg.out) as made:
            write(Path(made), experiments, tables, drawn, missing)
            replace_report(Path(made), cfg.out)
    size = (cfg.out / PAGE).stat().st_size / 1e6
    if size > MOST_MB:
        logger.warning(
            f"{cfg.out / PAGE} has {size:.0f} MB: fewer --rollouts (they were {cfg.rollouts} of "
            "each run) make it smaller"
        )
    print(
        f"{n_runs(len(runs))} -> {cfg.out / PAGE} ({size:.1f} MB), {len(tables)} tables in "
        f"{cfg.out / 'tables'}, {sum(map(len, drawn))} figures in {cfg.out / 'figures'}"
    )


# --- Files


def require_replaceable(out: Path) -> None:
    """Raises InputError where it is a file, or has a page that no report made."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: name a folder with --out")
    page = out / PAGE
    if page.exists() and (not page.is_file() or MADE_BY_US not in page.read_bytes()[:4096]):
        raise InputError(f"{page} is there and is no report: name another folder with --out")


def write(
    folder: Path,
    experiments: Sequence[Experiment],
    tables: Mapping[str, Table],
    drawn: Sequence[Mapping[str, CaptionedFigure]],
    missing: Sequence[str],
) -> None:
    """All files of the report, in a folder that is empty."""
    for name in ("tables", "figures"):
        (folder / name).mkdir()
    for name, table in tables.items():
        for suffix, form in TABLE_FORMATS.items():
            write_text(folder / "tables" / f"{name}.{suffix}", table.text(form) + "\n")
        write_text(folder / "tables" / f"{name}.csv", table.csv())
    chapters, openings = [], []
    for number, (e, found) in enumerate(zip(experiments, drawn, strict=True)):
        shown: dict[str, render.Drawing] = {}
        for place, kind in enumerate(kind for kind in FIGURE_KINDS if kind in found):
            path = folder / "figures" / f"{kind}_{e.file}"
            plots.save(found[kind].figure, path)
            svg = path.with_name(f"{path.name}.svg").read_text(encoding="utf-8")
            shown[kind] = drawing_of(found[kind], svg, 2 * (len(FIGURE_KINDS) * number + place))
        first = shown.pop("attempts", None)
        openings.append(opening_of(e, first))
        chapters.append(render.Chapter(e.name, f"figures-{number}", e.about, [*shown.values()]))
    notes = [note for e in experiments for note in e.notes]
    browsed = [shown for e in experiments for shown in browsed_runs(e, alone=len(experiments) == 1)]
    page = render.render_page(openings, chapters, tables, notes, missing, browsed)
    write_text(folder / PAGE, page)


def drawing_of(found: CaptionedFigure, svg: str, number: int) -> render.Drawing:
    """A figure, of which `svg` is the file, as the page shows it; it takes two numbers."""
    narrow = "" if found.narrow is None else render.inline(plots.as_svg(found.narrow), number + 1)
    return render.Drawing(found.caption, render.inline(svg, number), narrow)


def opening_of(e: Experiment, drawn: render.Drawing | None) -> Opening:
    """What the page says first of an experiment."""
    everything = [*e.against, *e.against_controls]
    said = findings([one for arm in e.arms for one in everything if one.name == arm], e.cautions)
    arms = [runs[0].about["arm"] for runs in e.arms.values()]
    alone = "" if said else why_none(arms, has_rows=any(run.rows for run in e.runs))
    figure = render.figure_markup(e.name, drawn) if drawn else ""
    return Opening(e.name, e.differs, said, alone, figure, origin_of(e.runs))


def browsed_runs(e: Experiment, *, alone: bool) -> list[render.BrowsedRun]:
    """The runs of an experiment as the browser of rollouts shows them: by arm and seed, and by the
    experiment where it is not `alone`. Strong pulls have one colour in all of them."""
    strong = strong_pulls(row for run in e.runs for group in run.sample.groups for row in group)
    found = []
    for arm, runs in e.arms.items():
        for run in runs:
            try:
                tasks, why = tasks_of(run.path, run.sample.groups), ""
            except InputError as error:
                tasks, why = {}, str(error)
            seed = f"{arm}, seed {run.about['seed']}"
            name = seed if alone else f"{e.name}: {seed}"
            found.append(render.BrowsedRun(run.about["run"], name, run.sample, strong, tasks, why))
    return found


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8 wherever this runs. What UTF-8 has no bytes for (half of a
    surrogate pair, a folder's name in another encoding) becomes a question mark."""
    path.write_text(text, encoding="utf-8", errors="replace")


def replace_report(made: Path, out: Path) -> None:
    """Put a report in the place of the one that is there, file by file, the page last: none is ever
    half written. What an earlier report has and this one has not is removed, nothing else."""
    new = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    for name in ("tables", "figures"):
        (out / name).mkdir(exist_ok=True)
    for path in sorted(new, key=lambda path: path.name == PAGE):
        os.replace(made / path, out / path)
    for path in [*(out / "tables").iterdir(), *(out / "figures").iterdir()]:
        if path.relative_to(out) not in new and is_report_file(path):
            path.unlink()


def is_report_file(path: Path) -> bool:
    """Is it named as the tables and figures of a report are?"""
    if path.parent.name == "tables":
        return path.stem in TABLES and path.suffix in (".md", ".csv", ".tex")
    return path.stem.startswith(tuple(f"{k}_" for k in FIGURE_KINDS)) and path.suffix in (
        ".png",
        ".svg",
    )


# --- Tables


def tables_of(experiments: Sequence[Experiment]) -> dict[str, Table]:
    """File name -> table, over all experiments."""

    def stacked(made: Callable[[Mapping[str, Sequence[Run]]], Table]) -> Table:
        return stack_tables(experiments, [made(e.arms) for e in experiments])

    return {
        "runs": runs_table(experiments),
        "arms": stacked(arms_table),
        "against_vanilla": against_vanilla({e.name: e.against for e in experiments}),
        "against_controls": against_controls({e.name: e.against_controls for e in experiments}),
        "alignment": stacked(alignment_table),
        "flavours": stacked(flavours_table),
    }


def stack_tables(experiments: Sequence[Experiment], tables: Sequence[Table]) -> Table:
    """One table of several with the same columns, the experiment's name first."""
    pairs = zip(experiments, tables, strict=True)
    body = [[e.name, *row] for e, table in pairs for row in table.body]
    return Table(["experiment", *tables[0].headers], body, tables[0].estimators)


def runs_table(experiments: Sequence[Experiment]) -> Table:
    """One line a run, in the order in which the page has them."""
    body: list[list[Cell]] = []
    for e in experiments:
        for arm, runs in e.arms.items():
            for run in runs:
                about = run.about
                steps = f"{len(run.rows)}/{run.settings['steps']}"
                cells: list[Cell] = [arm, about["seed"]]
                cells += [number_or_none(run.late(key)) for key in RATES]
                status = about["status"] or "no end recorded"
                cells += [run.onset(), steps, f"{status}, files cut" if run.cut else status]
                cells += [number_or_none(run.late(key)) for key in MEASURED]
                cells += [e.name, about["run"], about["device"], commit(run)]
                body.append(cells)
    headers = ["arm", "seed", *RATES.values(), "onset", "steps", "status", *MEASURED]
    headers += ["experiment", "run", "device", "commit"]
    return Table(headers, body)
