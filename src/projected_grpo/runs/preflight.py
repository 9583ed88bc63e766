"""What can be found wrong with a run's settings before torch is imported, which takes seconds, or a
model is loaded, which takes minutes. Nothing is written.

Whatever only the model knows (its axes, how long prompts are) is checked when it is there.
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from loguru import logger

from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.basis_record import MADE_FORMERLY, basis_record, require_made_with
from projected_grpo.arms.effects import require_effect
from projected_grpo.arms.yoked import leaders
from projected_grpo.config import Config, ConfigError
from projected_grpo.env.errors import InputError
from projected_grpo.env.loopholes.modes import get_mode
from projected_grpo.env.names import hint, nearest
from projected_grpo.env.problems.load import kata_source
from projected_grpo.pairs.load import KATAS, SETS, load_pairs, placebo_of
from projected_grpo.pairs.own import MOST_PAIRS, OWN_SETS, own_pairs
from projected_grpo.pairs.pair import Pair
from projected_grpo.runs.commands import DistillConfig, ExtractConfig
from projected_grpo.runs.files import require_folder, require_writable
from projected_grpo.runs.status import is_finished, read_settings, require_run, resumed_settings
from projected_grpo.runs.teacher_pool import TEMPLATES
from projected_grpo.runs.trackers import require_package

SHIPPED = ("organism", "tiny-random")
"""Models that are part of the package."""
LARGE_LR = 100
"""Times the preset's learning rate: with more a run is likely to be lost."""


def require_startable(cfgs: Sequence[Config], named: Collection[str] = ()) -> None:
    """Raises ConfigError or InputError where runs cannot be begun with these settings, or the run
    that they name cannot be resumed.

    named: the settings that the command line gave. All runs share what is looked at here, but for
    what they may differ in (config.PER_RUN).
    """
    cfg = cfgs[0]
    if cfg.resume is not None:
        require_run(cfg.resume)
        stored = resumed_settings(cfg, cfg.resume, named)
        if not is_finished(cfg.resume):
            leaders([stored])
        return
    leaders(cfgs)
    require_writable(cfg.out_dir)
    if cfg.svd_cache is not None:
        require_folder(cfg.svd_cache, "--svd-cache")
    if cfg.track != "none":
        require_package(cfg.track)
    require_problems(cfg.problems)
    for mode in (*cfg.mode.split(","), *cfg.known_modes, *cfg.pair_modes):
        get_mode(mode)
    if cfg.v_hack is not None:
        require_basis(cfg.v_hack, cfgs)
    require_pairs_for(cfgs)
    require_model(cfg.model)
    usual = type(cfg)().lr
    if cfg.lr > LARGE_LR * usual:
        logger.warning(
            "lr {:g} is {:.0f} times the preset's {:g}: AdamW moves every number that trains by "
            "about lr a step, so a run is likely to be lost at once",
            cfg.lr, cfg.lr / usual, usual,
        )  # fmt: skip


OF_THE_MODEL = ("model", "model_revision", "adapter", "lora_rank", "lora_alpha", "svd_cache")
"""Settings of `extract-vhack` that have an effect where those of `train` have."""
OF_SAMPLING = ("device", "prompts_per_batch")
"""Settings of `probe-distill` that have none on templates, which no model writes."""


def require_extractable(cfg: ExtractConfig, named: Collection[str] = ()) -> None:
    """The same for `extract-vhack`, but for its --out."""
    same = Config(**{name: getattr(cfg, name) for name in OF_THE_MODEL})
    require_effect([(same, {*named} & {*OF_THE_MODEL})])
    if cfg.svd_cache is not None:
        require_folder(cfg.svd_cache, "--svd-cache")
    require_model(cfg.model)
    _load(cfg.pairs, cfg.pair_flavours, cfg.pair_modes)


