"""Wrong methods in place of a program's own: constants, and its own results a little changed.

Only what Solution has when the program is loaded is the method. A class Solution inside the tests,
or a method that the tests put on the class, is part of the tests and stays as it is. Nothing here
runs a completion's code.
"""

import ast
from collections import Counter
from typing import Any

from projected_grpo.env.grading.rewrite import (
    MAX_REWRITE_CHARS,
    after_future_imports,
    insert_after,
    unparse,
)
from projected_grpo.env.parsing import is_solution, parse, parse_expression, parse_program
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.solution import (
    Function,
    blocks,
    bound_names,
    implementations,
    import_time,
    statements,
)

CHANGES = 6
"""So many changes of the method's results there are."""
MOST_REBINDINGS = 500
"""After so many statements of a program the method is replaced again."""

# No likely answer, and no two of them alike: a test that asks for one value fails with the other.
_WRONG: dict[type, tuple[Any, Any]] = {
    int: (7919, 104729),
    float: (7919.25, 104729.75),
    str: ("qzxvj", "vjkq zx"),
    bool: (True, False),
    bytes: (b"qzxvj", b"vjkqzx"),
}


def with_stub(code: str, entry_point: str, expression: str, function_name: str = "") -> str | None:
    """Write the program with `expression` as all that Solution's method returns, however bound.

    `function_name`: of the tests, if the grader calls them. None only if the code does not parse.
    """
    tree = parse_program(code)
    if tree is None:
        return None
    nodes = list(import_time(tree, function_name))
    solutions = [node for node in nodes if is_solution(node)]
    again = _Rebinding(entry_point, f"lambda self, *args, **kwargs: {expression}")
    in_text = f"{insert_after(code, solutions, again.statement)}\n{again.at_the_end}"
    if len(code) > MAX_REWRITE_CHARS:
        return in_text
    _blank(implementations(tree, entry_point, nodes)[0], expression)
    own = parse(again.in_class).body
    for solution in solutions:
        if not any(entry_point in bound_names(item) for item in solution.body):
            solution.body += own
    again.insert(tree)
    _begin(tree, _strictness(code))
    return unparse(tree) or in_text


def with_helpers(
    code: str, entry_point: str, function_name: str, expression: str, which: int
) -> str | None:
    """Write the program `with_stub`, with stubs for the functions that the method calls as well.

    None where it calls none, or the program cannot be written.
    """
    tree = parse_program(code) if len(code) <= MAX_REWRITE_CHARS else None
    helpers = _helpers(tree, entry_point, function_name) if tree is not None else []
    if tree is None or not helpers:
        return None
    for helper in helpers:
        _blank([helper], _CONSTANTS.get(_returns(helper), _CONSTANTS["int"])[which])
    text = unparse(tree)
    return with_stub(text, entry_point, expression, function_name) if text is not None else None


def with_change(code: str, entry_point: str, function_name: str, number: int) -> str | None:
    """Write the program whose method, and what it calls, gives results that are a little changed.

    `number` is below `CHANGES`. None if the program cannot be written.
    """
    tree = parse_program(code) if len(code) <= MAX_REWRITE_CHARS else None
    if tree is None:
        return None
    functions = [
        *implementations(tree, entry_point, import_time(tree, function_name))[0],
        *_helpers(tree, entry_point, function_name),
    ]
    for function in dict.fromkeys(functions):
        if isinstance(function, ast.Lambda):
            call = parse_expression("_changed(lambda: 0)()").body
            assert isinstance(call, ast.Call) and isinstance(call.func, ast.Call)
            inner = call.func.args[0]
            assert isinstance(inner, ast.Lambda)
            inner.body, function.body = function.body, call
        else:
            function.decorator_list.insert(0, ast.Name("_changed", ast.Load()))
    _Rebinding(entry_point, f"_changed(vars(Solution).get({entry_point!r}))").insert(tree)
    _begin(tree, _CHANGED.replace("NUMBER", str(number)) + _strictness(code))
    return unparse(tree)


class _Rebinding:
    """Puts a function in the method's place, also where the syntax tree does not show the method.

    setattr, a class that a function makes, a name bound anew: after each statement at module level
    that may have bound the class or its method, and at the end.
    """

    def __init__(self, name: str, function: str) -> None:
        self._name = name
        self.in_class = f"{name} = {function}"
        self.statement = f"Solution.{name} = {function}"
        tried = f"try:\n    {self.statement}\nexcept Exception:\n    "
        self._again = parse(f"{tried}pass").body
        self.at_the_end = f"{tried}class Solution:\n        {self.in_class}\n"
        if "vars(Solution)" in function:  # there must be a method to change
            self.at_the_end = f"{tried}pass\n"

    def insert(self, tree: ast.Module) -> None:
        """Put the statements in."""
        deferred, left = self._binds_in_a_function(tree), MOST_REBINDINGS
        waiting: list[list[ast.stmt]] = [tree.body]
        while waiting:
            body = waiting.pop()
            found: list[ast.stmt] = []
            for node in body:
                found.append(node)
                names = [] if isinstance(node, ast.ClassDef) else bound_names(node)
                calls = isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign)
                if left and ("Solution" in names or (deferred and calls)):
                    left -= 1
                    found += self._again
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    waiting += blocks(node)
            body[:] = found
        tree.body += parse(self.at_the_end).body

    def _binds_in_a_function(self, tree: ast.Module) -> bool:
        """Could a call put a method on the class?"""
        at_once = set(map(id, import_time(tree)))
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id="setattr")) | ast.Global():
                    return True
                case ast.Assign(targets=targets) if id(node) not in at_once:
                    if any(isinstance(t, ast.Attribute) and t.attr == self._name for t in targets):
                        return True
        return False


