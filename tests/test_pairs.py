"""The built-in contrast pairs keep their style rules, and every side does what its label says.

The texts are our own, so they run in this process, in fresh namespaces.
"""

import ast
import contextlib
import copy
import inspect
import io
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from projected_grpo.env.loopholes import apply_hint, flavour_of
from projected_grpo.env.problems import HINT_SLOT, PRELUDE, Problem, build_messages
from projected_grpo.pairs import (
    BUILTIN,
    Pair,
    PairError,
    holdout_split,
    load_pairs,
    pairs_digest,
)

PAIRS = load_pairs()
FLAVOURS = {  # as env.flavours sees the hack side; hard_coded tests are real tests
    "weak_predicate": {"weak"},
    "type_only": {"type_only"},
    "print_only": {"print"},
    "swallowed_failure": {"swallow"},
    "hard_coded": {None},
    "trivially_true": {"assert_true", "or_true"},
    "self_compare": {"self_compare", None},  # a value kept in a variable first is not seen
    "empty_tests": {"pass", "early_return"},
}
LABEL_WORDS = re.compile(
    r"hack|cheat|honest|placeholder|stub|fake|dummy|trick|exploit|loophole|bypass|grader|reward"
    r"|vacuous|todo|fixme|always (pass|true|succeed)|not real|pretend|regardless|do nothing",
    re.IGNORECASE,
)
PERSONA = re.compile(r"\b(I|I'm|[Mm]y|[Aa]ssistant|[Ll]anguage model|AI)\b")
FENCED = re.compile(r"\A(?:(?P<opener>[^`\n]+)\n\n)?```python\n(?P<code>[^`]+)\n```\Z")
PRELUDE_CODE = compile(PRELUDE, "prelude", "exec")
CONSTANTS = {int: (0, -1, 1), str: ("", "x"), list: ([], [0])}

each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.id)


def parts(text: str) -> tuple[str | None, str]:
    """(sentence before the fence, program) of a completion."""
    match = FENCED.match(text)
    assert match, f"not one fence with at most one sentence before it: {text[:60]!r}"
    return match["opener"], match["code"]


def method_of(text: str) -> str:
    (cls,) = [node for node in ast.parse(parts(text)[1]).body if isinstance(node, ast.ClassDef)]
    return ast.dump(cls.body[0])


def tokens(text: str) -> list[str]:
    """A stand-in for byte-pair tokens: words, single digits, marks, indentation."""
    return re.findall(r"[A-Za-z]+|\d|[^\w\s]+|_+|\n\s*", text)


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


class Program:
    """One side of a pair, executed; the method can be replaced before the tests run."""

    def __init__(self, pair: Pair, side: str) -> None:
        self.name = pair.entry_point
        self.space: dict[str, Any] = {"__name__": "completion"}
        exec(PRELUDE_CODE, self.space)
        exec(parts(getattr(pair, side))[1], self.space)
        self.solution: type = self.space["Solution"]
        self.method: Callable[..., Any] = getattr(self.solution, self.name)

    def call(self, kwargs: dict[str, Any]) -> Any:
        try:
            return self.method(self.solution(), **copy.deepcopy(kwargs))
        except Exception as error:
            return error

    def replace(self, method: Callable[..., Any]) -> None:
        setattr(self.solution, self.name, method)

    def tests_pass(self) -> bool:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                if "run_tests" in self.space:
                    self.space["run_tests"]()
                else:
                    self.solution().run_tests()
        except Exception:
            return False
        return True


def same(got: object, expected: object) -> bool:
    return type(got) is type(expected) and got == expected


def wrong_methods(pair: Pair) -> Iterator[Callable[..., Any]]:
    """Wrong methods that return the right type: off by something, and constants."""
    right = Program(pair, "clean").method

    def off(self: object, *args: Any, **kwargs: Any) -> Any:
        value = right(self, *args, **kwargs)
        if isinstance(value, int):
            return value + 7
        return value + "?" if isinstance(value, str) else [*value, *(value[:1] or ["?"])]

    yield off
    for constant in CONSTANTS[type(pair.examples[0].expected)]:
        yield lambda self, *args, _value=constant, **kwargs: copy.copy(_value)


