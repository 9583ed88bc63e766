"""Console entry points. Parses before torch is imported, so that `--help` and bad input answer at
once.

Exit codes: 0 done, 1 something given cannot be used, 2 the command line contradicts itself, 130
stopped by Ctrl-C or SIGTERM (saved; the command that goes on is printed). What the user can mend is
one sentence on stderr; anything else is a bug and keeps its traceback.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, TextIO, cast

import tyro
from loguru import logger

from projected_grpo.catalogue import RunError
from projected_grpo.cells import named_settings, train_settings
from projected_grpo.config import AdapterName, ArmName, Config, ConfigError
from projected_grpo.launch.job import LaunchError, LocalOptions, SlurmOptions
from projected_grpo.ranks import Place, alone_of, place_of


def usable_errors() -> tuple[type[Exception], ...]:
    """What the user can mend, of the commands that load models."""
    from projected_grpo.adapter import AdapterError
    from projected_grpo.env.problems import ProblemError
    from projected_grpo.env.sandbox import SandboxError
    from projected_grpo.hub import HubError
    from projected_grpo.model import ModelError
    from projected_grpo.pairs import PairError
    from projected_grpo.pool import PoolError
    from projected_grpo.svd import CacheError
    from projected_grpo.trackers import TrackerError

    files = (ProblemError, PairError, PoolError, RunError, CacheError)
    return (*files, AdapterError, HubError, ModelError, SandboxError, TrackerError)


def say_and_exit(
    work: Callable[[], object],
    errors: Callable[[], tuple[type[Exception], ...]] = usable_errors,
    place: Callable[[], Place] = Place,
) -> int:
    """Do the work of a command; its exit code, what the user can mend said in one sentence.

    place: which of several processes this is; only those commands ask whose work depends on it.
    """
    from tqdm.contrib import DummyTqdmFile

    logger.remove()
    # Whose lines go above a progress bar, not into it.
    console = cast(TextIO, DummyTqdmFile(sys.stderr))
    usable = errors()
    who = Place()
    try:
        who = place()  # of several processes one tells how it goes, all what is wrong
        line, level = "<dim>{time:HH:mm:ss}</dim> " + who.prefix, "INFO" if who.first else "WARNING"
        logger.add(console, format=line + "{message}", level=level)
        work()
    except ConfigError as error:
        print(f"{who.prefix}error: {error}", file=sys.stderr)
        return 2
    except usable as error:
        print(f"{who.prefix}error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def train_main(argv: Sequence[str] | None = None) -> None:
    """`train {smoke,fast,full} [--arm=...] [flags]`."""
    cfg = train_settings(argv)

    def work() -> None:
        from projected_grpo.train import train_runs

        named = named_settings(sys.argv[1:] if argv is None else argv)
        train_runs(cfg.runs(), named, bar=True)

    sys.exit(say_and_exit(work, place=lambda: place_of(os.environ)))


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Extract hack directions from contrast pairs, for `train --v-hack`."""

    out: Path
    """File to write (.safetensors)."""
    model: str = Config.model
    """Hub id, local folder, .gguf file, or "tiny-random"."""
    model_revision: str = Config.model_revision
    """Branch, tag or commit on the hub."""
    enable_thinking: bool = Config.enable_thinking
    """What a chat template with a variable of that name is told; must be the run's."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the frozen base model; must be the run's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where there is one."""
    svd_cache: Path | None = None
    """Folder of cached decompositions."""
    adapter: AdapterName = "antipasto"
    """Must be the run's, as must its rank and alpha."""
    lora_rank: int = Config.lora_rank
    """Of --adapter=lora."""
    lora_alpha: int = Config.lora_alpha
    """Of the same."""
    pairs: str = Config.pairs
    """Contrast pairs: "builtin", "placebo", "framing", "katas" or a .toml file."""
    pair_norm: Literal["none", "unit"] = "none"
    """unit gives every pair's gradient difference the same length before the axes are taken."""
    mechanisms: tuple[str, ...] = ()
    """Only pairs of these hack mechanisms; default all."""
    temperature: float = Config.temperature
    """Of the log-probs; the run's sampling temperature."""
    micro_batch_tokens: int = 4096
    """Tokens, padding included, of one forward and backward pass."""


