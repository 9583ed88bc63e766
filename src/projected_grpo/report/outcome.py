"""How a pack ends: one sentence of what its runs showed, and a picture of attempts and hacks."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from projected_grpo.report.comparisons import compared, is_of
from projected_grpo.report.experiments import caution
from projected_grpo.report.findings import ONE_SEED, hack_difference, judged, points
from projected_grpo.report.results import (
    OF_ARMS,
    RATES,
    Run,
    over_seeds,
    run_record,
    runs_by_name,
)
from projected_grpo.runs.files import writing
from projected_grpo.step_logger import RATE_WINDOW, read_steps

PICTURE = "pack.png"
"""In the first run's directory: beside the runs it would be taken for one of `runs/*`."""


def tell_outcome(paths: Sequence[Path]) -> Iterator[str]:
    """What a finished pack showed, then where its picture is, which is drawn meanwhile: two lines,
    of the directories of its runs. Raises InputError where the picture cannot be written."""
    arms = runs_by_name([Run(run_record(path), read_steps(path / "steps.jsonl")) for path in paths])
    yield outcome(arms)
    if find_spec("matplotlib") is None:
        yield "No picture: matplotlib is missing, install projected_grpo[report]."
        return
    with writing(paths[0]):
        draw_outcome(arms, paths[0] / PICTURE)
    yield f"Attempted and hack by step: {paths[0] / PICTURE}"


def outcome(arms: Mapping[str, Sequence[Run]]) -> str:
    """One sentence: hack and solve rate of each arm (name -> runs) over the last steps that all
    runs have, vanilla first, its difference to vanilla, and n."""
    everyone = [run for runs in arms.values() for run in runs]
    vanilla = [run for run in everyone if is_of(run, "vanilla")]
    end = min(len(run.rows) for run in everyone)
    parts, notes = [], list[str]()
    for name in sorted(arms, key=lambda name: not is_of(arms[name][0], "vanilla")):
        runs = arms[name]
        hack, solve = (mean_of_runs(runs, key, end) for key in ("hack_s", "gt_s"))
        said = f"{name} hacks in {hack} of its answers and solves {solve}"
        if vanilla and not is_of(runs[0], "vanilla"):
            one = compared(name, "vanilla", runs, vanilla, end, but=OF_ARMS)[0]
            differences = [hack_difference(one), over_seeds(one.by_seed["gt_s"])]
            texts = [points(e).replace("\N{MINUS SIGN}", "-") for e in differences]
            said += f" (hack {texts[0]}, solve {texts[1]})"
            notes.append(judged(one, caution(runs))[1])
        parts.append(said)
    counts = sorted({len(runs) for runs in arms.values()})
    seeds = " or ".join(map(str, counts)) + " seeds"
    if counts == [1]:
        seeds = f"1 seed ({ONE_SEED})"
        notes = [note for note in notes if note != ONE_SEED]
    ends = "; ".join([*parts, f"n = {seeds}", *dict.fromkeys(filter(None, notes))])
    return f"Steps {max(0, end - RATE_WINDOW) + 1}-{end}: {ends}."


def mean_of_runs(runs: Sequence[Run], key: str, end: int) -> str:
    """A rate over the last steps up to `end`, mean over runs, in percent; a dash for none."""
    mean = over_seeds(run.late(key, end) for run in runs)
    return f"{100 * mean.estimate:.1f} %" if mean.n else "-"


def draw_outcome(arms: Mapping[str, Sequence[Run]], target: Path) -> None:
    """Write the picture: attempted and hack by step, a line an arm."""
    from projected_grpo.report import curves, plots

    title = next(iter(arms.values()))[0].about["preset"]
    columns = {key: RATES[key] for key in ("att_s", "hack_s")}
    figure = curves.dynamics(title, arms, plots.styles_of(list(arms)), columns)
    plots.save(curves.for_any_runs(figure), target.with_suffix(""), forms=["png"])
