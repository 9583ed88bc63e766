"""What each console command is told. Imports no torch: `--help` and a refused line answer at
once."""

import dataclasses
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from projected_grpo.arms.arms import ARMS, arm_glossary, require_arms
from projected_grpo.config import (
    GROUPS,
    PRESETS,
    SETTINGS,
    AdapterName,
    AxesName,
    Config,
    ConfigError,
    DeviceName,
    DtypeName,
    PairNorm,
)
from projected_grpo.env.names import hint
from projected_grpo.runs.command_line import complaints, flag_of, require_known, say_version
from projected_grpo.runs.settings_file import with_file

ARM_NAMES = f"{{{','.join(ARMS)}}}"
ARM_FLAGS = {
    "arm": Annotated[str, tyro.conf.arg(metavar=ARM_NAMES)],
    "arms": Annotated[tuple[str, ...], tyro.conf.arg(metavar=f"[{ARM_NAMES} [...]]")],
}
"""Settings whose values --help names, as the table of arms is above config.py."""

SYNONYMS = {
    **{"learning_rate": "lr", "max_grad_norm": "grad_clip", "epsilon": "clip_eps", "kl": "beta"},
    **{"num_generations": "group", "rollouts": "group", "batch_size": "prompts_per_step"},
    **{"max_steps": "steps", "num_steps": "steps", "save_steps": "checkpoint_every"},
    **{"max_completion_length": "max_new", "max_new_tokens": "max_new"},
    **{"max_prompt_length": "max_prompt", "output_dir": "out_dir", "report_to": "track"},
    **{"dataset": "problems", "data": "problems", "katas": "problems", "loophole": "mode"},
    **{"gradient_checkpointing": "checkpoint_activations", "resume_from_checkpoint": "resume"},
    **{"k": "v_hack_k", "rank": "lora_rank", "lora_r": "lora_rank", "thinking": "enable_thinking"},
    **{"per_device_train_batch_size": "micro_batch_tokens", "teacher": "teacher_pool"},
}  # fmt: skip
"""What other trainers call a setting -> its name here."""

PART_OF_A_SWEEP = "PROJECTED_GRPO_SWEEP"
"""Set for the jobs of a sweep, whose flags are for all cells: whether each acts in some cell was
asked when the sweep began (sweep/grid.py)."""

HELP, HELP_ALL = {"-h", "--help"}, "--help-all"


