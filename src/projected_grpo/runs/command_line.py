"""Reading a command line: one sentence for what it cannot be, with the name that was meant and the
--help that has it.

tyro parses. What it says of a fault is a box around its own words, which names classes and the
wrong --help; here it becomes a sentence.
"""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar, get_type_hints

import tyro

from projected_grpo import __version__
from projected_grpo.config import ConfigError
from projected_grpo.env.names import nearest

_T = TypeVar("_T")

SIDES, EDGE = "│| ", "╭╮╰╯─+- "
"""What tyro draws boxes of, where the terminal has such characters and where it has not."""

A, SAYS = r"^Error parsing (\S+): ", r"\1 "
IN_OUR_WORDS = {
    r"^Error parsing __tyro-dummy-inner__\.": "--",
    A + "could not convert string to float: ": SAYS + "is a number, not ",
    A + r"invalid literal for int\(\) with base 10: ": SAYS + "is a whole number, not ",
    A + "Could not find valid parse for arguments: ": SAYS + "cannot be read from ",
    "^Error parsing ": "",
    r"^Missing value for argument '(\S+)'\. Expected (\d+) values?": SAYS
    + r"takes \2, and has none",
    r"^invalid choice (\S+) for argument '(\S+)'\. Expected one of \((.*)\)": (
        r"\2 cannot be \1: there are \3"
    ),
}
"""How the parser begins a complaint -> how this package does."""


def parse_settings(
    kind: type[_T], words: Sequence[str], prog: str, synonyms: Mapping[str, str] | None = None
) -> _T:
    """The settings of a command from its command line.

    synonyms: what others call a setting -> its name here. Ends the process for --help and
    --version. Raises ConfigError for what cannot be read.
    """
    say_version(words)
    require_known(words, flag_names(kind), prog, synonyms or {})
    with complaints(prog):
        return tyro.cli(kind, args=list(words), prog=prog)


def console_command(name: str, *words: str) -> str:
    """A console command as it can be pasted where this process was started: by `uv run` where that
    started it, by this interpreter where the command is not on the PATH."""
    if "UV" in os.environ:  # which uv sets for what it runs
        before = ("uv", "run", name)
    elif shutil.which(name):
        before = (name,)
    else:
        before = (sys.executable, "-m", "projected_grpo", name)
    return shlex.join((*before, *words))


def say_version(words: Collection[str]) -> None:
    """Print the version and end the process where --version was asked for."""
    if "--version" in words:
        print(f"projected_grpo {__version__}")
        raise SystemExit(0)


def flag_names(kind: type, prefix: str = "") -> list[str]:
    """The names of a command's flags, those of a setting that has settings with a dot."""
    found: list[str] = []
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        inner = hints[field.name]
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            found += flag_names(inner, f"{prefix}{field.name}.")
        else:
            found.append(f"{prefix}{field.name}")
    return found


def flag_of(word: str) -> str | None:
    """The name in "--some-name=3": some_name; None for a word that is no flag."""
    if not re.match(r"--[a-zA-Z]", word):
        return None
    return word.partition("=")[0].removeprefix("--").replace("-", "_")


def require_known(
    words: Sequence[str], known: Collection[str], prog: str, synonyms: Mapping[str, str]
) -> None:
    """Raises ConfigError for a flag that the command does not have, with the one that was meant."""
    for word in words:
        name = flag_of(word)
        if name is None or name == "help" or {name, name.removeprefix("no_")} & {*known}:
            continue
        flag = word.partition("=")[0]
        meant = nearest(name, [*known, *synonyms])
        meant = synonyms.get(meant or "", meant)
        said = f"did you mean --{meant.replace('_', '-')}? " if meant else ""
        raise ConfigError(f"{prog} has no flag {flag}: {said}`{prog} --help` lists them")


@contextlib.contextmanager
def complaints(prog: str) -> Iterator[None]:
    """A context in which a complaint of the parser's becomes a ConfigError."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise ConfigError(sentence_of(said.getvalue(), prog)) from None


def sentence_of(complaint: str, prog: str) -> str:
    """What tyro says in a box, as a sentence."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", complaint)
    lines = plain.splitlines()
    title = lines[0].strip(EDGE) if lines else ""
    said: list[str] = []
    for line in lines[1:]:
        inner = line.strip(SIDES)
        if inner.strip(EDGE):
            said.append(inner)
        elif said:  # a rule: advice of tyro's own follows
            break
    text = " ".join(said).rstrip(".")
    if title == "Required options":
        missing = re.findall(r"^(?:│ {5}| {6})(\S+)", plain, re.MULTILINE)
        missing = [name for name in missing if name.startswith("--") or name.isupper()]
        text = f"{prog} needs {' and '.join(missing)}"
    elif title == "Unrecognized options":
        text = f"{prog} has no place for {text.partition(': ')[2]}: values follow their flag"
    for form, better in IN_OUR_WORDS.items():
        text = re.sub(form, better, text)
    return f"{text} (`{prog} --help` says more)"
