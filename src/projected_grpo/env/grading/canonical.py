"""Would a completion's own tests reject the canonical solution? Found out without showing it.

Nothing of the canonical solution may enter a process in which a completion's code runs, nor may
what runs there depend on it. So the test function runs once more with the program's own method in
place, watched: each call's arguments and value are kept, and with what the value was compared (it
is a probe that says yes to any `==`). The canonical solution answers the same calls in a process of
its own. Outside, its answers are compared with the method's and with those that the tests state.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from projected_grpo.env.grading.comparison import same_value
from projected_grpo.env.grading.rewrite import insert_after
from projected_grpo.env.parsing import is_solution, parse_program
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Program, Raised
from projected_grpo.env.solution import import_time

MOST_CALLS = 100
"""So many calls of a program's tests are looked at."""

WATCH = """
def __make_watch__():
    import copy
    import inspect
    calls, state = [], {"on": False}

    def plain(value):
        kind = type(value)
        return kind.__mro__[1](value) if "__probe__" in kind.__dict__ else copy.deepcopy(value)

    def probe(value, compared):
        kind = type(value)
        if kind not in (int, float, str, list, tuple, dict, set, frozenset, bytes):
            return value

        class Probe(kind):
            __probe__ = True
            __hash__ = kind.__hash__

            def __eq__(self, other):
                compared.append(["==", plain(other)])
                return True

            def __ne__(self, other):
                compared.append(["!=", plain(other)])
                return False

        return Probe(value)

    def watch(owner, name):
        own = inspect.getattr_static(owner, name, None)
        if own is None or hasattr(own, "__watched__"):
            return

        def method(self, *args, **kwargs):
            bound = own.__get__(self, type(self)) if hasattr(own, "__get__") else own
            if not state["on"] or len(calls) == MOST_CALLS:
                return bound(*args, **kwargs)
            given = [list(copy.deepcopy(args)), list(map(list, copy.deepcopy(kwargs).items()))]
            call = [*given, False, None, []]
            state["on"] = False  # Calls that the method makes itself are not the tests'.
            try:
                value = bound(*args, **kwargs)
            except Exception:
                call[2] = True
                raise
            finally:
                calls.append(call)
                state["on"] = True
            call[3] = copy.deepcopy(value)
            return probe(value, call[4])

        method.__watched__ = True
        setattr(owner, name, method)

    def observe(find):
        raised, function = False, find()
        state["on"] = True
        try:
            function()
        except Exception as error:
            raised = error.__traceback__.tb_next is not None
        state["on"] = False
        return [raised, calls]

    return watch, observe


__watch__, __observe__ = __make_watch__()
""".replace("MOST_CALLS", str(MOST_CALLS))
"""What the prelude has besides where a program's tests are watched."""

_END = """
try:
    __watch__(Solution, {name!r})
except Exception:
    pass
try:
    Solution.__tests__ = staticmethod(lambda: __observe__(lambda: {function}))
except Exception:
    class Solution:
        __tests__ = staticmethod(lambda: __observe__(lambda: {function}))
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the method by a program's own tests. All of it is the program's word."""

    arguments: dict[str, Any]
    raised: bool
    value: Any
    compared: list[Any]
    """[`==` or `!=`, the other side] of each comparison with the value."""

    def gave(self, answer: Any) -> bool:
        """Did the program's own method give what the canonical solution does?"""
        if self.raised or isinstance(answer, Raised):
            return self.raised and isinstance(answer, Raised)
        return same_value(answer, self.value)


@dataclass(frozen=True, slots=True)
class Watched:
    """The calls of a program's tests, and whether an exception came out of them in the end."""

    raised: bool
    calls: list[Call]


def watched_setup(setup_code: str) -> str:
    """The prelude of a watched program."""
    return f"{setup_code}\n{WATCH}"


def watched_program(problem: Problem, code: str, function: str) -> Program | None:
    """The program to run, which calls `function` and tells of the calls; None without a tree."""
    tree = parse_program(code)
    if tree is None:
        return None
    name = problem.entry_point
    solutions = [node for node in import_time(tree) if is_solution(node)]
    text = insert_after(code, solutions, f"__watch__(Solution, {name!r})")
    if parse_program(text) is None:
        text = code
    return Program(
        setup_code=watched_setup(problem.setup_code),
        code=f"{text}\n{_END.format(name=name, function=function)}",
        entry_point="__tests__",
        calls=({},),
        observe=False,
    )


def read_watched(problem: Problem, said: Any) -> Watched | None:
    """What a watched program said, None where it is not of that form or cannot be told as data."""
    names = _parameters(problem)
    match said:
        case [bool(raised), list(calls)] if len(calls) <= MOST_CALLS:
            read = [_read_call(call, names) for call in calls]
            return None if None in read else Watched(raised, [c for c in read if c is not None])
    return None


def _read_call(said: Any, names: list[str]) -> Call | None:
    match said:
        case [list(args), list(kwargs), bool(raised), value, list(compared)]:
            pairs = [*zip(names, args, strict=False), *(tuple(p) for p in kwargs if _is_pair(p))]
            arguments = dict(pairs)
            whole = len(arguments) == len(args) + len(kwargs) and set(arguments) <= set(names)
            if whole and all(map(_is_pair, compared)):
                return Call(arguments, raised, value, compared)
    return None


def _is_pair(said: Any) -> bool:
    return type(said) is list and len(said) == 2 and type(said[0]) is str


def _parameters(problem: Problem) -> list[str]:
    """Names of the canonical method's parameters, in order."""
    tree = parse_program(problem.canonical_solution or "")
    for node in ast.walk(tree) if tree is not None else ():
        if is_solution(node):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == problem.entry_point:
                    return [argument.arg for argument in item.args.args[1:]]
    return []


def canonical_program(problem: Problem, calls: Sequence[dict[str, Any]]) -> Program:
    """The canonical solution on these arguments: no completion's code is in this program."""
    assert problem.canonical_solution is not None
    return Program(
        setup_code=problem.setup_code,
        code=problem.canonical_solution,
        entry_point=problem.entry_point,
        calls=tuple(calls),
        observe=False,
    )


def rejects(watched: Watched, answers: Sequence[Any], *, raised: bool, passed: bool) -> bool:
    """Would the tests reject a method that gives `answers`?

    `raised` and `passed` say how the tests ended, unwatched, on the program's own method. They end
    alike where that method gives the same. Else what the tests state decides: an answer that they
    ask for and that is not given. What they do with a value otherwise (a truth, a length) is not
    followed where it differs: such tests are not said to reject anything.
    """
    pairs = list(zip(watched.calls, answers, strict=True))
    if all(call.gave(answer) for call, answer in pairs):
        return raised
    for call, answer in pairs:
        if isinstance(answer, Raised):
            return not call.raised
        for operator, other in call.compared:
            if not (same_value(answer, other) or same_value(other, answer)):
                return operator == "==" and (raised or passed)
        if not call.compared and not call.gave(answer):
            return False
    return watched.raised
