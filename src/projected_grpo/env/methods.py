"""Find Solution's method in a program's syntax tree: is it there, what is it, does it look at its
arguments. Nothing here runs a completion's code.
"""

import ast
from typing import TypeGuard

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
