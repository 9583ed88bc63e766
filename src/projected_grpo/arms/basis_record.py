"""What a file of hack directions says of how they were made, and whether a run asks for the same.
Imports no torch.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from projected_grpo.config import Config
from projected_grpo.env.errors import InputError

MADE_FORMERLY = {"pair_norm": "none", "v_axes": "svd"}
"""Setting -> how directions were made before there was the setting, in files that do not name
it."""


def with_formerly(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file's metadata says, and of an older one what it leaves unsaid."""
    return {**MADE_FORMERLY, **metadata}


def basis_record(file: Path) -> dict[str, str]:
    """The same of a file, of which only the header is read. Raises InputError where it is no file
    of hack directions."""
    try:
        with safe_open(file, "np") as f:
            return with_formerly(f.metadata() or {})
    except SafetensorError as error:
        raise InputError(f"{file} is not a file of hack directions: {error}") from error


def require_made_with(
    record: Mapping[str, str], cfg: Config, names: Iterable[str], source: object
) -> None:
    """Raises InputError where directions were made with another value of a setting than the run
    has; what the record does not name is left alone.

    record: as `with_formerly` gives it. names: of the settings. source: where the directions are.
    """
    for name in names:
        had, mine = record.get(name), str(getattr(cfg, name))
        if had is not None and had != mine:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(
                f"{source} was extracted with {name} {had}, the run has {mine}: run extract-vhack "
                f"with {flag}={mine}, or give the run {flag}={had}"
            )
