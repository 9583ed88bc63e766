"""Tests written as asserts, read as `Case`s off their syntax trees; nothing is evaluated.

Every test must have one of the forms `assert f(...) == literal`, `assert is_same_list(f(...),
list_node([...]))`, `assert is_same_tree(f(...), tree_node([...]))`, or a bare `assert f(...)` or
`assert not f(...)`. f is `Solution().method` or, in LeetCodeDataset's `check`, `candidate`.
"""

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from projected_grpo.env.errors import InputError
from projected_grpo.env.parsing import parse
from projected_grpo.env.problems.problem import Case, flatten_tree
from projected_grpo.env.sandbox.programs import Node, NodeKind, ResultKind

_NODE_KINDS: dict[str, NodeKind] = {"list_node": "list_node", "tree_node": "tree_node"}
_SAME: dict[str, NodeKind] = {"is_same_list": "list_node", "is_same_tree": "tree_node"}

_OF_MATH = {"inf": math.inf, "nan": math.nan}
_OF_TEXT = {
    **{sign + word: math.inf for sign in ("", "+") for word in ("inf", "infinity")},
    **{"-" + word: -math.inf for word in ("inf", "infinity")},
    **{sign + "nan": math.nan for sign in ("", "+", "-")},
}
"""What `float` takes besides digits."""
MOST_BITS = 14_000
"""Bits of a number in a test: those of more than some 4,300 digits cannot be written in decimal,
as prompts and records do."""


def statement(text: Any) -> ast.stmt:
    """The one statement that a record's test is. Raises InputError for anything else."""
    if not isinstance(text, str):
        raise InputError(f"a test must be a string, is {type(text).__name__}")
    try:
        body = parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"the test {_clip(text)} does not parse ({error})") from None
    if len(body) != 1:
        raise InputError(f"the test {_clip(text)} must be one statement, has {len(body)}")
    return body[0]


def check_body(test: str) -> list[ast.stmt]:
    """The statements of `def check(candidate)`. Raises InputError for anything else."""
    try:
        body = parse(test).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"the key 'test' does not parse ({error})") from None
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
        raise InputError("the key 'test' must define one function check(candidate)")
    return body[0].body


@dataclass(frozen=True, slots=True)
class Forms:
    """The forms a test may take, for one problem."""

    entry_point: str
    parameters: list[str]
    floats: Mapping[str, float] = field(default_factory=dict)
    """Names that the prelude gives to numbers no literal writes down (`float_names`)."""

    def case(self, statement: ast.stmt) -> Case:
        """The case that an assert states."""
        if not isinstance(statement, ast.Assert):
            raise InputError(f"the test {_shown(statement)} is not an assert")
        kind: ResultKind = "plain"
        match statement.test:
            case ast.Compare(left=ast.Call() as call, ops=[ast.Eq()], comparators=[expected]):
                value = _value(expected, self.floats)
            case ast.Call(func=ast.Name(id=same), args=[ast.Call() as call, expected]) if (
                same in _SAME
            ):
                kind = _SAME[same]
                value = _structure(_value(expected, self.floats), kind, statement)
            case ast.UnaryOp(op=ast.Not(), operand=ast.Call() as call):
                value = False
            case ast.Call() as call:
                value = True
            case _:
                raise InputError(f"the test {_shown(statement)} has an unknown form")
        return Case(kwargs=self._arguments(call), expected=value, result=kind)

    def _arguments(self, call: ast.Call) -> dict[str, Any]:
        match call.func:
            case ast.Name(id="candidate"):
                pass
            case ast.Attribute(value=ast.Call(func=ast.Name(id="Solution")), attr=name) if (
                name == self.entry_point
            ):
                pass
            case _:
                raise InputError(f"the test calls {_shown(call.func)}, not {self.entry_point}")
        if len(call.args) > len(self.parameters):
            raise InputError(f"the call {_shown(call)} has more arguments than the method takes")
        kwargs = dict(
            zip(self.parameters, (_value(arg, self.floats) for arg in call.args), strict=False)
        )
        for keyword in call.keywords:
            if keyword.arg is None or keyword.arg in kwargs:
                raise InputError(f"the call {_shown(call)} repeats or unpacks arguments")
            kwargs[keyword.arg] = _value(keyword.value, self.floats)
        return kwargs


def _structure(value: Any, kind: NodeKind, statement: ast.stmt) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, Node) or value.kind != kind:
        raise InputError(f"the test {_shown(statement)} must compare with {kind}([...])")
    return flatten_tree(value.values) if kind == "tree_node" else value.values


def float_names(prelude: str) -> dict[str, float]:
    """The infinities and NaN that a prelude has names for: `inf` of `from math import *`, or of an
    assignment such as `inf = float("inf")`. Empty where it does not parse."""
    try:
        body = parse(prelude).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, float] = {}
    for node in body:
        match node:
            case ast.ImportFrom(module="math", names=names):
                for alias in names:
                    for name in _OF_MATH if alias.name == "*" else {alias.name} & {*_OF_MATH}:
                        found[alias.asname or name] = _OF_MATH[name]
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                number = _float(value, found)
                if number is not None:
                    found[name] = number
    return found


def _float(node: ast.expr, floats: Mapping[str, float]) -> float | None:
    """An infinity or NaN, by whatever expression; None for anything else."""
    match node:
        case ast.Name(id=name):
            return floats.get(name)
        case ast.Attribute(value=ast.Name(id="math"), attr=name):
            return _OF_MATH.get(name)
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str(text))], keywords=[]):
            return _OF_TEXT.get(text.strip().lower())
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            number = _float(operand, floats)
            return None if number is None else -number
        case _:
            return None


def _value(node: ast.expr, floats: Mapping[str, float]) -> Any:
    """The plain value (or `Node`) that an expression writes down."""
    match node:
        case ast.Constant(value=int(value)) if value.bit_length() > MOST_BITS:
            raise InputError(f"a test has a number of more than {MOST_BITS} bits")
        case ast.Constant(value=value) if value is not Ellipsis:
            return value
        case ast.List(elts=elements):
            return [_value(element, floats) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(element, floats) for element in elements)
        case ast.Dict(keys=keys, values=values) if all(key is not None for key in keys):
            pairs = zip(keys, values, strict=True)
            try:
                return {
                    _value(key, floats): _value(value, floats)
                    for key, value in pairs
                    if key is not None
                }
            except TypeError as error:  # a list as a key
                raise InputError(f"the expression {_shown(node)} is no dict ({error})") from None
        case ast.UnaryOp(
            op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float()) as inner
        ):
            value = _value(inner, floats)
            return -value if isinstance(sign, ast.USub) else value
        case ast.Call(func=ast.Name(id=name), args=[ast.List() as values], keywords=[]) if (
            name in _NODE_KINDS
        ):
            return Node(_NODE_KINDS[name], _value(values, floats))
        case _:
            number = _float(node, floats)
            if number is None:
                raise InputError(f"the expression {_shown(node)} is not a literal")
            return number


def _shown(node: ast.AST) -> str:
    try:
        return _clip(ast.unparse(node))
    except (ValueError, RecursionError) as error:  # a number of too many digits; deep nesting
        return f"that cannot be written out ({error})"


def _clip(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
