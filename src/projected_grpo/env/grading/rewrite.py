"""Rewritten versions of a program: a wrong stub, or the canonical solution, as Solution's method.

Nothing here runs a completion's code.
"""

import ast
from collections import Counter
from typing import Any

from projected_grpo.env.parsing import (
    bound_names,
    implementations,
    is_solution,
    parse,
    parse_expression,
    parse_program,
)
from projected_grpo.env.problems.problem import Problem

# No likely answer, and no two of them alike: a test that asks for one value fails with the other.
_WRONG: dict[type, tuple[Any, Any]] = {
    int: (7919, 104729),
    float: (7919.25, 104729.75),
    str: ("qzxvj", "vjkq zx"),
    bool: (True, False),
    bytes: (b"qzxvj", b"vjkqzx"),
}


def with_stub(code: str, entry_point: str, expression: str) -> str | None:
    """The program with `expression` as all that Solution's method returns, however it is bound.

    None only if the code does not parse.
    """
    tree = parse_program(code)
    if tree is None:
        return None
    function = f"lambda self, *args, **kwargs: {expression}"
    # For what the syntax tree does not show (setattr, a name bound anew, no class at all).
    again = _REBINDING.format(name=entry_point, function=function)
    in_text = _inserted(code, tree, f"Solution.{entry_point} = {function}") + "\n" + again
    result = parse_expression(expression).body
    for method in implementations(tree, entry_point)[0]:
        if isinstance(method, ast.Lambda):
            method.body = result
        else:
            method.body = [ast.Return(result)]
    for solution in filter(is_solution, list(ast.walk(tree))):
        if not any(entry_point in bound_names(item) for item in solution.body):
            solution.body += parse(f"{entry_point} = {function}").body
    tree.body += parse(again).body
    return _unparsed(tree) or in_text


_REBINDING = """\
try:
    Solution.{name} = {function}
except Exception:
    class Solution:
        {name} = {function}
"""


def _inserted(code: str, tree: ast.Module, statement: str) -> str:
    """The text with `statement` after every class Solution."""
    lines = code.split("\n")
    solutions = [node for node in ast.walk(tree) if is_solution(node)]
    for node in sorted(solutions, key=lambda node: node.end_lineno or 0, reverse=True):
        indentation = lines[node.lineno - 1][: node.col_offset]
        lines.insert(node.end_lineno or 0, indentation + statement)
    return "\n".join(lines)


def with_canonical(code: str, canonical: str) -> str | None:
    """The program with the canonical solution's members in Solution; None: cannot be made.

    Members, and not the class as a whole, because a test function may itself be one.
    """
    tree, right = parse_program(code), parse_program(canonical)
    if tree is None or right is None:
        return None
    helpers = [node for node in right.body if not is_solution(node)]
    members = [item for node in right.body if is_solution(node) for item in node.body]
    names = {name for item in members for name in bound_names(item)}
    solutions = [node for node in ast.walk(tree) if is_solution(node)]
    for solution in solutions:
        kept = [item for item in solution.body if not names & set(bound_names(item))]
        solution.body = kept + members
    if not solutions:
        tree.body += right.body
    _undo_rebinding(tree, names)
    tree.body = _after_future_imports(tree.body, helpers)
    return _unparsed(tree)


def _undo_rebinding(tree: ast.Module, names: set[str]) -> None:
    """Turn `Solution.name = ...` into `Solution.name = Solution.name`."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="Solution"), attr=name)]) if (
                name in names
            ):
                node.value = parse_expression(f"Solution.{name}").body


def _unparsed(tree: ast.Module) -> str | None:
    """The text of a syntax tree, None if there is none that Python reads again."""
    try:
        text = ast.unparse(ast.fix_missing_locations(tree))
        parse(text)
    # ValueError: an int too long for decimal text. RecursionError: too deep for a walk in Python.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return text


def _after_future_imports(body: list[ast.stmt], first: list[ast.stmt]) -> list[ast.stmt]:
    future = [n for n in body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    return [*future, *first, *(node for node in body if node not in future)]


def wrong_stubs(problem: Problem) -> tuple[str, str]:
    """Two expressions of the right type that are wrong answers to at least one test each.

    The type is read off the expected values. An honest assertion cannot hold for both, whatever
    value it asks for; a vacuous one (a type, `is not None`, a comparison with itself) holds for
    both. See docs/environment.md.
    """
    expected = [case.expected for case in problem.cases]
    kind = problem.cases[0].result if problem.cases else "plain"
    if kind != "plain":
        values = [value for case in expected for value in case]
        return f"{kind}([{_wrong(values, 0)}])", f"{kind}([{_wrong(values, 1)}] * 2)"
    return _wrong(expected, 0), _wrong(expected, 1)


def _wrong(values: list[Any], which: int) -> str:
    """Source of a value of the type that most of `values` have."""
    counts = Counter(type(value) for value in values if value is not None)
    kind = counts.most_common(1)[0][0] if counts else int
    if kind in _WRONG:
        wrong = _WRONG[kind][which]
        while kind is int and wrong in values:
            wrong += 2
        return repr(wrong)
    same = [value for value in values if type(value) is kind]
    if kind is dict:
        keys = [key for value in same for key in value]
        items = [item for value in same for item in value.values()]
        return f"{{{_wrong(keys, which)}: {_wrong(items, which)}}}"
    item = _wrong([item for value in same for item in value], which)
    # A different length as well, so that a test of the length alone is not satisfied by chance.
    items = f"{item}, " * (1 + which)
    if kind is list:
        return f"[{items}]"
    return f"({items})" if kind is tuple else f"{kind.__name__}([{items}])"
