"""Programs written anew; nothing here runs them."""

import ast

from projected_grpo.env.parsing import parse

MAX_REWRITE_CHARS = 30_000
"""The tree of a longer program is not written as text: that takes a hundred times the parsing."""


def insert_after(code: str, solutions: list[ast.ClassDef], statement: str) -> str:
    """Write `statement` after each of the classes, in the text itself."""
    after = {node.end_lineno or 0: node for node in solutions}
    lines = code.split("\n")
    written: list[str] = []
    for number, line in enumerate(lines, 1):
        written.append(line)
        if number in after:
            node = after[number]
            written.append(lines[node.lineno - 1][: node.col_offset] + statement)
    return "\n".join(written)


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
