"""What a kata is made of: an operation on one kind of value, in words and in code.

- `{i}` stands for the input's expression and `{o}` for the output's variable in code; other braces
  (`{k}`) for the operation's parameters, in code and in words.
- Code on one line is an expression; code on several lines assigns `{o}`.
- A phrase that begins with `=` names a value ("=the sum of {them}"); any other tells what to do
  ("sort {it}"). `{it}` and `{them}` refer to the value that came before.
- `wrong` is a mistake that a person might make: an off-by-one, a forgotten sign, a confused
  definition.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: how a method takes it and how a text speaks of it."""

    arguments: dict[str, str]
    """Argument name -> annotation, as a method's input; empty for kinds that are only returned."""
    annotation: str
    given: tuple[str, ...]
    """How the input is introduced ("a list of integers `nums`")."""
    it: str
    them_first: str
    """`{them}` in the first operation of a chain, and later."""
    them_later: str
    variables: tuple[str, ...]
    """Names of intermediate results, by position in the chain."""


KINDS: dict[str, Kind] = {
    "L": Kind(
        {"nums": "List[int]"},
        "List[int]",
        ("a list of integers `nums`", "the integers `nums`"),
        "the list",
        "the numbers in `nums`",
        "those numbers",
        ("values", "items", "output"),
    ),
    "S": Kind(
        {"text": "str"},
        "str",
        ("a string `text`", "the string `text`"),
        "the string",
        "the characters of `text`",
        "its characters",
        ("line", "string", "output"),
    ),
    "W": Kind(
        {"words": "List[str]"},
        "List[str]",
        ("a list of words `words`", "the words `words`"),
        "the list of words",
        "the words in `words`",
        "those words",
        ("parts", "terms", "output"),
    ),
    "N": Kind(
        {"n": "int"},
        "int",
        ("an integer `n`", "the integer `n`"),
        "the number",
        "`n`",
        "that number",
        ("number", "value", "output"),
    ),
    "D": Kind(
        {"stock": "Dict[str, int]"},
        "Dict[str, int]",
        (
            "a dictionary `stock` from names to amounts",
            "the dictionary `stock` of names and amounts",
        ),
        "the dictionary",
        "the entries of `stock`",
        "its entries",
        ("table", "counts", "output"),
    ),
    "I": Kind(
        {"spans": "List[List[int]]"},
        "List[List[int]]",
        (
            "a list `spans` of closed intervals [start, end]",
            "the closed intervals [start, end] in `spans`",
        ),
        "the list of intervals",
        "the intervals in `spans`",
        "those intervals",
        ("pieces", "ranges", "output"),
    ),
    "T": Kind(
        {"nested": "List[Any]"},
        "List[Any]",
        ("a nested list of integers `nested`", "the list `nested` of integers and nested lists"),
        "the nested list",
        "`nested`",
        "that nested list",
        ("tree", "lists", "output"),
    ),
    "P": Kind(
        {"a": "int", "b": "int"},
        "",
        ("two positive integers `a` and `b`", "the positive integers `a` and `b`"),
        "the pair",
        "`a` and `b`",
        "",
        (),
    ),
    "K": Kind(
        {"nums": "List[int]", "k": "int"},
        "",
        ("a list of integers `nums` and a positive integer `k`", "integers `nums` and `k` > 0"),
        "the list",
        "the numbers in `nums`",
        "",
        (),
    ),
    "Q": Kind(
        {"s": "str", "t": "str"},
        "",
        ("two strings `s` and `t`", "the strings `s` and `t`"),
        "the pair",
        "`s` and `t`",
        "",
        (),
    ),
    "B": Kind({}, "bool", (), "", "", "", ("answer", "answer", "answer")),
}


@dataclass(frozen=True, slots=True)
class Op:
    """One operation: `takes` and `gives` are keys of `KINDS`."""

    name: str
    takes: str
    gives: str
    say: tuple[str, ...]
    code: str
    wrong: str
    params: dict[str, tuple[Any, ...]] = field(default_factory=dict)


def op(name: str, kinds: str, say: str, code: str, wrong: str, **params: tuple[Any, ...]) -> Op:
    """Make an operation from the tables' shorthand: kinds "L>N", phrases separated by "|"."""
    takes, gives = kinds.split(">")
    return Op(
        name, takes, gives, tuple(say.split("|")), code.strip("\n"), wrong.strip("\n"), params
    )
