"""Console entry points. Parses before torch is imported, so that `--help` and bad input answer at
once.

Exit codes: 0 done, 1 something given cannot be used, 2 the command line contradicts itself, 130
stopped by Ctrl-C or SIGTERM (saved; the command that goes on is printed). What the user can mend is
one sentence on stderr; anything else is a bug and keeps its traceback.
"""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NoReturn, TextIO, TypeVar, cast

import tyro
from loguru import logger

from projected_grpo.arms.effects import require_effect
from projected_grpo.config import SETTINGS, ConfigError
from projected_grpo.env.errors import InputError
from projected_grpo.runs.command_line import (
    complaints,
    flag_names,
    flag_of,
    parse_settings,
    require_known,
    say_version,
)
from projected_grpo.runs.commands import (
    PART_OF_A_SWEEP,
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


@contextmanager
def imports_at_once() -> Iterator[None]:
    """For the first import of torch and transformers: the garbage collector waits until it is done
    and then never looks at what it made, half a million objects that stay for ever."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()
    atexit.register(gc.unfreeze)  # else triton, at the end, takes them for leaks and says so


def refusal(error: ConfigError, prefix: str = "") -> int:
    """Say what contradicts itself in a command line; the exit code."""
    print(f"{prefix}error: {error}", file=sys.stderr)
    return 2


def train_main(argv: Sequence[str] | None = None) -> None:
    """`train {smoke,mini,small,fast,full} [--arm=...] [flags]`; with --dry-run it says what would
    be run, with --list-arms or --list-modes what there is."""
    words = list(sys.argv[1:] if argv is None else argv)
    if {"--list-arms", "--list-modes"} & {*words}:
        from projected_grpo.runs import lists

        print(lists.list_arms() if "--list-arms" in words else lists.list_modes())
        sys.exit(0)
    dry = "--dry-run" in words
    words = [word for word in words if word != "--dry-run"]
    try:
        words = with_file(words)
        cfg = train_settings(words)
        named = named_settings(words)
        if cfg.resume is None and PART_OF_A_SWEEP not in os.environ:
            require_effect([(cfg, named)])
    except ConfigError as error:
        sys.exit(refusal(error))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)

    def work() -> None:
        from projected_grpo.runs.preflight import finished_already, require_startable

        require_startable(cfg.runs(), named)
        if dry:
            from projected_grpo.runs.plan import plan

            print(plan(cfg))
            return
        if said := finished_already(cfg, named):
            logger.info(said)
            return
        with imports_at_once():
            from projected_grpo.train import train_runs

        paths = train_runs(cfg.runs(), named, bar=True)
        if len(paths) > 1:  # a pack, which is one process
            from projected_grpo.report.outcome import tell_outcome

            print()
            for line in tell_outcome(paths):
                print(line)

    sys.exit(say_and_exit(work, place=lambda: place_of(os.environ)))


_Settings = TypeVar("_Settings")


def run_command(
    kind: type[_Settings],
    prog: str,
    argv: Sequence[str] | None,
    work: Callable[[_Settings, set[str]], object],
    place: Callable[[], Place] = Place,
    synonyms: Mapping[str, str] | None = None,
) -> NoReturn:
    """Read the command line of a command that is told a `kind`, do its work, which is given these
    settings and the names of those that the line has, and end the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        cfg = parse_settings(kind, words, prog, synonyms)
    except ConfigError as error:
        sys.exit(refusal(error))
    sys.exit(say_and_exit(lambda: work(cfg, named_settings(words)), place))


def extract_main(argv: Sequence[str] | None = None) -> None:
    """`extract-vhack --out=v.safetensors --model=...`."""

    def work(cfg: ExtractConfig, named: set[str]) -> None:
        from projected_grpo.runs.files import require_new
        from projected_grpo.runs.preflight import require_extractable

        require_new(cfg.out, cfg.overwrite)
        require_extractable(cfg, named - {*SETTINGS} if PART_OF_A_SWEEP in os.environ else named)
        with imports_at_once():
            from projected_grpo.runs.extract import extract_to_file

        extract_to_file(cfg)

    run_command(
        ExtractConfig, "extract-vhack", argv, work,
        place=lambda: alone_of(os.environ), synonyms={"mechanisms": "pair_flavours"},
    )  # fmt: skip


def download_main(argv: Sequence[str] | None = None) -> None:
    """`download-model Qwen/Qwen3-4B [--revision=...] [--pattern=...]`."""

    def work(cfg: DownloadConfig, named: set[str]) -> None:
        from projected_grpo.model.download import download

        got = download(cfg.model, cfg.revision, cfg.pattern)
        size = sum(file.stat().st_size for file in got.files) / 1e9
        print(f"{cfg.model} at commit {got.commit}: {len(got.files)} files, {size:.3g} GB")
        gguf = [file for file in got.files if file.suffix == ".gguf"]
        print("\n".join(map(str, gguf or [got.folder])))

    run_command(DownloadConfig, "download-model", argv, work)


def distill_main(argv: Sequence[str] | None = None) -> None:
    """`probe-distill --source=runs/... --out=pool`."""

    def work(cfg: DistillConfig, named: set[str]) -> None:
        from projected_grpo.runs.preflight import require_distillable

        require_distillable(cfg, named)
        with imports_at_once():
            from projected_grpo.runs.distill import distill

        distill(cfg)

    run_command(DistillConfig, "probe-distill", argv, work, place=lambda: alone_of(os.environ))


def grade_main(argv: Sequence[str] | None = None) -> None:
    """`grade --problems=P.jsonl --completions=C.jsonl --out=O.jsonl`."""
    from projected_grpo.env.grading import command as grading

    run_command(grading.Args, "grade", argv, lambda args, named: grading.grade_completions(args))


SWEEP_COMMANDS = {"run": SweepRun, "status": SweepStatus, "resume": SweepResume}


def sweep_main(argv: Sequence[str] | None = None) -> None:
    """`sweep run fast --arms vanilla projected --seeds 41 42 43 [flags] [-- flags of train]`,
    `sweep status`, `sweep resume`."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    words, flags = words[:cut], words[cut + 1 :]
    try:
        asked = _sweep_settings(words)
    except ConfigError as error:
        sys.exit(refusal(error))

    def work() -> None:
        from projected_grpo.runs.sweep import command

        if isinstance(asked, SweepRun):
            command.launch_sweep(asked, flags)
        elif isinstance(asked, SweepResume):
            command.resume(asked, flags)
        else:
            print(command.status(asked.out_dir))

    sys.exit(say_and_exit(work))


def _sweep_settings(words: Sequence[str]) -> SweepRun | SweepStatus | SweepResume:
    """What `sweep` is told. Raises ConfigError."""
    say_version(words)
    which = words[0] if words and words[0] in SWEEP_COMMANDS else ""
    prog = f"sweep {which}".rstrip()
    if not which and not {"-h", "--help"} & {*words}:
        given = f"there is no sweep {words[0]}: " if words else "say what to do: "
        raise ConfigError(
            f"{given}`sweep run` begins runs, `sweep status` lists them, `sweep resume` goes on "
            "with them (`sweep --help`)"
        )
    if which:
        own = flag_names(SWEEP_COMMANDS[which])
        for word in words:
            if flag_of(word) in {*SETTINGS} - {*own, "arm", "seed"}:
                flag = word.partition("=")[0]
                raise ConfigError(
                    f"{flag} is a flag of `train`: put it after --, as in `{prog} ... -- {word}`"
                )
        require_known(words, own, prog, {"arm": "arms", "seed": "seeds"})
    with complaints(prog):
        return tyro.extras.subcommand_cli_from_dict(
            SWEEP_COMMANDS,
            args=list(words),
            prog="sweep",
            description="Many runs: begun, looked at, gone on with.",
        )


def report_main(argv: Sequence[str] | None = None) -> None:
    """`report runs/... --out=report`."""

    def work(cfg: ReportConfig, named: set[str]) -> None:
        for name in ("matplotlib", "pygments"):
            if find_spec(name) is None:
                raise InputError(f"report needs {name}: install projected_grpo[report]")
        # What a report shows of a dataset on the hub comes from the cache: it asks no network.
        os.environ["HF_HUB_OFFLINE"] = "1"
        from projected_grpo.report.report import report

        report(cfg)

    run_command(ReportConfig, "report", argv, work)


def evaluate_main(argv: Sequence[str] | None = None) -> None:
    """`evaluate runs/... [--n=4] [--out=evaluation.json]`."""

    def work(cfg: EvaluateConfig, named: set[str]) -> None:
        cfg.require()
        with imports_at_once():
            from projected_grpo.report.held_out import evaluate_policies

        evaluate_policies(cfg)

    run_command(EvaluateConfig, "evaluate", argv, work, place=lambda: alone_of(os.environ))


def sample_main(argv: Sequence[str] | None = None) -> None:
    """`sample runs/<run> [--prompt=... | --problem=ID]`."""

    def work(cfg: SampleConfig, named: set[str]) -> None:
        cfg.require()
        with imports_at_once():
            from projected_grpo.runs.sample import talk

        talk(cfg, sys.stdin)

    run_command(SampleConfig, "sample", argv, work, place=lambda: alone_of(os.environ))


def merge_main(argv: Sequence[str] | None = None) -> None:
    """`merge runs/<run> --out=merged`."""

    def work(cfg: MergeConfig, named: set[str]) -> None:
        cfg.require()
        with imports_at_once():
            from projected_grpo.runs.merge import merge

        merge(cfg)

    run_command(MergeConfig, "merge", argv, work, place=lambda: alone_of(os.environ))