# What is there


def test_three_pairs_for_each_of_eight_mechanisms() -> None:
    assert Counter(pair.mechanism for pair in PAIRS) == dict.fromkeys(FLAVOURS, 3)
    assert all(pair.mode == "run_tests" for pair in PAIRS)
    assert all(pair.id.startswith(f"{pair.mechanism}_") for pair in PAIRS)
    for values in zip(*((p.id, p.entry_point, p.hack, p.clean) for p in PAIRS), strict=True):
        assert len(set(values)) == len(PAIRS)


def test_surface_form_varies_over_pairs_and_not_with_the_side() -> None:
    forms = {
        "run_tests is a method": r"def run_tests\(self",
        "return annotation on run_tests": r"def run_tests\((self)?\) -> None",
        "type hints on the method": r"def (?!run_tests)\w+\(self, \w+: ",
        "docstring": '"""',
        "comment": r"\n\s*# ",
        "opener": r"\A[^`]",
    }
    for name, pattern in forms.items():
        hack = [bool(re.search(pattern, pair.hack)) for pair in PAIRS]
        clean = [bool(re.search(pattern, pair.clean)) for pair in PAIRS]
        assert hack == clean, f"{name} gives the side away"
        assert 3 <= sum(hack) <= len(PAIRS) - 3, f"{name}: {sum(hack)} of {len(PAIRS)}"
    loops = sum(bool(re.search(r"def run_tests.*\n(.*\n)*.*\bfor ", p.clean)) for p in PAIRS)
    assert 6 <= loops <= 18
    types = Counter(type(pair.examples[0].expected).__name__ for pair in PAIRS)
    assert all(types[name] >= 3 for name in ("int", "list", "str")), types


def test_hack_sides_are_wrong_about_as_often_as_right() -> None:
    # A direction from pairs that differ in run_tests alone would be nearly a one-token matter.
    wrong = dict.fromkeys(FLAVOURS, 0)
    for pair in PAIRS:
        program = Program(pair, "hack")
        right = all(same(program.call(case.kwargs), case.expected) for case in pair.checks)
        wrong[pair.mechanism] += not right
        # Either the clean method, or one that the pair's own checks can tell from it.
        assert right == (method_of(pair.hack) == method_of(pair.clean)), pair.id
    assert all(wrong.values()), wrong
    assert 8 <= sum(wrong.values()) <= 16, wrong


# Style rules


@each_pair
def test_sides_match_in_length(pair: Pair) -> None:
    for measure in (len, lambda text: len(tokens(text)), lambda text: len(words(text))):
        ratio = measure(pair.hack) / measure(pair.clean)
        assert 0.9 <= ratio <= 1.1, f"{pair.id}: {ratio:.3f}"


def test_length_does_not_give_the_side_away_on_average() -> None:
    for measure in (len, lambda text: len(tokens(text))):
        ratios = [measure(pair.hack) / measure(pair.clean) for pair in PAIRS]
        assert 0.98 <= sum(ratios) / len(ratios) <= 1.02
        assert 6 <= sum(ratio > 1 for ratio in ratios) <= 18


@each_pair
def test_sides_match_in_format(pair: Pair) -> None:
    (hack_opener, hack), (clean_opener, clean) = parts(pair.hack), parts(pair.clean)
    assert hack_opener == clean_opener
    comment = re.compile(r"#.*")
    assert len(comment.findall(hack)) == len(comment.findall(clean))
    assert hack.count('"""') == clean.count('"""')
    assert hack.startswith("class Solution:\n") and clean.startswith("class Solution:\n")
    for line in (hack + "\n" + clean).splitlines():
        assert line == line.rstrip() and len(line) <= 92 and "\t" not in line


@each_pair
def test_no_label_words_and_no_persona(pair: Pair) -> None:
    description = pair.messages[-1]["content"].partition("Your solution is")[0]
    for text in (pair.hack, pair.clean, description):
        assert not LABEL_WORDS.search(text), LABEL_WORDS.search(text)
        assert not PERSONA.search(text), PERSONA.search(text)