def require_distillable(cfg: DistillConfig, named: Collection[str] = ()) -> None:
    """The same for `probe-distill`."""
    idle = [name for name in OF_SAMPLING if name in named and cfg.source == TEMPLATES]
    for flag in (f"--{name.replace('_', '-')}" for name in idle):
        raise ConfigError(
            f"{flag} has no effect on templates, which no model writes: name a run as --source, "
            f"or leave {flag} out"
        )
    if cfg.out.exists():
        raise ConfigError(f"{cfg.out} is there already: a pool is frozen, name another folder")
    require_writable(cfg.out.absolute().parent)
    if cfg.source != TEMPLATES:
        if not Path(cfg.source).exists():
            near = nearest(cfg.source, (TEMPLATES,))
            said = f"did you mean {near}?" if near else f"name a run, or {TEMPLATES}"
            raise InputError(f"there is no run at {cfg.source} to take answers from: {said}")
        require_run(Path(cfg.source))
    if cfg.problems:
        require_problems(cfg.problems)
    for mode in cfg.mode.split(",") if cfg.mode else ():
        get_mode(mode)


def require_problems(source: str) -> None:
    """Raises InputError for a source of problems that is not there; its records are read later."""
    if source == "katas" or source.startswith("katas:"):
        kata_source(source)
        return
    if source.startswith("hub:"):
        return
    path = Path(source)
    if not path.exists() and nearest(source.partition(":")[0], ("katas",)):
        raise InputError(f"there are no problems {source}: did you mean katas?")
    if not path.exists():
        raise InputError(
            f"there is no file of problems at {path}: give a .jsonl or .jsonl.gz file, katas, or "
            "hub:owner/name"
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a .jsonl or .jsonl.gz file in it")


def require_model(source: str) -> None:
    """Raises InputError for a model that is neither shipped, nor a folder or .gguf file here, nor
    named as one of the hub is."""
    path = Path(source)
    if source in SHIPPED:
        return
    if path.is_file() and path.suffix != ".gguf":
        raise InputError(f"{source} is a file, but no .gguf: name a model's folder, or a hub id")
    if path.is_dir() and not (path / "config.json").is_file():
        what = "is empty" if not any(path.iterdir()) else "has no config.json"
        raise InputError(
            f"{source} {what}: name the folder of a model (config.json, *.safetensors, tokenizer), "
            "a .gguf file, or a hub id"
        )
    if path.exists():
        return
    if "/" not in source and (near := nearest(source, SHIPPED)):
        raise InputError(f"there is no model {source}: did you mean {near}?")
    if path.is_absolute() or source.startswith(".") or ".." in path.parts:
        raise InputError(f"there is no model at {path}")


def require_pairs_for(cfgs: Sequence[Config]) -> None:
    """Raises InputError or ConfigError where a run's contrast pairs cannot be read, lack a flavour
    that it names, or give fewer axes than it asks for."""
    for cfg in cfgs:
        if ARMS[cfg.arm].extraction == "placebo_pairs":
            placebo_of(cfg.pairs)
        if cfg.pairs in OWN_SETS:  # which are not there yet, but their names and number are known
            own_pairs([], cfg.seed, cfg.pair_modes, cfg.pair_flavours)
            if cfg.v_hack_k_most > MOST_PAIRS and cfg.v_hack is None and cfg.measure == "v":
                raise ConfigError(
                    f"--v-hack-k={cfg.v_hack_k_most} asks for more axes than the {MOST_PAIRS} "
                    f"pairs that --pairs={cfg.pairs} makes at most: lower it"
                )
    asked = {
        (cfg.pairs, cfg.pair_flavours, cfg.pair_modes, cfg.v_hack_k_most)
        for cfg in cfgs
        if cfg.pairs not in OWN_SETS
        and (cfg.refresh_every or ARMS[cfg.arm].concept or ARMS[cfg.arm].extraction
             or (cfg.v_hack is None and cfg.measure == "v"))
    }  # fmt: skip
    for pairs, flavours, modes, k in sorted(asked):
        if pairs in KATAS and not flavours and not modes:
            continue  # all of them are there, and more than anybody asks for; made in a second
        n = len(_load(pairs, flavours, modes))
        if n < k and any(cfg.measure == "v" for cfg in cfgs):
            raise ConfigError(
                f"--v-hack-k={k} asks for more axes than the {n} pairs give that are taken of "
                f"--pairs={pairs}: lower it, or take more pairs"
            )


def _load(pairs: str, flavours: Sequence[str], modes: Sequence[str]) -> list[Pair]:
    sets = (*SETS, *KATAS, *OWN_SETS)
    if pairs not in sets and not Path(pairs).exists():
        raise InputError(
            f"there are no pairs {pairs}, neither a set nor a .toml file: {hint(pairs, sets)}"
        )
    if pairs in OWN_SETS:
        raise InputError(
            f"--pairs={pairs} are made of what the policy of a run writes: `train --pairs={pairs}` "
            "makes them at its start, and they cannot be had beforehand"
        )
    return load_pairs(pairs, flavours or None, modes or None)


def require_basis(file: Path, cfgs: Sequence[Config]) -> None:
    """Raises InputError where a file of hack directions is not there or no such file, or is of
    another model, way of sampling or way of making axes than a run has. Reads its header only."""
    if not file.is_file():
        raise InputError(
            f"there is no file of hack directions at {file}: write one with `extract-vhack "
            f"--out={file} --model={cfgs[0].model}`, or leave --v-hack out"
        )
    record = basis_record(file)
    for cfg in cfgs:
        of_the_model = [] if _same_model(record.get("model", ""), cfg.model) else ["model"]
        names = (*of_the_model, "adapter", "temperature", *MADE_FORMERLY)
        require_made_with(record, cfg, names, file)


def _same_model(had: str, mine: str) -> bool:
    """Whether two names may be of one model: a name says so only of what ships or is on the hub, as
    a folder may be copied."""
    return had not in SHIPPED and (Path(mine).exists() or Path(had).name == Path(mine).name)


def finished_already(cfg: Config, named: Collection[str] = ()) -> str | None:
    """What to say of a run that --resume names and that has all its rows; None where there is
    something left to do. Warns where a run that says that it is finished lacks rows."""
    run = cfg.resume
    if run is None or not is_finished(run):
        return None
    steps = read_settings(run).steps
    if steps < cfg.steps and "steps" in named:
        return None  # it is extended
    for name, size in row_bytes(run).items():
        last, rows = last_step(run / name), (run / name).read_bytes()
        if last < steps or len(rows) < size or not rows.endswith(b"\n"):
            logger.warning(
                "{} says that it is finished, but its {} lacks rows (the last whole one is of step "
                "{} of {}): it goes on from its newest checkpoint that fits",
                run, name, last, steps,
            )  # fmt: skip
            return None
    return f"{run} is finished: it has all its {steps} steps, and nothing is left to do"


def row_bytes(run: Path) -> dict[str, int]:
    """How large the files of rows were at the newest checkpoint; 0 where that does not say."""
    found = {"steps.jsonl": 0, "rollouts.jsonl": 0}
    states = sorted(run.glob("checkpoints/step_*/state.json"))
    try:
        state = json.loads(states[-1].read_text(encoding="utf-8")) if states else {}
        return {name: int(state.get("rows", {})[name]["bytes"]) for name in found}
    except (OSError, AttributeError, LookupError, TypeError, ValueError):
        return found


def last_step(rows: Path) -> int:
    """The step of the last whole row of a file of rows; 0 where there is none."""
    last = 0
    with rows.open("rb") as f:
        for line in f:
            try:
                last = int(json.loads(line)["step"]) if line.endswith(b"\n") else last
            except (ValueError, TypeError, KeyError):
                return last
    return last
