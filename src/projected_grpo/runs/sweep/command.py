"""Sweeps: cells of arms x seeds x presets x overrides, given to a launcher as ordinary commands.

What is finished, running or waiting in the queue is left alone; what was stopped goes on where it
was; the rest begins. All of that is read from run directories and the queue, each time anew.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loguru import logger
from tabulate import tabulate

from projected_grpo.arms.basis_record import MADE_FORMERLY, basis_record
from projected_grpo.arms.yoked import leaders
from projected_grpo.config import Config, ConfigError, varied
from projected_grpo.env.errors import InputError
from projected_grpo.runs.commands import train_settings
from projected_grpo.runs.status import (
    Progress,
    n_runs,
    read_progress,
    representative,
    runs_by_settings,
)
from projected_grpo.runs.sweep.grid import Command, expand_grid, queue_name, short_digest
from projected_grpo.runs.sweep.job import LaunchOptions, NoQueueError, SweepJob
from projected_grpo.runs.sweep.launchers import LAUNCHERS
from projected_grpo.runs.sweep.settings import (
    Launch,
    LocalOptions,
    PueueOptions,
    SlurmOptions,
    SweepResume,
    SweepRun,
)

OF_THE_BASIS = (
    *("model", "model_revision", "enable_thinking", "dtype", "device", "svd_cache"),
    *("pairs", "pair_norm", "v_axes", "temperature", "adapter"),
)
"""Settings of `train` that `extract-vhack` has too: its basis is for runs with the same."""
OF_LORA = ("lora_rank", "lora_alpha")
"""The same for cells with adapter = lora; those of another adapter ignore them."""
SAID_BY_A_BASIS = ("model", "adapter", "temperature", "enable_thinking", *MADE_FORMERLY)
"""Settings that a file of hack directions names, where it is of this version; a run with others
would refuse it."""
GOES_ON = ("stopped", "failed", "died")
UNDER_WAY = ("finished", "running")


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done about one cell or run."""

    name: str
    what: str
    """begin, resume, or why nothing is done."""
    command: Command = ()
    """The command line; empty where nothing is done."""


def launch_sweep(asked: SweepRun, flags: Sequence[str]) -> None:
    """Launch the cells that are neither finished nor under way; `flags` are those of `train` for
    all of them. Raises ConfigError for a sweep that contradicts itself, InputError where launching
    or a cell fails, KeyboardInterrupt where it was stopped."""
    why = asked.why + (f"; resolve: {asked.resolve}" if asked.resolve else "")
    basis = [f"--v-hack={asked.extract}"] if asked.extract else []
    about = [f"--out-dir={asked.out_dir}", *([f"--why={why}"] if why else [])]
    wanted = expand_grid(
        asked.presets, asked.arms, asked.seeds, asked.override, [*basis, *flags], about
    )  # fmt: skip
    for cell in wanted:  # each is a process of its own
        leaders([cell.cfg])
    queued = _queued(asked)
    there = runs_by_settings(asked.out_dir)
    decisions: list[Decision] = []
    for cell in wanted:
        if runs := there.get(cell.cfg.identity()):
            one = representative(runs)
            decisions.append(
                _decide(cell.name, one, cell.resume_command(one.run), queued, asked.elsewhere)
            )
        elif cell.name in queued:
            decisions.append(Decision(cell.name, "queued"))
        else:
            decisions.append(Decision(cell.name, "begin", cell.start_command()))
    after = ""
    begins = any(one.what == "begin" for one in decisions)
    if asked.extract and begins and asked.extract.is_file():
        require_basis_of_cells(asked.extract, [cell.cfg for cell in wanted])
    elif asked.extract and begins:
        after = f"extract_{asked.extract.stem}_{short_digest(str(asked.extract.absolute()))}"
        basis_command = extraction([cell.cfg for cell in wanted], asked.extract)
        first = Decision(after, "begin", basis_command)
        decisions.insert(0, Decision(after, "queued") if after in queued else first)
    _launch(asked, decisions, queued, why, after)


def resume(asked: SweepResume, flags: Sequence[str]) -> None:
    """Go on with every run of a folder that was stopped, failed or died; of those with the same
    settings, the longest. `flags` are for all of them. Raises as
    `launch_sweep` does."""
    queued = _queued(asked)
    decisions: list[Decision] = []
    for runs in runs_by_settings(asked.out_dir).values():
        one = representative(runs)
        command = ("train", one.cfg.preset_name, f"--resume={one.run}", *flags)
        train_settings(command[1:])  # refuses what `train` would
        if one.state not in UNDER_WAY:
            leaders([one.cfg])
        decisions.append(_decide(queue_name(one.cfg), one, command, queued, asked.elsewhere))
    _launch(asked, decisions, queued)


