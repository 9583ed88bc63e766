"""Find Solution's method in a program's syntax tree: whether it is there, and what it is bound to.

Nothing here runs a completion's code, and every walk takes time linear in the tree's size.
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

Function = ast.FunctionDef | ast.Lambda
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_HARMLESS = ("staticmethod", "classmethod", "cache", "lru_cache", "override", "final", "overload")
"""Decorators that leave a function to do what its body says."""


def blocks(node: ast.AST) -> list[list[ast.stmt]]:
    """Return the lists of statements that a compound statement holds (if, for, try, match, ...)."""
    parts = [getattr(node, name, None) for name in ("body", "orelse", "finalbody")]
    for inner in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        parts.append(inner.body)
    return [part for part in parts if isinstance(part, list) and part]


def statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield a scope's statements in order, those of nested blocks too, but no inner scope's."""
    waiting = list(reversed(body))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, _SCOPES):
            for block in reversed(blocks(node)):
                waiting += reversed(block)


def import_time(tree: ast.Module, tests: str = "") -> Iterator[ast.stmt]:
    """Yield what runs when the program is loaded: no function's body, but classes' and blocks'.

    A function that declares `global Solution` counts as well: the class it makes is the program's,
    unless it is the test function of the name `tests`.
    """
    functions = [node for node in ast.walk(tree) if isinstance(node, _SCOPES[:2])]
    waiting: list[Sequence[ast.stmt]] = [tree.body]
    waiting += [node.body for node in functions if node.name != tests and _is_maker(node)]
    while waiting:
        for node in statements(waiting.pop()):
            yield node
            if isinstance(node, ast.ClassDef):
                waiting.append(node.body)


def _is_maker(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(
        isinstance(node, ast.Global) and "Solution" in node.names
        for node in statements(function.body)
    )


def bindings(node: ast.stmt) -> Iterator[tuple[str, ast.AST | None]]:
    """Yield (name, what it is bound to) for the names that one statement binds.

    None stands for a value that cannot be named: an import's, a loop's, a part of a tuple.
    """
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name, node
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                known = value if isinstance(target, ast.Name) else None
                yield from ((name, known) for name in _names(target))
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            yield name, value
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from ((alias.asname or alias.name.split(".")[0], None) for alias in names)
        case ast.For(target=target) | ast.AsyncFor(target=target):
            yield from ((name, None) for name in _names(target))
        case ast.With(items=items) | ast.AsyncWith(items=items):
            targets = [item.optional_vars for item in items if item.optional_vars is not None]
            yield from ((name, None) for target in targets for name in _names(target))


def _names(target: ast.expr) -> Iterator[str]:
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def bound_names(node: ast.stmt) -> list[str]:
    """Return the names that a statement binds."""
    return [name for name, _ in bindings(node)]


def defines_method(tree: ast.Module, entry_point: str) -> bool:
    """Does a class Solution, or a base class of it in the same program, have the method?"""
    nodes = list(ast.walk(tree))
    if _class_values(nodes, entry_point)[0]:
        return True
    owners = [owner for owner, _ in _attribute_values(nodes, entry_point)]
    return any(isinstance(owner, ast.Name) and owner.id == "Solution" for owner in owners)


def ignores_arguments(tree: ast.Module, entry_point: str) -> bool:
    """Is Solution's method one that has arguments and never looks at any of them?

    Such a stub is no solution even where the hidden tests all expect one and the same value. False
    where the method is rebound to something that cannot be followed.
    """
    found, followed = implementations(tree, entry_point)
    return followed and bool(found) and all(map(_is_constant, found))


def implementations(
    tree: ast.Module, entry_point: str, nodes: Iterable[ast.AST] | None = None
) -> tuple[list[Function], bool]:
    """Return the functions that Solution's method is bound to, and whether these are all.

    `nodes`: where it is looked for, anywhere in the tree by default.
    """
    looked_at = list(ast.walk(tree) if nodes is None else nodes)
    values, followed = _class_values(looked_at, entry_point)
    values += [value for _, value in _attribute_values(looked_at, entry_point)]
    followed = followed and not any(_may_rebind(node, entry_point) for node in looked_at)
    named: dict[str, list[ast.AST | None]] = defaultdict(list)
    for node in looked_at:
        if isinstance(node, ast.stmt) and not isinstance(node, ast.ClassDef):
            for name, value in bindings(node):
                named[name].append(value)
    found: dict[Function, None] = {}
    seen: set[str] = set()
    while values:
        match values.pop():
            case ast.FunctionDef() as function:
                found[function] = None
                followed = followed and all(map(_is_harmless, function.decorator_list))
            case ast.Lambda() as function:
                found[function] = None
            case ast.Call(func=ast.Name(id="staticmethod" | "classmethod"), args=[inner]):
                values.append(inner)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                followed = followed and name in named
                if name not in seen:
                    seen.add(name)
                    values += named.get(name, [])
            case _:
                followed = False
    return list(found), followed


def _class_values(nodes: list[ast.AST], entry_point: str) -> tuple[list[ast.AST | None], bool]:
    """Return what the method is bound to in Solution, or in base classes where it has none, and
    whether every class that could have it is known."""
    classes: dict[str, list[ast.ClassDef]] = defaultdict(list)
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            classes[node.name].append(node)
    values: list[ast.AST | None] = []
    followed = True
    waiting, seen = list(classes["Solution"]), {"Solution"}
    while waiting:
        cls = waiting.pop()
        followed = followed and not cls.decorator_list
        own = [value for item in statements(cls.body) for value in _bound(item, entry_point)]
        values += own
        for base in () if own else cls.bases:
            name = base.id if isinstance(base, ast.Name) else ""
            followed = followed and (name in classes or name == "object")
            if name not in seen:
                seen.add(name)
                waiting += classes.get(name, ())
    return values, followed


def _attribute_values(
    nodes: list[ast.AST], entry_point: str
) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield (owner, value) of every `owner.entry_point = value`."""
    for node in nodes:
        match node:
            case ast.Assign(targets=targets, value=value):
                pass
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                targets = [target]
            case _:
                continue
        for target in targets:
            if isinstance(target, ast.Attribute) and target.attr == entry_point:
                yield target.value, value


def _bound(item: ast.stmt, name: str) -> Iterator[ast.AST | None]:
    return (value for bound, value in bindings(item) if bound == name)


def _is_harmless(decorator: ast.expr) -> bool:
    if isinstance(decorator, ast.Call):
        decorator = decorator.func
    match decorator:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in _HARMLESS
    return False


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
