"""Read a model's answer: the program in its fences, its syntax tree, and Solution's method in it.

Nothing here runs a completion's code. Parsing goes one thread at a time: CPython 3.11 keeps the
depth of the tree that it is building in a place which all threads share. Where the collector runs
meanwhile, another thread may parse, and the first then ends in "SystemError: AST constructor
recursion depth mismatch". The grader's threads met it once in some 10^5 programs.
"""

import ast
import re
from threading import Lock
from typing import TypeGuard

_ONE_AT_A_TIME = Lock()


def parse(source: str) -> ast.Module:
    """As `ast.parse`, with its errors (SyntaxError, ValueError, RecursionError, MemoryError)."""
    with _ONE_AT_A_TIME:
        return ast.parse(source)


def parse_expression(source: str) -> ast.Expression:
    """The same of one expression."""
    with _ONE_AT_A_TIME:
        return ast.parse(source, mode="eval")


MAX_CODE_CHARS = 200_000
"""A longer program is not parsed (a model's longest answers are a tenth of that)."""

_LANGUAGES = ("", "python", "py", "python3")
_OPEN = re.compile(r"```[ \t]*([\w+-]*)$")
_CLOSING_LINE = re.compile(r" {0,3}```\s*")


def extract_code(completion: str) -> str | None:
    """The program in a model's answer, None without one.

    As the benchmark does it: all fenced blocks labelled python or not labelled, stripped and joined
    by blank lines; an unclosed last fence counts. Unlike it, `py` and `python3` are python too, and
    where that is no Python program, other readings are tried: the labelled blocks alone (the others
    show output), and fences that only a line of their own closes (docstrings hold backticks). The
    first that is a program counts.
    """
    readings = [_blocks(completion, strict=False)]
    first = _joined(readings[0])
    if not first or parse_program(first) is not None:
        return first or None
    readings.append(_blocks(completion, strict=True))
    for blocks in readings:
        labelled = [block for block in blocks if block[0]]
        for some in (blocks, labelled):
            code = _joined(some)
            if code and parse_program(code) is not None:
                return code
    return first


def _joined(blocks: list[tuple[str, str]]) -> str:
    return "\n\n".join(code for _, code in blocks)


def _blocks(completion: str, *, strict: bool) -> list[tuple[str, str]]:
    """(language, code) of the python and unlabelled blocks.

    A block ends at the first backticks that follow no `#` at the start of their line, or, if
    `strict`, at the first line that holds backticks and nothing else, not indented like code.
    """
    blocks: list[tuple[str, str]] = []
    block: list[str] | None = None
    language = ""
    for line in completion.splitlines():
        if block is None:
            # Stripped first: a pattern with spaces at both ends takes quadratic time.
            opened = _OPEN.search(line.rstrip(" \t"))
            if opened is not None:
                block, language = [], opened[1].lower()
            continue
        code, fence, _ = line.partition("```")
        inside = not _CLOSING_LINE.fullmatch(line) if strict else code.strip().startswith("#")
        if not fence or inside:
            block.append(line)
            continue
        block.append(code)
        blocks.append((language, "\n".join(block).strip()))
        block = None
    if block is not None:
        blocks.append((language, "\n".join(block).strip()))
    return [(language, code) for language, code in blocks if language in _LANGUAGES]


def parse_program(code: str) -> ast.Module | None:
    """The syntax tree, None if Python cannot compile the text (or it is absurdly long)."""
    if len(code) > MAX_CODE_CHARS:
        return None
    try:
        return parse(code)
    # ValueError: null bytes, lone surrogates. The others: nesting that exhausts the parser.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


Function = ast.FunctionDef | ast.Lambda


def is_solution(node: ast.AST) -> TypeGuard[ast.ClassDef]:
    """Is this a class Solution?"""
    return isinstance(node, ast.ClassDef) and node.name == "Solution"


def bound_names(node: ast.stmt) -> list[str]:
    """Names that a statement of a class body binds."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def defines_method(tree: ast.Module, entry_point: str) -> bool:
    """Does a class Solution, or a base class of it in the same program, have the method?"""
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    waiting, seen = ["Solution"], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in classes:
            continue
        seen.add(name)
        if any(entry_point in bound_names(item) for item in classes[name].body):
            return True
        waiting += [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
    return False


def ignores_arguments(tree: ast.Module, entry_point: str) -> bool:
    """Is Solution's method one that has arguments and never looks at any of them?

    Such a stub is no solution even where the hidden tests all expect one and the same value. False
    where the method is rebound to something that cannot be followed.
    """
    found, followed = implementations(tree, entry_point)
    return followed and bool(found) and all(map(_is_constant, found))


def implementations(tree: ast.Module, entry_point: str) -> tuple[list[Function], bool]:
    """The functions that Solution's method is bound to anywhere, and whether these are all."""
    found: list[Function] = []
    values: list[ast.expr] = []
    followed = True
    for node in ast.walk(tree):
        if is_solution(node):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == entry_point:
                    found.append(item)
                elif isinstance(item, ast.Assign) and entry_point in bound_names(item):
                    values.append(item.value)
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Attribute) and target.attr == entry_point
            for target in node.targets
        ):
            values.append(node.value)
        elif _may_rebind(node, entry_point):
            followed = False
    plain = [_unwrapped(value) for value in values]
    names = {value for value in plain if isinstance(value, str)}
    named = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in names]
    found += [value for value in plain if isinstance(value, ast.Lambda)]
    known = set(found)
    found += [function for function in named if function not in known]
    followed = followed and None not in plain and names <= {function.name for function in named}
    return found, followed


def _may_rebind(node: ast.AST, entry_point: str) -> bool:
    """Does this bind the class anew, or the method in a way that is not followed?"""
    match node:
        case ast.Name(id="Solution", ctx=ast.Store()):
            return True
        case ast.alias(name=name, asname=asname):
            return "Solution" in (name, asname)
        case ast.Call(func=ast.Name(id="setattr"), args=[_, ast.Constant(value=name), *_]):
            return name == entry_point
        case ast.Call(func=ast.Name(id="setattr")):
            return True
    return False


def _unwrapped(value: ast.expr) -> ast.Lambda | str | None:
    """The lambda that an expression is, or the name of the function; None: something else."""
    match value:
        case ast.Lambda():
            return value
        case ast.Call(func=ast.Name(id="staticmethod" | "classmethod"), args=[inner]):
            return _unwrapped(inner)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return None


def _is_constant(function: Function) -> bool:
    arguments = function.args
    names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    names |= {a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None}
    names.discard("self")
    body = [function.body] if isinstance(function, ast.Lambda) else function.body
    read = {
        node.id
        for part in body
        for node in ast.walk(part)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    return bool(names) and not names & read and not {"locals", "vars", "eval", "exec"} & read
