"""What the commands are told that use what a run has trained. Imports no torch, as commands.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from projected_grpo.config import ConfigError, DeviceName, DtypeName
from projected_grpo.env.errors import InputError
from projected_grpo.runs.files import require_new

RunFolder = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
RunFolders = tyro.conf.Positional[
    Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")]
]


def require_runs(runs: Sequence[Path]) -> None:
    """Raises InputError where one of these is no run directory."""
    for run in runs:
        if not (run / "config.json").is_file():
            raise InputError(f"there is no run at {run} (no config.json)")


def require_counts(**counts: int) -> None:
    """Raises ConfigError where one of them is negative."""
    for name, count in counts.items():
        if count < 0:
            raise ConfigError(f"{name} must not be negative, it is {count}")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Ask runs and their untrained base model problems that none of them was trained on: with the
    hint, without it, and under other function names; greedy and sampled. It is the policy that
    would be deployed: without a quarantine, and without the sentence of an inoculation."""

    runs: RunFolders
    """Run directories of one base model. One that was stopped answers by its newest checkpoint."""
    out: Path = Path("evaluation.json")
    """File to write; it must not exist yet. Every answer goes to a file of the same name that ends
    in .jsonl.gz."""
    problems: str = ""
    """As for train. Default: katas:test for runs on katas, LeetCodeDataset's split `test` for runs
    on that. Other sources have no held-out part that is known here."""
    difficulty: tuple[str, ...] = ()
    """As for train; default: the runs' own."""
    mode: str = ""
    """Loophole modes, separated by commas; every problem is asked under each. Default: those of
    the runs."""
    limit: int = 64
    """Problems at most; 0 takes all."""
    n: int = 4
    """Answers that are sampled for a problem, each with a random stream of its own, the same in all
    runs; 0 leaves sampling out."""
    seed: int = 0
    """Of sampling, and of the other function names."""
    temperature: float | None = None
    """Of sampling; default: the runs' own, as for the next three."""
    top_p: float | None = None
    """Nucleus."""
    top_k: int | None = None
    """Most likely tokens kept; 0 keeps all."""
    max_new: int | None = None
    """Tokens an answer may have."""
    adapter_only: bool = False
    """Leave the untrained base model out: half the time, and nothing to compare a single run
    with."""
    device: DeviceName = "auto"
    """auto takes the GPU where there is one."""
    workers: int = 0
    """Programs graded at once; 0 takes one per CPU core."""

    @property
    def answers(self) -> Path:
        """The file that every answer goes to."""
        return self.out.with_suffix(".jsonl.gz")

    def require(self) -> None:
        """Raises ConfigError or InputError for what can be refused before torch is loaded."""
        if not self.runs:
            raise ConfigError("there is nothing to evaluate: name one run directory or more")
        require_counts(n=self.n, limit=self.limit)
        require_runs(self.runs)
        require_new(self.out)
        require_new(self.answers)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Talk to what a run has trained: one prompt, one problem, or line by line."""

    run: RunFolder
    """Run directory. One that was stopped answers by its newest checkpoint."""
    prompt: str = ""
    """A user turn to answer. Without it and --problem each line of stdin is one; /new begins a new
    conversation, the end of input ends."""
    system: str = ""
    """A system turn before it."""
    problem: int | None = None
    """Id of a problem of the run's, which is asked as in training; its answers are graded."""
    hint: bool = True
    """With --problem: whether the prompt says how it is graded."""
    n: int = 1
    """Answers."""
    greedy: bool = False
    """The likeliest token at each place."""
    base: bool = False
    """Ask the untrained base model instead."""
    temperature: float | None = None
    """Default: the run's own, as for the next three."""
    top_p: float | None = None
    """Nucleus."""
    top_k: int | None = None
    """Most likely tokens kept; 0 keeps all."""
    max_new: int | None = None
    """Tokens an answer may have."""
    seed: int = 0
    """Of sampling."""
    device: DeviceName = "auto"
    """auto takes the GPU where there is one."""

    def require(self) -> None:
        """Raises ConfigError or InputError for what can be refused before torch is loaded."""
        require_runs([self.run])
        if self.prompt and self.problem is not None:
            raise ConfigError("--prompt and --problem are two questions: leave one of them out")
        if self.problem is None and not self.hint:
            raise ConfigError("--no-hint does nothing without --problem: leave it out")
        if self.problem is not None and self.system:
            raise ConfigError("a problem has its own system turn: leave --system or --problem out")
        if self.n < 1 or (self.greedy and self.n > 1):
            raise ConfigError(
                f"n is {self.n}: it must be at least 1, and with --greedy 1, as that answer is the "
                "same each time"
            )
        if self.n > 1 and not self.prompt and self.problem is None:
            raise ConfigError("a conversation goes on from one answer: leave --n out")


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Write what a run has trained as a whole model, which opens in plain transformers."""

    run: RunFolder
    """Run directory. Of one that was stopped the newest checkpoint is taken."""
    out: Path
    """Folder to write; it must not exist yet."""
    dtype: DtypeName | None = None
    """Of the weights. Default: the run's. float32 is exact; in bfloat16 every weight is rounded up
    or down by a fixed draw, as the run's own sampler does."""
    device: DeviceName = "auto"
    """auto takes the GPU where there is one."""

    def require(self) -> None:
        """Raises ConfigError or InputError for what can be refused before torch is loaded."""
        require_runs([self.run])
        require_new(self.out)
