"""Settings in a YAML file: read for `train --config=run.yaml`, and written by every run so that the
same command makes it again. Imports no torch."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from projected_grpo.config import PRESETS, SETTINGS, Config, ConfigError
from projected_grpo.env.errors import InputError
from projected_grpo.env.names import hint, nearest
from projected_grpo.env.problems.dataset import parts_of

SETTINGS_FILE = "run.yaml"
"""Of the file in a run directory."""
FLAG = "--config"
LEFT_OUT = ("arms", "seeds", "out_dir", "resume")
"""Settings that say which runs are made and where: the file is of one."""


def with_file(argv: Sequence[str]) -> list[str]:
    """A `train` command line in which `--config=FILE` is replaced by the file's preset and
    settings, as flags; those that the line gives itself are left to it.

    Raises ConfigError for a setting that there is not, a value that is none, or two presets;
    InputError where the file cannot be read.
    """
    words = list(argv)
    file = _take_out(words)
    if file is None:
        return words
    settings = read_settings_file(file)
    preset, had = settings.pop("preset", None), words[0] if words and words[0] in PRESETS else None
    if had is not None:
        words.pop(0)
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"{file}: there is no preset {preset}: {_near(str(preset), PRESETS)}")
    if preset is None and had is None:
        raise ConfigError(
            f"{file} names no preset: add `preset: mini` to it, or say `train mini {FLAG}={file}` "
            f"(there are {', '.join(PRESETS)})"
        )
    if preset is not None and had is not None and preset != had:
        raise ConfigError(
            f"{file} is of preset {preset}, the command of {had}: leave one of the two out"
        )
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    flags: list[str] = []
    for name, value in settings.items():
        plain = f"--{name.replace('_', '-')}"
        spellings = {plain, f"--{name}", plain.replace("--", "--no-", 1), f"--no_{name}"}
        if not spellings & given:
            flags += _flag(file, name, plain, value)
    return [preset or had or "", *flags, *words]


def _take_out(words: list[str]) -> Path | None:
    """The file that is named, whose words are removed."""
    places = [n for n, word in enumerate(words) if word.partition("=")[0] == FLAG]
    if not places:
        return None
    if len(places) > 1:
        raise ConfigError(f"{FLAG} is given {len(places)} times: give one file")
    (place,) = places
    word = words.pop(place)
    if "=" in word:
        return Path(word.partition("=")[2])
    if place == len(words) or words[place].startswith("--"):
        raise ConfigError(f"{FLAG} needs a file, such as {FLAG}=run.yaml")
    return Path(words.pop(place))


def read_settings_file(file: Path) -> dict[str, Any]:
    """Setting -> value, `preset` among them. Raises as `with_file`."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file} is not a YAML file: {reason}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds no settings: a line of it is `name: value`")
    settings: dict[str, Any] = {}
    for key, value in found.items():
        name = str(key).replace("-", "_")
        if name != "preset" and name not in SETTINGS:
            raise ConfigError(f"{file}: there is no setting {key}: {_near(name, SETTINGS)}")
        if name in settings:
            raise ConfigError(f"{file} says {name} twice")
        settings[name] = value
    return settings


def _near(name: str, known: Collection[str]) -> str:
    if len(known) < 10 or nearest(name, known):
        return hint(name, known)
    return "`train mini --help` lists them"


def _flag(file: Path, name: str, flag: str, value: object) -> list[str]:
    """The words of a setting; of null none: it is as if it were not there."""
    switch = isinstance(Config.__dataclass_fields__[name].default, bool)
    if value is None:
        return []
    if isinstance(value, bool) != switch or isinstance(value, dict):
        wanted = "true or false" if switch else "a value or a list of values"
        raise ConfigError(f"{file}: {name} is {wanted}, not {value!r}")
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, list):
        return [flag, *map(str, value)]
    return [f"{flag}={value}"]


def settings_file(cfg: Config, made_from: Mapping[str, Any]) -> str:
    """The text of a run's file: its preset, and every setting that is not the preset's own. The
    base model and a dataset on the hub are named at the commit that `made_from` (run.json) says:
    branches move."""
    default = type(cfg)()
    told = {"preset": cfg.preset_name, "arm": cfg.arm, "seed": cfg.seed}
    for name in SETTINGS:
        value = getattr(cfg, name)
        if name not in LEFT_OUT and value != getattr(default, name):
            told[name] = _plain(value)
    if commit := made_from.get("model_commit"):
        told |= {"model": cfg.model, "model_revision": commit}
    if commit := made_from.get("data_commit"):
        name, _, split = parts_of(cfg.problems)
        told["problems"] = f"hub:{name}@{commit}:{split}"
    text = yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=100)
    return f"# Makes this run again: train {FLAG}={SETTINGS_FILE}\n{text}"


def _plain(value: object) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
