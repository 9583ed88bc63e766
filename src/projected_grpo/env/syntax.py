"""Parsing, one thread at a time.

CPython 3.11 keeps the depth of the tree that it is building in a place which all threads share.
Where the collector runs meanwhile, another thread may parse, and the first then ends in
"SystemError: AST constructor recursion depth mismatch". The grader's threads met it once in some
10^5 programs.
"""

import ast
from threading import Lock

_ONE_AT_A_TIME = Lock()


def parse(source: str) -> ast.Module:
    """As `ast.parse`, with its errors (SyntaxError, ValueError, RecursionError, MemoryError)."""
    with _ONE_AT_A_TIME:
        return ast.parse(source)


def parse_expression(source: str) -> ast.Expression:
    """The same of one expression."""
    with _ONE_AT_A_TIME:
        return ast.parse(source, mode="eval")
