"""Console entry points. Parses before torch is imported, so that `--help` and bad input answer at
once.

Exit codes: 0 done, 1 something given cannot be used, 2 the command line contradicts itself, 130
stopped by Ctrl-C or SIGTERM (saved; the command that goes on is printed). What the user can mend is
one sentence on stderr; anything else is a bug and keeps its traceback.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from loguru import logger

from projected_grpo.config import PRESETS, AdapterName, Config, ConfigError


def say_and_exit(work: Callable[[], object]) -> int:
    """Do the work of a command; its exit code, what the user can mend said in one sentence."""
    logger.remove()
    logger.add(sys.stderr, format="<dim>{time:HH:mm:ss}</dim> {message}", level="INFO")
    from projected_grpo.adapter import AdapterError
    from projected_grpo.env.problems import ProblemError
    from projected_grpo.env.sandbox import SandboxError
    from projected_grpo.model import ModelError
    from projected_grpo.pairs import PairError
    from projected_grpo.pool import PoolError
    from projected_grpo.run import RunError
    from projected_grpo.svd import CacheError

    files = (ProblemError, PairError, PoolError, RunError, CacheError)
    usable = (*files, AdapterError, ModelError, SandboxError)
    try:
        work()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except usable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def train_main(argv: Sequence[str] | None = None) -> None:
    """`train {smoke,fast,full} [--arm=...] [flags]`."""
    cfg = tyro.extras.subcommand_cli_from_dict(
        PRESETS, args=argv, prog="train", description="GRPO with the hack directions projected out."
    )

    def work() -> None:
        from projected_grpo.train import train_runs

        train_runs(cfg.runs(), named_settings(sys.argv[1:] if argv is None else argv))

    sys.exit(say_and_exit(work))


def named_settings(argv: Sequence[str]) -> set[str]:
    """The settings that a command line names, be it with the value that they have anyway."""
    flags = (word.partition("=")[0].removeprefix("--") for word in argv if word.startswith("--"))
    return {flag.replace("-", "_").removeprefix("no_") for flag in flags}


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Extract hack directions from contrast pairs, for `train --v-hack`."""

    out: Path
    """File to write (.safetensors)."""
    model: str = Config.model
    """Hub id, local folder, .gguf file, or "tiny-random"."""
    model_revision: str = Config.model_revision
    """Branch, tag or commit on the hub."""
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

    sys.exit(say_and_exit(work))


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

    sys.exit(say_and_exit(work))
