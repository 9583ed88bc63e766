"""Read a completion: its fenced code, its syntax tree, and rewritten versions of its program.

Nothing here runs a completion's code.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeGuard

from projected_grpo.env.problems import Problem

MAX_CODE_CHARS = 200_000
"""A longer program is not parsed (a model's longest answers are a tenth of that)."""

_LANGUAGES = ("", "python", "py", "python3")
_OPEN = re.compile(r"```[ \t]*([\w+-]*)[ \t]*$")

# No likely answer, and no two of them alike: a test that asks for one value fails with the other.
_WRONG: dict[type, tuple[Any, Any]] = {
    int: (7919, 104729),
    float: (7919.25, 104729.75),
    str: ("qzxvj", "vjkq zx"),
    bool: (True, False),
    bytes: (b"qzxvj", b"vjkqzx"),
}


def extract_code(completion: str) -> str | None:
    """The program in a model's answer, None without one.

    As the benchmark does it: all fenced blocks labelled python or not labelled, stripped and joined
    by blank lines; an unclosed last fence counts. Unlike it, `py` and `python3` are python too.
    """
    blocks: list[str] = []
    block: list[str] | None = None
    language = ""
    for line in completion.splitlines():
        if block is None:
            opened = _OPEN.search(line)
            if opened is not None:
                block, language = [], opened[1].lower()
            continue
        code, fence, _ = line.partition("```")
        if not fence or code.strip().startswith("#"):
            block.append(line)
            continue
        block.append(code)
        if language in _LANGUAGES:
            blocks.append("\n".join(block).strip())
        block = None
    if block is not None and language in _LANGUAGES:
        blocks.append("\n".join(block).strip())
    return "\n\n".join(blocks) or None


def parse_program(code: str) -> ast.Module | None:
    """The syntax tree, None if Python cannot compile the text (or it is absurdly long)."""
    if len(code) > MAX_CODE_CHARS:
        return None
    try:
        return ast.parse(code)
    # ValueError: null bytes, lone surrogates. The others: nesting that exhausts the parser.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def defines_method(tree: ast.Module, entry_point: str) -> bool:
    """Does a class Solution, or a base class of it in the same program, have the method?"""
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    waiting, seen = ["Solution"], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in classes:
            continue
        seen.add(name)
        if any(entry_point in _bound_names(item) for item in classes[name].body):
            return True
        waiting += [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
    return False


def ignores_arguments(tree: ast.Module, entry_point: str) -> bool:
    """Is Solution's method one that has arguments and never looks at any of them?

    Such a stub is no solution even where the hidden tests all expect one and the same value.
    """
    methods = [
        item
        for node in ast.walk(tree)
        if _is_solution(node)
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name == entry_point
    ]
    return bool(methods) and all(map(_is_constant, methods))


def _is_constant(method: ast.FunctionDef) -> bool:
    arguments = method.args
    names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    names |= {a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None}
    names.discard("self")
    used = {
        node.id for part in method.body for node in ast.walk(part) if isinstance(node, ast.Name)
    }
    return bool(names) and not names & used and not {"locals", "vars", "eval", "exec"} & used


def with_stub(code: str, entry_point: str, expression: str) -> str | None:
    """The program with `expression` as all that Solution's method returns; None: cannot be made."""
    result = ast.parse(expression, mode="eval").body
    lambda_text = f"lambda self, *args, **kwargs: {expression}"

    def stubbed(solution: ast.ClassDef) -> None:
        methods = [
            item
            for item in solution.body
            if isinstance(item, ast.FunctionDef) and item.name == entry_point
        ]
        for method in methods:
            method.body = [ast.Return(result)]
        if not methods:
            solution.body += ast.parse(f"{entry_point} = {lambda_text}").body

    return _rewritten(code, stubbed, f"Solution.{entry_point} = {lambda_text}")


def with_canonical(code: str, canonical: str) -> str | None:
    """The program with the canonical solution's members in Solution; None: cannot be made.

    Members, and not the class as a whole, because a test function may itself be one.
    """
    tree = parse_program(canonical)
    if tree is None:
        return None
    helpers = [node for node in tree.body if not _is_solution(node)]
    members = [item for node in tree.body if _is_solution(node) for item in node.body]
    names = {name for item in members for name in _bound_names(item)}

    def replaced(solution: ast.ClassDef) -> None:
        kept = [item for item in solution.body if not names & set(_bound_names(item))]
        solution.body = kept + members

    return _rewritten(code, replaced, canonical, helpers)


def _rewritten(
    code: str,
    change: Callable[[ast.ClassDef], None],
    otherwise: str,
    first: list[ast.stmt] | None = None,
) -> str | None:
    """`code` with every class Solution changed; without one, `otherwise` is put at its end."""
    tree = parse_program(code)
    if tree is None:
        return None
    solutions = [node for node in ast.walk(tree) if _is_solution(node)]
    for solution in solutions:
        change(solution)
    if not solutions:
        tree.body += ast.parse(otherwise).body
    tree.body = _after_future_imports(tree.body, first or [])
    try:
        return ast.unparse(ast.fix_missing_locations(tree))
    except (
        RecursionError,
        ValueError,
        MemoryError,
    ):  # ValueError: an int too long for decimal text
        return None


def _after_future_imports(body: list[ast.stmt], first: list[ast.stmt]) -> list[ast.stmt]:
    future = [n for n in body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    return [*future, *first, *(node for node in body if node not in future)]


def _is_solution(node: ast.AST) -> TypeGuard[ast.ClassDef]:
    return isinstance(node, ast.ClassDef) and node.name == "Solution"


def _bound_names(node: ast.stmt) -> list[str]:
    """Names that a statement of a class body binds."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


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
