"""What `sweep` is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from projected_grpo.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """Of --launcher=local."""

    at_once: int = 0
    """Jobs that run at the same time; 0: as many as there are GPUs, or one."""
    gpus: tuple[str, ...] = ()
    """Ids handed out through CUDA_VISIBLE_DEVICES, one a job, in turn where more jobs run than
    there are; default all that are visible here."""

    def __post_init__(self) -> None:
        if self.at_once < 0:
            raise ConfigError(f"at_once must not be negative, it is {self.at_once}")


@dataclass(frozen=True, kw_only=True)
class PueueOptions:
    """Of --launcher=pueue."""

    group: str = "default"
    """Group of the tasks; made where it is not there."""
    gpus: tuple[str, ...] = ()
    """Ids of GPUs, one for each slot of the group: its nth slot sees the nth of them through
    CUDA_VISIBLE_DEVICES. Without, tasks see what the daemon's user sees."""


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Of --launcher=slurm."""

    minutes: int = 240
    """Time limit of a job. One that reaches it saves, is queued again and goes on, up to three
    times."""
    grace_s: int = 300
    """Seconds before the limit at which a job is told to save: more than a step takes."""
    gpus: int = 1
    """GPUs of a job; 0 asks for none."""
    cpus: int = 8
    """CPU cores of a job: they grade."""
    partition: str = ""
    """Default: the site's."""
    sbatch: tuple[str, ...] = ()
    """Any other options of sbatch, such as account=alignment mem=64G."""

    def __post_init__(self) -> None:
        if not 0 < self.grace_s < 60 * self.minutes:
            raise ConfigError(
                f"grace_s {self.grace_s} must lie above 0 and below the {60 * self.minutes} "
                f"seconds of minutes = {self.minutes}"
            )
        if odd := [option for option in self.sbatch if "=" not in option]:
            raise ConfigError(f"an option of sbatch is NAME=VALUE, not {odd[0]!r}")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What `sweep run` and `sweep resume` have in common."""

    out_dir: Path = Path("runs")
    """Folder of the run directories; what jobs print goes to its folder logs."""
    launcher: Literal["local", "pueue", "slurm"] = "local"
    """local runs jobs here, some at a time, and waits; pueue and slurm queue them."""
    local: LocalOptions = field(default_factory=LocalOptions)
    """Of --launcher=local."""
    pueue: PueueOptions = field(default_factory=PueueOptions)
    """Of --launcher=pueue."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    """Of --launcher=slurm."""
    elsewhere: bool = False
    """Also go on with runs that recorded no end and cannot be seen from here (another host, or this
    one before it was started anew): only where you know that nothing runs them any more."""
    dry_run: bool = False
    """Only say what would be launched."""


@dataclass(frozen=True, kw_only=True)
class SweepRun(Launch):
    """Run every cell of arms x seeds x presets x overrides that is neither finished nor under way;
    one that was stopped goes on where it was. What follows -- are flags of `train` for all."""

    presets: tyro.conf.Positional[tuple[Literal["smoke", "mini", "small", "fast", "full"], ...]]
    """Presets of `train`."""
    arms: tuple[str, ...]
    """Arms of `train`."""
    seeds: tuple[int, ...]
    """Every arm runs with each."""
    override: tyro.conf.UseAppendAction[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="FLAGS")]
    ] = ()
    """Flags of `train`, quoted: --override='--lr=1e-3 --gate=no_gate'. Given several times, every
    arm and seed runs with each; "" is the preset as it is."""
    extract: Path | None = None
    """File of hack directions that all cells use; extracted first where it is not there yet."""
    why: str = ""
    """Why these runs are made, for people: in each config.json and in pueue's labels."""
    resolve: str = ""
    """What outcome would settle it; likewise."""


@dataclass(frozen=True, kw_only=True)
class SweepResume(Launch):
    """Go on with every run of a folder that was stopped, failed or died. What follows -- are flags
    of `train` for all, such as --device or --micro-batch-tokens."""


@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """How far the runs of a folder are, read from their directories."""

    out_dir: Path = Path("runs")
    """Folder of the run directories."""
