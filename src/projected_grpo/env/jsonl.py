"""JSON Lines files that people give: one sentence with file and line for whatever is wrong."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from projected_grpo.env.errors import InputError


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file:line, text) of every line that is not blank. Raises InputError where the file, packed
    with gzip where its name ends in .gz, cannot be read."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", line
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path}:{number + 1}: cannot be read ({error})") from None


def parse_line(line: str, place: str) -> Any:
    """The value of a line of JSON. Raises InputError."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: not valid JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; deep nesting
        raise InputError(f"{place}: not valid JSON that can be read ({error})") from None