def status(folder: Path) -> str:
    """A table of a folder's runs, and how many there are of each state."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: name the one of the runs by --out-dir")
    runs = sorted(run for runs in runs_by_settings(folder).values() for run in runs)
    if not runs:
        return f"no runs in {folder}"
    found = [read_progress(run) for run in runs]
    names = varied([vars(one.cfg) for one in found], but=("arm", "seed"))
    rows = [
        {
            "run": one.run.name,
            "state": one.state,
            "steps": f"{one.steps}/{one.cfg.steps}",
            "last row": _ago(one.idle_s) if one.steps else "-",
            "settings": " ".join(f"{name}={vars(one.cfg)[name]}" for name in names),
            "why": one.cfg.why,
        }
        for one in found
    ]
    used = [key for key in rows[0] if any(row[key] for row in rows)]
    counts = Counter(one.state for one in found)
    table = tabulate([[row[key] for key in used] for row in rows], used, tablefmt="plain")
    summary = ", ".join(f"{n} {state}" for state, n in counts.most_common())
    return f"{table}\n\n{n_runs(len(found))} in {folder}: {summary}"


def extraction(cfgs: Sequence[Config], out: Path) -> Command:
    """The command that makes the basis of all cells. Raises ConfigError where they need several."""
    lora = any(cfg.adapter == "lora" for cfg in cfgs)
    names = (*OF_THE_BASIS, *(OF_LORA if lora else ()))
    for name in names:
        values = {str(vars(cfg)[name]) for cfg in cfgs}
        if len(values) > 1:
            raise ConfigError(
                f"one extraction cannot serve cells with {name} = {' and '.join(sorted(values))}: "
                "sweep over one of them at a time, or leave --extract out"
            )
    had = {name: vars(cfgs[0])[name] for name in names}
    if (
        had["model_revision"] == Config.model_revision
    ):  # which a model that is not of the hub refuses
        had.pop("model_revision")
    flags = (_flag(name, value) for name, value in had.items() if value not in (None, False))
    return ("extract-vhack", f"--out={out}", *flags)


def require_basis_of_cells(file: Path, cfgs: Sequence[Config]) -> None:
    """Raises ConfigError where a file of hack directions says that it is of other settings than a
    cell's, InputError where it cannot be read. Reads its header only; what that does not say (of
    an earlier version the adapter) is left to the run."""
    said = basis_record(file)
    for name in SAID_BY_A_BASIS:
        for value in sorted({str(vars(cfg)[name]) for cfg in cfgs}):
            if said.get(name, value) != value:
                raise ConfigError(
                    f"{file} was extracted with {name} = {said[name]}, cells have {value}: name "
                    "another file with --extract, or give this one by --v-hack after -- and leave "
                    "it to the runs to judge"
                )


def _flag(name: str, value: object) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag}={value}"


def _queued(asked: Launch) -> Mapping[str, str]:
    """What the chosen queue holds; of one that is not here nothing, if all is only to be said.
    Raises ConfigError for options of another launcher."""
    for name, options in (
        ("local", LocalOptions),
        ("pueue", PueueOptions),
        ("slurm", SlurmOptions),
    ):
        if name != asked.launcher and vars(asked)[name] != options():
            raise ConfigError(
                f"--{name}.* are options of --launcher={name}, not of {asked.launcher}: leave "
                "them out, or choose that one"
            )
    try:
        return LAUNCHERS[asked.launcher].queued()
    except NoQueueError as error:
        if not asked.dry_run:
            raise
        logger.warning("{}; what waits in its queue is not known here", error)
        return {}


def _decide(
    name: str, one: Progress, command: Command, queued: Mapping[str, str], elsewhere: bool
) -> Decision:
    """What becomes of a run that is there. `elsewhere`: also of one that cannot be seen."""
    if one.state in UNDER_WAY:
        return Decision(name, one.state)
    if name in queued:
        return Decision(name, "queued")
    if one.state in GOES_ON or elsewhere:
        return Decision(name, "resume", command)
    return Decision(name, one.state)


def _launch(
    asked: Launch,
    decisions: Sequence[Decision],
    queued: Mapping[str, str],
    why: str = "",
    after: str = "",
) -> None:
    """Say what becomes of each, and do it. What begins does so after the job `after`."""
    for one in decisions:
        logger.info("{: <9} {}  {}", one.what, one.name, shlex.join(one.command))
    jobs = [
        SweepJob(
            name=one.name,
            command=one.command,
            why=why,
            after=after if one.what == "begin" and one.name != after else "",
        )
        for one in decisions
        if one.command
    ]
    if any(one.what == "elsewhere" for one in decisions):
        logger.warning(
            "runs that are elsewhere recorded no end and may still be running on another host: "
            "--elsewhere goes on with them, where you know that they are not"
        )
    logger.info("{} of {} to launch with {}", len(jobs), len(decisions), asked.launcher)
    if jobs and not asked.dry_run:
        logs = asked.out_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        how = LaunchOptions(logs=logs, local=asked.local, pueue=asked.pueue, slurm=asked.slurm)
        LAUNCHERS[asked.launcher].run(jobs, queued, how)


def _ago(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min ago" if minutes < 90 else f"{minutes / 60:.0f} h ago"
