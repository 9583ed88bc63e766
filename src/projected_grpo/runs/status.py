"""How far the runs of a folder are, and by which settings each was made.

All of it is read from the run directories (config.json, run.json, steps.jsonl); nothing is kept
elsewhere, so nothing else can disagree with them. Imports no torch: `sweep status` answers at once.
"""

import json
import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from loguru import logger

from projected_grpo.config import MACHINE_SETTINGS, Config, ConfigError, stored_config
from projected_grpo.env.errors import InputError

PROC = Path("/proc")

State = Literal["finished", "running", "stopped", "failed", "died", "elsewhere"]
"""finished; running (its process lives on this host); stopped (by a signal, saved); failed (by an
error); died (no end recorded and its process is gone: killed, out of memory); elsewhere (no end
recorded, and its process is not to be seen from here: another host or container, this one before it
was started anew, or no /proc)."""


def read_settings(run: Path, preset: type[Config] | None = None) -> Config:
    """The settings that a run was started with, by its own preset or as those of another. Raises
    InputError where they cannot be read."""
    read = stored_config if preset is None else preset.from_json
    try:
        return read((run / "config.json").read_text(encoding="utf-8"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{run / 'config.json'} is damaged or of another version ({error})"
        ) from error


def require_run(path: Path) -> None:
    """Raises InputError unless a run lies there."""
    if not path.is_dir():
        what = "that is a file" if path.exists() else "no such folder"
        raise InputError(f"there is no run at {path} ({what}): `sweep status` lists those in runs/")
    for name in ("config.json", "run.json", "steps.jsonl", "rollouts.jsonl"):
        if not (path / name).is_file():
            raise InputError(f"there is no run at {path} (no {name})")


def resumed_settings(asked: Config, run: Path, named: Collection[str] = ()) -> Config:
    """The stored settings of a run, but for where and how fast it goes on. Raises ConfigError where
    other ones are asked for: by a value that is not the preset's, or by name, whatever the
    value; InputError where the stored ones cannot be read."""
    preset = json_preset(run)
    if preset not in (None, asked.preset_name):
        raise ConfigError(
            f"{run} is a {preset} run: resume it with `train {preset} --resume={run}`"
        )
    stored = read_settings(run, type(asked))
    default = vars(type(asked)())
    given = {k: value for k, value in vars(asked).items() if value != default[k] or k in named}
    if given.get("steps", 0) > stored.steps:
        require_extendable(run, stored, given["steps"])
        stored = extended(stored, given.pop("steps"))
    for name, wanted in given.items():
        had = vars(stored)[name]
        if name not in (*MACHINE_SETTINGS, "resume") and wanted != had:
            raise ConfigError(
                f"{run} was started with {name} = {had}; it cannot be resumed with {wanted}: "
                f"leave --{name.replace('_', '-')} out, or start a new run"
            )
    return replace(stored, **{name: given[name] for name in MACHINE_SETTINGS if name in given})


def require_extendable(run: Path, stored: Config, steps: int) -> None:
    """Raises ConfigError where the first steps of a run would not be those of one with more."""
    length = f"{run} has {stored.steps} steps and cannot be extended to {steps}"
    if stored.lr_schedule != "constant":
        raise ConfigError(
            f"{length}: under lr_schedule {stored.lr_schedule} every step's learning rate follows "
            "from the number of steps, and is 0 at their end; begin a run of that length, or one "
            "with --lr-schedule=constant, which can be extended"
        )
    if stored.v_hack_k_end:
        raise ConfigError(
            f"{length}: its k grows to v_hack_k_end {stored.v_hack_k_end} at the last step, so "
            "that its first steps would have had a smaller k; begin a run of that length"
        )


def extended(stored: Config, steps: int) -> Config:
    """The settings of a run that is extended. As many steps warm up as did: warmup_frac is a share,
    and becomes one of the new number of steps where it gives another."""
    longer = replace(stored, steps=steps)
    if longer.warmup_steps == stored.warmup_steps:
        return longer
    return replace(longer, warmup_frac=stored.warmup_steps / steps)


def json_preset(run: Path) -> str | None:
    """The preset that a run's config.json names; None where it cannot be read."""
    try:
        return json.loads((run / "config.json").read_text(encoding="utf-8"))["preset"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def runs_by_settings(folder: Path) -> dict[str, list[Path]]:
    """The run directories of a folder by what decides them; finished ones first, then by length.
    One that cannot be read is left out with a warning."""
    found: dict[str, list[tuple[bool, int, Path]]] = {}
    # by run.json: a folder with only a config.json may be a model
    for file in sorted(folder.glob("[!.]*/run.json")):
        run = file.parent
        try:
            one = read_progress(run)
            settings, finished = one.cfg.identity(), one.state == "finished"
            length = (run / "steps.jsonl").stat().st_size
        except (InputError, OSError) as error:
            logger.warning("{} is left out: {}", run, error)
            continue
        found.setdefault(settings, []).append((finished, length, run))
    return {key: [run for *_, run in sorted(runs, reverse=True)] for key, runs in found.items()}


def n_runs(n: int) -> str:
    """The number with its noun: 1 run, 2 runs."""
    return f"{n} run" if n == 1 else f"{n} runs"


def is_finished(run: Path) -> bool:
    """Whether it has taken all its steps."""
    return read_record(run).get("status") == "finished"


def read_record(run: Path) -> dict[str, Any]:
    """What run.json says. Raises InputError where it cannot be read."""
    file = run / "run.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is damaged ({error}): restore it, or start a new run") from error
    if not isinstance(record, dict):
        raise InputError(f"{file} is damaged (no JSON object): restore it, or start a new run")
    return record


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    run: Path
    cfg: Config
    state: State
    steps: int
    idle_s: float
    """Seconds since the last row was written."""


def read_progress(run: Path) -> Progress:
    """Read how far a run is. Raises InputError where its settings cannot be read."""
    rows = run / "steps.jsonl"
    return Progress(
        run=run,
        cfg=read_settings(run),
        state=_state(read_record(run)),
        steps=rows.read_bytes().count(b"\n"),
        idle_s=time.time() - rows.stat().st_mtime,
    )


def representative(runs: Sequence[Path]) -> Progress:
    """The run that speaks for those with the same settings, given in the order of
    `runs_by_settings`: one that is finished, one that is running, or else the longest."""
    found = [read_progress(run) for run in runs]
    order: tuple[State, ...] = ("finished", "running")
    return next((one for state in order for one in found if one.state == state), found[0])


def runs_in_another_process(run: Path) -> bool:
    """Whether a process of this host, other than this one, runs it now."""
    record = read_record(run)
    return _state(record) == "running" and _latest(record)["process"]["pid"] != os.getpid()


def model_commit(record: Mapping[str, Any]) -> str | None:
    """The commit of the hub that a run's base model was loaded at, by its run.json. An early run
    has recorded it only when it was resumed. None for a model that is not from the hub."""
    found = (entry.get("model_commit") for entry in (record, *record.get("resumed", ())))
    return next((commit for commit in found if commit), None)


def _latest(record: dict[str, Any]) -> dict[str, Any]:
    return record["resumed"][-1] if "resumed" in record else record


def _state(record: dict[str, Any]) -> State:
    if "status" in record:
        return record["status"]
    try:
        process, here = _latest(record).get("process"), this_process()
        if process is None or here is None:  # a run of an earlier version, or no /proc
            return "elsewhere"
        if any(process[name] != here[name] for name in ("host", "boot", "pid_namespace")):
            return "elsewhere"
        return "running" if _start_ticks(process["pid"]) == process["began"] else "died"
    except (AttributeError, LookupError, TypeError) as error:
        raise InputError(f"its run.json is damaged: {error!r} of its process") from error


def this_process() -> dict[str, Any] | None:
    """Which process this is: its number alone would not do, as another may get it later, and has it
    in another container. None without /proc (macOS)."""
    if not PROC.is_dir():
        return None
    return {
        "host": socket.gethostname(),
        "boot": (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        "pid_namespace": os.readlink(PROC / "self/ns/pid"),
        "pid": os.getpid(),
        "began": _start_ticks(os.getpid()),
    }


def _start_ticks(pid: int) -> int | None:
    """When a living process began, in clock ticks since the host did; None where there is none."""
    try:
        # what follows the name, which may hold anything: the state, and 19 fields on the start
        fields = (PROC / f"{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
