"""Console entry points. Parses before torch is imported, so that `--help` and bad input answer at
once.

Exit codes: 0 done, 1 something given cannot be used, 2 the command line contradicts itself, 130
stopped by Ctrl-C or SIGTERM (saved; the command that goes on is printed). What the user can mend is
one sentence on stderr; anything else is a bug and keeps its traceback.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TextIO, cast

import tyro
from loguru import logger

from projected_grpo.config import ConfigError
from projected_grpo.env.errors import InputError
from projected_grpo.runs.commands import (
    DistillConfig,
    DownloadConfig,
    ExtractConfig,
    ReportConfig,
    named_settings,
    train_settings,
)
from projected_grpo.runs.policy_commands import EvaluateConfig, MergeConfig, SampleConfig
from projected_grpo.runs.ranks import Place, alone_of, place_of
from projected_grpo.runs.settings_file import with_file
from projected_grpo.runs.sweep.settings import (
    SweepResume,
    SweepRun,
    SweepStatus,
)


def say_and_exit(work: Callable[[], object], place: Callable[[], Place] = Place) -> int:
    """Do the work of a command, say in one sentence what the user can mend; returns the exit
    code.

    place: which of several processes this is; only those commands ask whose work depends on it.
    """
    from tqdm.contrib import DummyTqdmFile

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: directories are closed
    logger.remove()
    # Whose lines go above a progress bar, not into it.
    console = cast(TextIO, DummyTqdmFile(sys.stderr))
    who = Place()
    try:
        who = place()  # of several processes one tells how it goes, all what is wrong
        line, level = "<dim>{time:HH:mm:ss}</dim> " + who.prefix, "INFO" if who.first else "WARNING"
        sink = logger.add(console, format=line + "{message}", level=level)
        try:
            work()
        finally:
            logger.remove(sink)  # the stream is its caller's, who may close it before the next line
    except ConfigError as error:
        return refusal(error, who.prefix)
    except InputError as error:
        print(f"{who.prefix}error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def refusal(error: ConfigError, prefix: str = "") -> int:
    """Say what contradicts itself in a command line; the exit code."""
    print(f"{prefix}error: {error}", file=sys.stderr)
    return 2


def train_main(argv: Sequence[str] | None = None) -> None:
    """`train {smoke,fast,full} [--arm=...] [flags]`."""
    try:
        words = with_file(sys.argv[1:] if argv is None else argv)
        cfg = train_settings(words)
    except ConfigError as error:
        sys.exit(refusal(error))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)

    def work() -> None:
        from projected_grpo.train import train_runs

        named = named_settings(words)
        train_runs(cfg.runs(), named, bar=True)

    sys.exit(say_and_exit(work, place=lambda: place_of(os.environ)))


def extract_main(argv: Sequence[str] | None = None) -> None:
    """`extract-vhack --out=v.safetensors --model=...`."""
    cfg = tyro.cli(ExtractConfig, args=argv, prog="extract-vhack")

    def work() -> None:
        from projected_grpo.runs.extract import extract_to_file

        extract_to_file(cfg)

    sys.exit(say_and_exit(work, place=lambda: alone_of(os.environ)))


def download_main(argv: Sequence[str] | None = None) -> None:
    """`download-model Qwen/Qwen3-4B [--revision=...] [--pattern=...]`."""
    cfg = tyro.cli(DownloadConfig, args=argv, prog="download-model")

    def work() -> None:
        from projected_grpo.model.download import download

        got = download(cfg.model, cfg.revision, cfg.pattern)
        size = sum(file.stat().st_size for file in got.files) / 1e9
        print(f"{cfg.model} at commit {got.commit}: {len(got.files)} files, {size:.3g} GB")
        gguf = [file for file in got.files if file.suffix == ".gguf"]
        print("\n".join(map(str, gguf or [got.folder])))

    sys.exit(say_and_exit(work))


def distill_main(argv: Sequence[str] | None = None) -> None:
    """`probe-distill --source=runs/... --out=pool`."""
    cfg = tyro.cli(DistillConfig, args=argv, prog="probe-distill")

    def work() -> None:
        from projected_grpo.runs.distill import distill

        distill(cfg)

    sys.exit(say_and_exit(work, place=lambda: alone_of(os.environ)))


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
        from projected_grpo.runs.sweep import command

        if isinstance(asked, SweepRun):
            command.run(asked, flags)
        elif isinstance(asked, SweepResume):
            command.resume(asked, flags)
        else:
            print(command.status(asked.out_dir))

    sys.exit(say_and_exit(work))


def report_main(argv: Sequence[str] | None = None) -> None:
    """`report runs/... --out=report`."""
    cfg = tyro.cli(ReportConfig, args=argv, prog="report")

    def work() -> None:
        for name in ("matplotlib", "pygments"):
            if find_spec(name) is None:
                raise InputError(f"report needs {name}: install projected_grpo[report]")
        # What a report shows of a dataset on the hub comes from the cache: it asks no network.
        os.environ["HF_HUB_OFFLINE"] = "1"
        from projected_grpo.report.report import report

        report(cfg)

    sys.exit(say_and_exit(work))


def evaluate_main(argv: Sequence[str] | None = None) -> None:
    """`evaluate runs/... [--n=4] [--out=evaluation.json]`."""
    cfg = tyro.cli(EvaluateConfig, args=argv, prog="evaluate")

    def work() -> None:
        cfg.require()
        from projected_grpo.report.held_out import evaluate_runs

        evaluate_runs(cfg)

    sys.exit(say_and_exit(work, place=lambda: alone_of(os.environ)))


def sample_main(argv: Sequence[str] | None = None) -> None:
    """`sample runs/<run> [--prompt=... | --problem=ID]`."""
    cfg = tyro.cli(SampleConfig, args=argv, prog="sample")

    def work() -> None:
        cfg.require()
        from projected_grpo.runs.sample import talk

        talk(cfg, sys.stdin)

    sys.exit(say_and_exit(work, place=lambda: alone_of(os.environ)))


def merge_main(argv: Sequence[str] | None = None) -> None:
    """`merge runs/<run> --out=merged`."""
    cfg = tyro.cli(MergeConfig, args=argv, prog="merge")

    def work() -> None:
        cfg.require()
        from projected_grpo.runs.merge import merge

        merge(cfg)

    sys.exit(say_and_exit(work, place=lambda: alone_of(os.environ)))