def train_settings(argv: Sequence[str] | None) -> Config:
    """The settings of a `train` command line.

    argv: what follows `train`; None reads this process's. A file that --config names is read.
    Ends the process for --help, --help-all and --version. Raises ConfigError for what it cannot
    read, and for settings that contradict each other or the arm.
    """
    words = with_file(sys.argv[1:] if argv is None else argv)
    say_version(words)
    preset = next((word for word in words[:1] if word in PRESETS), "")
    prog = f"train {preset}".rstrip()
    asks_help = bool({*HELP, HELP_ALL} & {*words})
    if not preset and not asks_help:
        raise ConfigError(_no_preset(words))
    if not asks_help:
        require_known(words, SETTINGS, prog, SYNONYMS)
        if words[1:2] and words[1] in ARMS:
            raise ConfigError(f"{prog} takes an arm by its flag: did you mean --arm={words[1]}?")
    brief = HELP_ALL not in words
    shown = GROUPS[:FULLY_SHOWN] if asks_help and brief else GROUPS
    try:
        with complaints(prog):
            asked = tyro.extras.subcommand_cli_from_dict(
                {name: grouped(kind, shown) for name, kind in PRESETS.items()},
                args=[*words[:1], "--help"] if asks_help else words,
                prog="train",
                description="GRPO with the hack directions projected out. --config=FILE reads "
                "settings from a YAML file, such as a run's run.yaml; flags override it.",
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit:
        if asks_help:  # below the settings: the others, and what --arm may be
            print(more_help(prog) if preset and brief else f"Arms:\n{arm_glossary()}")
        raise
    given = {name: value for group in vars(asked).values() for name, value in vars(group).items()}
    cfg = PRESETS[type(asked).__name__](**given)
    require_arms(cfg)
    return cfg


FULLY_SHOWN = 1
"""So many groups have their texts in --help; of the others it says the names."""


def more_help(prog: str) -> str:
    """What `train PRESET --help` says below the settings that people change first."""
    lines = [f"More settings (`{prog} --help-all` explains them):"]
    for group in GROUPS[FULLY_SHOWN:]:
        title = group.__name__.removesuffix("Settings").lower()
        flags = " ".join(f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(group))
        lines.append(
            textwrap.fill(flags, 80, initial_indent=f"  {title:<13}", subsequent_indent=" " * 15,
                          break_on_hyphens=False)
        )  # fmt: skip
    lines += [
        "",
        "Instead of a run: --dry-run says what would be run and loads no model;",
        "`train --list-arms` and `train --list-modes` explain what there is.",
        "",
        f"Arms:\n{arm_glossary()}",
    ]
    return "\n".join(lines)


def _no_preset(words: Sequence[str]) -> str:
    """What to say of a command line that does not begin with a preset."""
    presets = ", ".join(PRESETS)
    if named := [word for word in words if word in PRESETS]:
        return f"the preset comes first: `train {named[0]} ...`"
    if words and not words[0].startswith("-"):
        return f"there is no preset {words[0]}: {hint(words[0], PRESETS)} (`train --help`)"
    return f"name a preset, one of {presets}, as in `train mini --arm=projected` (`train --help`)"


def grouped(preset: type[Config], groups: Sequence[type] = GROUPS) -> type:
    """A preset as its command line has it: each group of settings is a field, which has a title and
    a sentence in --help. The flags bear the settings' own names."""
    default = preset()
    fields = []
    for group in groups:
        title = group.__name__.removesuffix("Settings").lower()
        own = {field.name: getattr(default, field.name) for field in dataclasses.fields(group)}
        shown = [(name, kind) for name, kind in ARM_FLAGS.items() if name in own]
        if shown:
            group = dataclasses.make_dataclass(
                group.__name__, shown, bases=(group,), frozen=True, kw_only=True,
                namespace={"__doc__": group.__doc__},
            )  # fmt: skip
        fields.append((title, group, group(**own)))
    return dataclasses.make_dataclass(
        default.preset_name, fields, namespace={"__doc__": preset.__doc__}
    )


def named_settings(argv: Sequence[str]) -> set[str]:
    """The settings that a command line names, be it with the value that they have anyway."""
    return {flag.removeprefix("no_") for flag in map(flag_of, argv) if flag}


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Extract hack directions from contrast pairs, for `train --v-hack`."""

    out: Path
    """File to write (.safetensors)."""
    overwrite: bool = False
    """Replace that file where it is there already."""
    model: str = Config.model
    """Hub id, local folder, .gguf file, or "tiny-random"."""
    model_revision: str = Config.model_revision
    """Branch, tag or commit on the hub."""
    enable_thinking: bool = Config.enable_thinking
    """What a chat template with a variable of that name is told; must be the run's."""
    dtype: DtypeName = "bfloat16"
    """Of the frozen base model; must be the run's."""
    device: DeviceName = "auto"
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
    pair_norm: PairNorm = "none"
    """unit gives every pair's gradient difference the same length before the axes are taken."""
    v_axes: AxesName = "svd"
    """svd takes the differences' top right-singular vectors, mean their mean, one axis a module."""
    pair_modes: tuple[str, ...] = ()
    """Only pairs of these loophole modes (`train --list-modes`); default all."""
    pair_flavours: tuple[str, ...] = ()
    """Only pairs of these flavours, by the set's own names (`train --list-modes`); default all."""
    temperature: float = Config.temperature
    """Of the log-probs; the run's sampling temperature."""
    micro_batch_tokens: int = 0
    """Tokens, padding included, of one forward and backward pass; 0 takes 4096 on a GPU and 512 on
    a CPU."""


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Fetch what a run needs of a model into the Hugging Face cache, so that runs can be
    offline."""

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """Hub id, or owner/name/file.gguf."""
    revision: str = "main"
    """Branch, tag or commit."""
    pattern: tuple[str, ...] = ()
    """Only the files of these names, such as '*Q4_1.gguf' where a model has several .gguf; * stands
    for any text."""


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
    device: DeviceName = "auto"
    """auto takes the GPU where there is one."""
    workers: int = 0
    """Programs graded at once; 0 takes one per CPU core."""


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