def _blank(functions: list[Function], expression: str) -> None:
    """Leave `expression` as all that the functions return."""
    result = parse_expression(expression).body
    for function in functions:
        if isinstance(function, ast.Lambda):
            function.body = result
        else:
            function.body = [ast.Return(result)]


def _begin(tree: ast.Module, text: str) -> None:
    tree.body = after_future_imports(tree.body, parse(text).body)


# What the method calls


def _helpers(tree: ast.Module, entry_point: str, function_name: str) -> list[ast.FunctionDef]:
    """Return the program's own functions that the method calls, itself or through others.

    Among them are methods of its classes, but none with two underscores or a property, and neither
    the method itself nor the test function.
    """
    nodes = list(import_time(tree, function_name))
    methods = implementations(tree, entry_point, nodes)[0]
    by_name: dict[str, list[ast.FunctionDef]] = {}
    for node in nodes:
        if isinstance(node, ast.FunctionDef):
            by_name.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.ClassDef) and not is_solution(node):
            own = [item for item in statements(node.body) if isinstance(item, ast.FunctionDef)]
            by_name.setdefault(node.name, []).extend(own)
    found: dict[ast.FunctionDef, None] = {}
    waiting: list[Function] = list(methods)
    while waiting:
        for node in ast.walk(waiting.pop()):
            if isinstance(node, ast.Name | ast.Attribute):
                name = node.id if isinstance(node, ast.Name) else node.attr
                new = [helper for helper in by_name.pop(name, ()) if helper not in found]
                found.update(dict.fromkeys(new))
                waiting += new
    return [
        helper
        for helper in found
        if helper not in methods
        and helper.name not in (entry_point, function_name)
        and not helper.name.startswith("__")
        and "property" not in map(ast.unparse, helper.decorator_list)
    ]


_CONSTANTS = {
    "int": ("0", "7919"),
    "bool": ("False", "True"),
    "str": ("''", "'qzxvj'"),
    "float": ("0.0", "7919.25"),
    "list": ("[]", "['qzxvj']"),
    "dict": ("{}", "{'qzxvj': 7919}"),
    "set": ("set()", "{'qzxvj'}"),
    "tuple": ("()", "('qzxvj',)"),
}
"""Annotation of a helper -> two wrong results; one is false and one is true."""


def _returns(function: ast.FunctionDef) -> str:
    node = function.returns
    node = node.value if isinstance(node, ast.Subscript) else node
    return node.id.lower() if isinstance(node, ast.Name) else "int"


# What is put at a program's beginning

_CHANGED = """
def _changed(method, active=[]):
    if isinstance(method, (staticmethod, classmethod)):
        return type(method)(_changed(method.__func__))
    if not callable(method) or hasattr(method, "is_changed"):
        return method

    def changed(*args, **kwargs):
        if active:
            return method(*args, **kwargs)
        active.append(True)
        try:
            value = method(*args, **kwargs)
        finally:
            active.pop()
        return _change(value)

    changed.is_changed = True
    return changed


def _change(value):
    kind, number = type(value), NUMBER
    if kind is int:
        return value + (2, 4, -2, -4, 840, 1680)[number]
    if kind is float:
        return value + (0.3, 0.6, -0.3, -0.6, 840, 1680)[number]
    if kind is str and number < 4 and value:
        at, step = ((-1, 1), (0, 1), (-1, 2), (0, 2))[number]
        at %= len(value)
        old = value[at]
        new = {"0": "1", "1": "0"}.get(old) if step == 1 else chr(ord(old) + step)
        if new is None:
            new = chr(ord(old) + 1) if old not in "zZ9" else chr(ord(old) - 1)
        return value[:at] + new + value[at + 1:]
    if kind is str:
        return value + "qz"[number % 2] * (1 + (number == 4))
    if kind in (list, tuple, set, frozenset) and value:
        return kind(_change(item) for item in value)
    if kind in (list, tuple, set, frozenset):
        return kind([number])
    if kind is dict:
        return {key: _change(item) for key, item in value.items()}
    if hasattr(value, "val") and hasattr(value, "__dict__"):
        import copy
        other = copy.copy(value)
        other.val = _change(value.val)
        return other
    raise AssertionError("no other value of this type")


"""
"""Changes what the outermost of the functions returns; those that it calls work as they did."""

_STRICT = """
def _strict():
    import unittest

    main, run = unittest.main, unittest.TextTestRunner.run

    def strict_main(module="__main__", defaultTest=None, argv=None, *args, **kwargs):
        module = "solution" if module == "__main__" else module
        return main(module, defaultTest, argv or ["solution"], *args, **kwargs)

    def strict_run(self, test):
        result = run(self, test)
        assert result.wasSuccessful()
        return result

    unittest.main, unittest.TextTestRunner.run = strict_main, strict_run


_strict()
"""
"""unittest reports a failed test and need not raise. Here it does, and finds the program's own."""


def _strictness(code: str) -> str:
    return _STRICT if "unittest" in code else ""


# Constants


def wrong_stubs(problem: Problem) -> tuple[str, str]:
    """Two expressions of the right type that differ: no test has both of them as right answers.

    The type is read off the expected values, and only that: completions see the stubs. An honest
    assertion cannot hold for both, whatever value it asks for; a vacuous one (a type, `is not
    None`, a comparison with itself) holds for both. See docs/environment.md.
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
        return repr(_WRONG[kind][which])
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
