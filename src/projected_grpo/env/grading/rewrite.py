"""A program with the canonical solution as Solution's method; nothing here runs it."""

import ast

from projected_grpo.env.parsing import (
    is_solution,
    parse,
    parse_expression,
    parse_program,
)
from projected_grpo.env.solution import bound_names, import_time

MAX_REWRITE_CHARS = 30_000
"""The tree of a longer program is not written as text: that takes a hundred times the parsing."""


def with_canonical(code: str, canonical: str) -> str | None:
    """Write the program with the canonical solution's members in Solution; None: it cannot be made.

    Members, and not the class as a whole, because a test function may itself be one.
    """
    tree, right = parse_program(code), parse_program(canonical)
    if tree is None or right is None or len(code) > MAX_REWRITE_CHARS:
        return None
    helpers = [node for node in right.body if not is_solution(node)]
    members = [item for node in right.body if is_solution(node) for item in node.body]
    names = {name for item in members for name in bound_names(item)}
    solutions = [node for node in import_time(tree) if is_solution(node)]
    if len(solutions) * len(canonical) > 10 * MAX_REWRITE_CHARS:
        return None
    for solution in solutions:
        kept = [item for item in solution.body if not names & set(bound_names(item))]
        solution.body = kept + members
    if not solutions:
        tree.body += right.body
    _undo_rebinding(tree, names)
    tree.body = after_future_imports(tree.body, helpers)
    return unparse(tree)


def _undo_rebinding(tree: ast.Module, names: set[str]) -> None:
    """Turn `Solution.name = ...` into `Solution.name = Solution.name`."""
    for node in import_time(tree):
        match node:
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="Solution"), attr=name)]) if (
                name in names
            ):
                node.value = parse_expression(f"Solution.{name}").body


def unparse(tree: ast.Module) -> str | None:
    """Write a syntax tree as text; None if there is none that Python reads again."""
    try:
        text = ast.unparse(ast.fix_missing_locations(tree))
        parse(text)
    # ValueError: an int too long for decimal text. RecursionError: too deep for a walk in Python.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return text


def after_future_imports(body: list[ast.stmt], first: list[ast.stmt]) -> list[ast.stmt]:
    """Put statements first in a program's body, but for `from __future__ import ...`."""
    future = [n for n in body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    others = [n for n in body if not (isinstance(n, ast.ImportFrom) and n.module == "__future__")]
    return [*future, *first, *others]
