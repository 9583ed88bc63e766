"""Problems: what a task is, whoever wrote it (the benchmark, LeetCodeDataset, our katas)."""

from dataclasses import dataclass, field
from typing import Any, Literal

NodeKind = Literal["list_node", "tree_node"]


@dataclass(frozen=True, slots=True)
class Node:
    """An argument that the prelude builds inside the sandbox: `list_node(values)` or `tree_node(values)`."""

    kind: NodeKind
    values: list[Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One hidden test: keyword arguments as plain data, and the value that must come back.

    `expected` never enters the process that runs a completion. With `result="list_node"` (or
    "tree_node") the returned node structure is flattened to a list before it is compared.
    """

    kwargs: dict[str, Any]
    expected: Any
    result: Literal["plain"] | NodeKind = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A task in the public benchmark's terms (field names follow its records where they exist)."""

    id: int
    dataset: str
    difficulty: str
    messages: tuple[dict[str, str], ...]
    """System and user turn, before a loophole's hint is put in."""
    entry_point: str
    """The method's bare name (the records' `func_name` without `Solution().`)."""
    starter_code: str
    setup_code: str
    """The prelude: runs before the completion (imports, ListNode, TreeNode)."""
    cases: tuple[Case, ...] = field(repr=False)
    canonical_solution: str | None = field(default=None, repr=False)
    mode: str | None = None
    """The loophole mode the record itself asks for; None leaves it to the run's partition."""


class ProblemError(ValueError):
    """A problem file cannot be read; the message names file, line and what is wrong."""