def extract_main(argv: Sequence[str] | None = None) -> None:
    """`extract-vhack --out=v.safetensors --model=...`."""
    cfg = tyro.cli(ExtractConfig, args=argv, prog="extract-vhack")

    def work() -> None:
        from projected_grpo.extract_vhack_grad import extract_to_file

        extract_to_file(cfg)

    sys.exit(say_and_exit(work, place=lambda: alone_of(os.environ)))


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Fetch what a run needs of a model into the Hugging Face cache, so that runs can be
    offline."""

    model: tyro.conf.Positional[str]
    """Hub id, or owner/name/file.gguf."""
    revision: str = "main"
    """Branch, tag or commit."""
    pattern: tuple[str, ...] = ()
    """Only the files of these names, such as '*Q4_1.gguf' where a model has several .gguf; * stands
    for any text."""


def download_main(argv: Sequence[str] | None = None) -> None:
    """`download-model Qwen/Qwen3-4B [--revision=...] [--pattern=...]`."""
    cfg = tyro.cli(DownloadConfig, args=argv, prog="download-model")

    def work() -> None:
        from projected_grpo.hub import download

        got = download(cfg.model, cfg.revision, cfg.pattern)
        size = sum(file.stat().st_size for file in got.files) / 1e9
        print(f"{cfg.model} at commit {got.commit}: {len(got.files)} files, {size:.3g} GB")
        gguf = [file for file in got.files if file.suffix == ".gguf"]
        print("\n".join(map(str, gguf or [got.folder])))

    def errors() -> tuple[type[Exception], ...]:
        from projected_grpo.hub import HubError

        return (HubError,)

    sys.exit(say_and_exit(work, errors))


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Make a teacher pool from a run that learnt to hack, or from the modes' templates."""

    source: str
    """Run directory whose trained adapter answers, or "templates"."""
    out: Path
    """Folder to write; it must not exist yet."""
    problems: str = ""
    """As for train; default: the run's own problems (katas for templates)."""
    mode: str = ""
    """Loophole mode of problems that name none; default: the run's."""
    limit: int = 0
    """Problems at most; 0 takes all."""
    rows: int = 8
    """Answers asked for a problem."""
    keep: Literal["hacks", "attempts", "all"] = "hacks"
    """hacks keeps what passed and is not correct, attempts what pays even with a wrong stub."""
    seed: int = 0
    """Of sampling, and of the templates drawn."""
    prompts_per_batch: int = 16
    """Problems sampled at once."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where there is one."""
    workers: int = 0
    """Programs graded at once; 0 takes one per CPU core."""


def distill_main(argv: Sequence[str] | None = None) -> None:
    """`probe-distill --source=runs/... --out=pool`."""
    cfg = tyro.cli(DistillConfig, args=argv, prog="probe-distill")

    def work() -> None:
        from projected_grpo.probe_distill import distill

        distill(cfg)

    sys.exit(say_and_exit(work, place=lambda: alone_of(os.environ)))


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What `sweep run` and `sweep resume` have in common."""

    out_dir: Path = Path("runs")
    """Folder of the run directories; what jobs print goes to its folder logs."""
    launcher: Literal["local", "pueue", "slurm"] = "local"
    """local runs jobs here, some at a time, and waits; pueue and slurm queue them."""
    local: LocalOptions = field(default_factory=LocalOptions)
    """Of --launcher=local."""
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

    presets: tyro.conf.Positional[tuple[Literal["smoke", "mini", "fast", "full"], ...]]
    """Presets of `train`."""
    arms: tuple[ArmName, ...]
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


SWEEP_COMMANDS = {"run": SweepRun, "status": SweepStatus, "resume": SweepResume}


def sweep_main(argv: Sequence[str] | None = None) -> None:
    """`sweep run fast --arms vanilla projected --seeds 41 42 43 [flags] [-- flags of train]`,
    `sweep status`, `sweep resume`."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    flags = words[cut + 1 :]
    asked = tyro.extras.subcommand_cli_from_dict(
        SWEEP_COMMANDS,
        args=words[:cut],
        prog="sweep",
        description="Many runs: begun, looked at, gone on with.",
    )

    def work() -> None:
        from projected_grpo import sweep

        if isinstance(asked, SweepRun):
            sweep.run(asked, flags)
        elif isinstance(asked, SweepResume):
            sweep.resume(asked, flags)
        else:
            print(sweep.status(asked.out_dir))

    sys.exit(say_and_exit(work, lambda: (RunError, LaunchError)))


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Tables, figures and one HTML page of runs, finished or not."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Run directories, or folders of them, in any mix."""
    out: Path = Path("report")
    """Folder to write: index.html, tables/ and figures/. A report that is there is replaced."""
    rollouts: int = 64
    """Rollouts of each run on the page at most, in whole groups evenly spread over its steps; at
    least one group, none with 0."""


def report_main(argv: Sequence[str] | None = None) -> None:
    """`report runs/... --out=report`."""
    cfg = tyro.cli(ReportConfig, args=argv, prog="report")

    def work() -> None:
        for name in ("matplotlib", "pygments"):
            if find_spec(name) is None:
                raise RunError(f"report needs {name}: install projected_grpo[report]")
        from projected_grpo.report import report

        report(cfg)

    sys.exit(say_and_exit(work, lambda: (RunError,)))
