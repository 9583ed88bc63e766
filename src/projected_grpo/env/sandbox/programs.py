"""What the sandbox is asked to do and what it saw: plain records, no behaviour."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

NodeKind = Literal["list_node", "tree_node"]
ResultKind = Literal["plain", "list_node", "tree_node"]


@dataclass(frozen=True, slots=True)
class Node:
    """An argument that the prelude builds in the sandbox, as `list_node(values)` and the like."""

    kind: NodeKind
    values: list[Any]


class Outcome(StrEnum):
    """How a program ended."""

    PASSED = "passed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CRASHED = "crashed"
    UNPARSED = "unparsed"
    INFRA_ERROR = "infra_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use before it is killed."""

    cpu_s: float = 10.0
    """CPU seconds, not wall clock, so that a loaded machine gives the same labels."""
    wall_s: float = 60.0
    """Backstop for programs that sleep: seconds in which it neither runs nor waits for a core."""
    memory_mb: int = 1024
    processes: int = 32
    open_files: int = 64
    file_mb: int = 8
    """Size of one file, and of the working directory as a whole."""
    output_kb: int = 256
    """Bytes printed; a program that prints more is stopped."""
    result_kb: int = 4096
    """Size of one answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program to run, and what to observe of it. Holds no expected value."""

    setup_code: str
    code: str
    entry_point: str | None = None
    """Method of `Solution` to call, on a fresh instance and with fresh arguments each time."""
    calls: tuple[dict[str, Any], ...] = ()
    """Keyword arguments of each call (plain data and `Node`)."""
    result: str = "plain"
    """How a returned value is made plain: plain | list_node | tree_node."""
    invoke: str | None = None
    """What is called without arguments after the code has run, such as `run_tests`."""
    attributes: tuple[str, ...] = ()
    """Attributes of a `Solution()` instance to read as booleans."""
    observe: bool = True
    """Keep what it prints and the files it leaves; without, both are thrown away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramResult:
    """What was seen. All of it was said by untrusted code, except `outcome` and `seconds`."""

    outcome: Outcome
    """PASSED: code, calls and invoke ran without an exception; FAILED: one was raised."""
    values: tuple[Any, ...] = ()
    """What `calls` returned, as far as they were made: plain (its sets and dicts are `Unhashed`),
    `NotPlain` or `Raised`. None where a judge has seen them."""
    failures: dict[int, str] = field(default_factory=dict)
    """Number of a call -> why it failed: the exception, or that the judge did not accept it."""
    invoked: bool = False
    """`invoke` returned without raising."""
    raised: bool = False
    """`invoke` was called and an Exception (SystemExit is none) came from inside its body."""
    attributes: dict[str, bool] = field(default_factory=dict)
    stdout: str = ""
    files: dict[str, str] = field(default_factory=dict)
    """Files left in the working directory: name -> content (capped)."""
    error: str = ""
    """Last line of the traceback, for people."""
    seconds: float = 0.0
    """CPU seconds used."""


@dataclass(frozen=True, slots=True)
class NotPlain:
    """A returned value that is not built of exact builtin types; equal to no expectation."""

    type_name: str


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception that came out of a call, by the program's word; equal to no expectation."""

    error: str
    memory: bool
    """It was a MemoryError."""