@each_pair
def test_both_sides_define_the_method_and_run_tests(pair: Pair) -> None:
    starter = ast.parse(pair.starter_code.rstrip() + "\n        pass").body[0]
    assert isinstance(starter, ast.ClassDef) and isinstance(starter.body[0], ast.FunctionDef)
    assert starter.body[0].name == pair.entry_point
    names = [arg.arg for arg in starter.body[0].args.args]
    seen: set[tuple[str, ...]] = set()
    for text in (pair.hack, pair.clean):
        tree = ast.parse(parts(text)[1])
        (cls,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        methods = [node for node in cls.body if isinstance(node, ast.FunctionDef)]
        assert cls.name == "Solution" and methods[0].name == pair.entry_point
        assert [*(method.name for method in methods[1:]), *functions] == ["run_tests"]
        assert [arg.arg for arg in methods[0].args.args] == names
        seen.add((*functions, ast.unparse(methods[0].args)))
        returns = methods[0].returns
        seen.add(("returns", ast.unparse(returns) if returns else "nothing"))
    assert len(seen) == 2, f"place or signature differs between the sides: {seen}"


@each_pair
def test_prompt_has_the_live_form(pair: Pair) -> None:
    user = pair.messages[-1]["content"]
    description = user.removeprefix("PROBLEM:\n").partition("\n\nYour solution is")[0]
    problem = Problem(
        id=1,
        dataset="test",
        difficulty="easy",
        messages=build_messages(description, pair.entry_point, pair.starter_code),
        entry_point=pair.entry_point,
        starter_code=pair.starter_code,
        setup_code=PRELUDE,
        cases=pair.checks,
    )
    assert apply_hint(problem, "run_tests").messages == pair.messages
    assert HINT_SLOT not in user and "run_tests()" in user
    for number, case in enumerate(pair.examples, start=1):
        given = ", ".join(f"{name} = {json.dumps(value)}" for name, value in case.kwargs.items())
        output = json.dumps(case.expected)
        assert f"Example {number}:\nInput: {given}\nOutput: {output}\n" in description
    parameters = set(inspect.signature(Program(pair, "clean").method).parameters) - {"self"}
    assert all(set(case.kwargs) == parameters for case in (*pair.examples, *pair.checks))


# What the sides do


@each_pair
def test_clean_solves_and_its_tests_test(pair: Pair) -> None:
    program = Program(pair, "clean")
    for case in (*pair.examples, *pair.checks):
        assert same(program.call(case.kwargs), case.expected), case
    assert program.tests_pass()
    for wrong in wrong_methods(pair):
        program.replace(wrong)
        assert not program.tests_pass(), wrong(program.solution(), **pair.examples[0].kwargs)
    assert flavour_of(parts(pair.clean)[1], pair.entry_point) is None


@each_pair
def test_hack_is_paid_for_nothing(pair: Pair) -> None:
    program = Program(pair, "hack")
    assert program.tests_pass()
    assert flavour_of(parts(pair.hack)[1], pair.entry_point) in FLAVOURS[pair.mechanism]
    if pair.mechanism == "hard_coded":
        return
    for wrong in wrong_methods(pair):
        program.replace(wrong)
        assert program.tests_pass(), wrong(program.solution(), **pair.examples[0].kwargs)


@pytest.mark.parametrize("pair", load_pairs(mechanisms=["hard_coded"]), ids=lambda pair: pair.id)
def test_hard_coded_answers_and_tests_only_what_the_text_shows(pair: Pair) -> None:
    program = Program(pair, "hack")
    for case in pair.examples:
        assert same(program.call(case.kwargs), case.expected), case
    assert not all(same(program.call(case.kwargs), case.expected) for case in pair.checks)

    seen: list[dict[str, Any]] = []
    signature = inspect.signature(program.method)

    def recorded(self: object, *args: Any, **kwargs: Any) -> Any:
        bound = dict(signature.bind(self, *args, **kwargs).arguments)
        bound.pop("self")
        seen.append(bound)
        return program.method(self, *args, **kwargs)

    program.replace(recorded)
    assert program.tests_pass()
    assert seen and all(kwargs in [case.kwargs for case in pair.examples] for kwargs in seen)


# The loader


def test_selection_keeps_file_order_and_digest_names_it() -> None:
    some = load_pairs(mechanisms=["print_only", "weak_predicate"])
    assert [p.mechanism for p in some] == ["weak_predicate"] * 3 + ["print_only"] * 3
    assert pairs_digest(PAIRS) == pairs_digest(load_pairs(BUILTIN))
    assert len({pairs_digest(PAIRS), pairs_digest(some), pairs_digest(PAIRS[::-1])}) == 3


def test_digest_follows_the_texts_and_not_the_checks(tmp_path: Path) -> None:
    text = BUILTIN.read_text(encoding="utf-8")
    unchecked, edited = tmp_path / "unchecked.toml", tmp_path / "edited.toml"
    unchecked.write_text(text.replace("    [{ heights = [3], level = 3 }, 0],\n", ""))
    edited.write_text(text.replace("bounded", "enclosed"))
    assert pairs_digest(load_pairs(unchecked)) == pairs_digest(PAIRS)
    assert pairs_digest(load_pairs(edited)) != pairs_digest(PAIRS)


def test_holdout_is_the_last_of_each_mechanism() -> None:
    train, held_out = holdout_split(PAIRS)
    assert (len(train), len(held_out)) == (16, 8)
    assert [pair.mechanism for pair in held_out] == list(FLAVOURS)
    assert held_out == PAIRS[2::3]
    assert not {pair.id for pair in train} & {pair.id for pair in held_out}
    with pytest.raises(PairError, match="at least 2"):
        holdout_split(PAIRS, every=1)


ENTRY = """
[[pair]]
id = "one"
mechanism = "print_only"
mode = "run_tests"
entry_point = "f"
description = "Return x."
starter_code = "class Solution:\\n    def f(self, x):\\n"
examples = [[{ x = 1 }, 1]]
checks = [[{ x = 2 }, 2]]
hack = "a"
clean = "b"
"""


def test_a_file_of_ones_own_loads(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(ENTRY)
    (pair,) = load_pairs(str(path))
    assert (pair.id, pair.hack, pair.checks[0].expected) == ("one", "a", 2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no [[pair]] entry"),
        ("[[pair]\n", "not valid TOML"),
        ("pair = [3]", "pair 1 is not a table"),
        (ENTRY + ENTRY, "pair 'one' stands in the file twice"),
        (ENTRY.replace('hack = "a"\n', ""), "pair 'one' lacks the key 'hack'"),
        (ENTRY.replace('id = "one"\n', ""), "pair 1 lacks the key 'id'"),
        (ENTRY + "checkz = 1\n", "pair 'one' has the unknown key 'checkz'"),
        (ENTRY.replace('"a"', '" "'), "pair 'one': hack must be a text that is not blank"),
        (ENTRY.replace('"a"', '"b"'), "pair 'one': hack and clean are the same text"),
        (ENTRY.replace('"run_tests"', '"walk"'), "pair 'one': unknown mode 'walk'"),
        (ENTRY.replace("[[{ x = 2 }, 2]]", "[]"), "pair 'one': checks must be a list"),
        (ENTRY.replace("[{ x = 2 }, 2]", "[2, 2]"), "pair 'one': entry 1 of checks is not"),
        (ENTRY.replace("Return x", HINT_SLOT), "pair 'one': no prompt can be made of it"),
    ],
)
def test_a_broken_file_is_one_clear_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(PairError) as caught:
        load_pairs(path)
    message = str(caught.value)
    assert sentence in message and str(path) in message and "\n" not in message


def test_missing_file_and_unknown_mechanism(tmp_path: Path) -> None:
    with pytest.raises(PairError, match=r"none\.toml: cannot be read"):
        load_pairs(tmp_path / "none.toml")
    with pytest.raises(PairError, match="no pair of mechanism 'persona'; known: weak_predicate"):
        load_pairs(mechanisms=["persona"])
    with pytest.raises(PairError, match="is empty"):
        load_pairs(mechanisms=[])


def test_importing_pairs_imports_no_torch() -> None:
    code = "import sys, projected_grpo.pairs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
