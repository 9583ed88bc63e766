"""The cells of a sweep, arms x seeds x presets x overrides: each is one `train` command line.

A cell is recognised by what decides its rows (status.py), not by its name or by who launched it:
the run directory of a command typed by hand counts as well.
"""

import hashlib
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from projected_grpo.arms.effects import require_effect
from projected_grpo.config import Config, ConfigError
from projected_grpo.runs.commands import named_settings, train_settings
from projected_grpo.runs.status import representative, runs_by_settings

Command = tuple[str, ...]
"""A console command of this package and its arguments: ("train", "fast", "--arm=projected")."""

OF_THE_SWEEP = {
    **{"arm": "--arms", "arms": "--arms", "seed": "--seeds", "seeds": "--seeds"},
    **{"out_dir": "--out-dir", "why": "--why", "resume": "`sweep resume`"},
}
"""Settings that a cell has from the sweep -> by what they are given there."""


def queue_name(cfg: Config) -> str:
    """What a run is called in a queue: the same settings always give it, others never do."""
    return f"{cfg.preset_name}_{cfg.arm}_s{cfg.seed}_{short_digest(cfg.identity())}"


def short_digest(text: str) -> str:
    """A short name for a long text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class GridCell:
    """One run that is asked for."""

    preset: str
    flags: Command
    """What makes it the run that it is."""
    about: Command
    """Where it goes and why: left out when it is resumed, as its directory says so."""
    cfg: Config

    @property
    def name(self) -> str:
        """What it is called in a queue."""
        return queue_name(self.cfg)

    def start_command(self) -> Command:
        """The command that begins it."""
        return ("train", self.preset, *self.flags, *self.about)

    def resume_command(self, run: Path) -> Command:
        """The command that goes on with its run; the flags are given again, as those that say where
        and how fast may have changed since."""
        return ("train", self.preset, f"--resume={run}", *self.flags)


def expand_grid(
    presets: Sequence[str],
    arms: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    flags: Sequence[str],
    about: Sequence[str],
) -> list[GridCell]:
    """Every cell, seed by seed so that an early end leaves whole comparisons. An override is a text
    of `train` flags, and `flags` are those of all cells. Raises ConfigError where two cells are the
    same run, or flags say what the sweep says."""
    for name, given in (("preset", presets), ("arm", arms), ("seed", seeds)):
        if not given:
            raise ConfigError(f"a sweep needs at least one {name}: `sweep run --help` says how")
    found = [
        _cell(preset, (*flags, *words_of(override), f"--arm={arm}", f"--seed={seed}"), about)
        for preset in presets
        for seed in seeds
        for override in overrides or [""]
        for arm in arms
    ]
    named = named_settings([*flags, *(w for text in overrides for w in words_of(text))])
    if taken := sorted(named & set(OF_THE_SWEEP)):
        raise ConfigError(
            f"{taken[0]} is the sweep's own to set, by {OF_THE_SWEEP[taken[0]]}: leave it out of "
            "the flags of `train`"
        )
    require_effect([(cell.cfg, named_settings(cell.flags) - {"arm", "seed"}) for cell in found])
    for name, given in (("preset", presets), ("arm", arms), ("seed", seeds)):
        if twice := [str(value) for value, n in Counter(given).items() if n > 1]:
            raise ConfigError(
                f"--{name}s names {twice[0]} twice: every {name} runs once with each of the others"
            )
    counts = Counter(cell.name for cell in found)
    if twice := [name for name, n in counts.items() if n > 1]:
        raise ConfigError(
            f"{twice[0]} is asked for twice: name every override once, and give none that only "
            "repeats a preset"
        )
    return found


def words_of(override: str) -> list[str]:
    """The flags of an override. Raises ConfigError where a quote is not closed."""
    try:
        return shlex.split(override)
    except ValueError as error:
        raise ConfigError(
            f"--override={override} cannot be split into flags ({str(error).lower()}): put a value "
            'with an apostrophe in double quotes, as in --inoculation="Don\'t cheat"'
        ) from None


def _cell(preset: str, flags: Command, about: Sequence[str]) -> GridCell:
    cfg = train_settings([preset, *flags, *about])
    return GridCell(preset, flags, tuple(about), cfg)


def continuation(command: Command) -> Command:
    """What to run where a `train` command was stopped: it goes on with the run that it made, or
    begins again where it had not come so far. Other commands begin again."""
    if command[0] != "train":
        return command
    cfg = train_settings(command[1:])
    if cfg.resume is not None:
        return command
    made = runs_by_settings(cfg.out_dir).get(cfg.identity())
    if made is None:
        return command
    flags = (word for word in command[2:] if not word.startswith("--out-dir="))
    return ("train", command[1], f"--resume={representative(made).run}", *flags)
