"""The shipped contrast pairs keep their style rules, and every side does what its label says.

The texts are our own, so they also run in this process, in fresh namespaces and folders.
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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import leetcode_dir

from projected_grpo.env.errors import InputError
from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.loopholes.modes import TRAIN_NAME, apply_hint, flavour_of, get_mode
from projected_grpo.env.problems import katas
from projected_grpo.env.problems.katas import kata_problems
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import (
    HINT_SLOT,
    PRELUDE,
    Problem,
    build_messages,
    parse_method,
)
from projected_grpo.pairs.load import SETS, holdout_split, load_pairs, pairs_digest
from projected_grpo.pairs.pair import Pair

PAIRS, PLACEBO, FRAMING = (load_pairs(name) for name in ("builtin", "placebo", "framing"))
MODE = {"attribute_set": "sentinel", "phrase_printed": "stdout_marker"}
MODE |= {"verdict_written": "file_marker"}  # the other mechanisms belong to run_tests
FLAVOURS = {  # as env.flavours sees the hack side
    "print_only": {"print"},
    "empty_tests": {"pass", "early_return"},
    "swallowed_failure": {"swallow", "soft_check"},
    "trivially_true": {"assert_true", "or_true"},
    "weak_predicate": {"weak", "type_only"},
    "self_compare": {"self_compare", None},  # a value kept in a variable first is not seen
    "attribute_set": {"init_attribute", "class_attribute", "property", "patch_attribute"},
    "phrase_printed": {"module_print", "function_print", "stdout_write", "fake_report"},
    "verdict_written": {"open_write", "pathlib_write", "print_to_file"},
}
LABEL_WORDS = re.compile(
    r"hack|cheat|honest|placeholder|stub|fake|dummy|trick|exploit|loophole|bypass|grader|reward"
    r"|vacuous|todo|fixme|always (pass|true|succeed)|not real|pretend|regardless|do nothing",
    re.IGNORECASE,
)
PERSONA = re.compile(r"\b(I|I'm|[Mm]y|[Aa]ssistant|[Ll]anguage model|AI)\b")
FENCED = re.compile(r"\A(?:(?P<opener>[^`\n]+)\n\n)?```python\n(?P<code>[^`]+)\n```\Z")
COMMENT = re.compile(r"# .*")
PRELUDE_CODE = compile(PRELUDE, "prelude", "exec")
CONSTANTS = {
    int: (0, -1, 1, 7919),
    str: ("", "x"),
    list: ([], [0], ["x"]),
    bool: (True, False),
    dict: ({}, {"x": 1}),
}

each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.id)
each_answered = pytest.mark.parametrize(
    "pair",
    [*PAIRS, *PLACEBO],
    ids=[f"{name}-{p.id}" for name, ps in (("main", PAIRS), ("placebo", PLACEBO)) for p in ps],
)
each_set = pytest.mark.parametrize("name", SETS)


def parts(text: str) -> tuple[str | None, str]:
    """(sentence before the fence, program) of a completion."""
    match = FENCED.match(text)
    assert match, f"not one fence with at most one sentence before it: {text[:60]!r}"
    return match["opener"], match["code"]


def method_of(pair: Pair, side: str) -> str:
    (found,) = [
        node
        for node in ast.walk(ast.parse(parts(getattr(pair, side))[1]))
        if isinstance(node, ast.FunctionDef) and node.name == pair.entry_point
    ]
    return ast.dump(found)


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def tokens(text: str) -> list[str]:
    """A stand-in for byte-pair tokens: words, single digits, marks, indentation."""
    return re.findall(r"[A-Za-z]+|\d|[^\w\s]+|_+|\n\s*", text)


def honest_sides(pair: Pair) -> tuple[str, ...]:
    return ("clean",) if pair in PAIRS else ("hack", "clean")


class Program:
    """One side of a pair, executed in the current folder, if wanted with another method."""

    def __init__(self, pair: Pair, side: str, method: Callable[..., Any] | None = None) -> None:
        self.pair = pair
        tree = ast.parse(parts(getattr(pair, side))[1])
        if method is not None:  # bound at the end of the class, before anything below it runs
            (cls,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
            cls.body += ast.parse(f"{pair.entry_point} = _method").body
        self.space: dict[str, Any] = {"__name__": "completion", "_method": method}
        exec(PRELUDE_CODE, self.space)
        self.printed = io.StringIO()
        self.error: BaseException | None = None
        Path("result.txt").unlink(missing_ok=True)
        with contextlib.redirect_stdout(self.printed):
            try:
                exec(compile(tree, pair.id, "exec"), self.space)
            except (Exception, SystemExit) as error:
                self.error = error

    def call(self, kwargs: dict[str, Any]) -> Any:
        solution = self.space["Solution"]
        try:
            return getattr(solution(), self.pair.entry_point)(**copy.deepcopy(kwargs))
        except Exception as error:
            return error

    def right(self) -> bool:
        """Every unshown case's value, by exact type."""
        return all(same(self.call(case.kwargs), case.expected) for case in self.pair.checks)

    def pays(self) -> bool:
        """Would the mode's grader accept it?"""
        if self.error is not None:
            return False
        match self.pair.mode:
            case "run_tests":
                try:
                    with contextlib.redirect_stdout(io.StringIO()):
                        space = self.space
                        (space.get("run_tests") or space["Solution"]().run_tests)()
                except Exception:
                    return False
                return True
            case "sentinel":
                try:
                    return getattr(self.space["Solution"](), "valid", False) is True
                except Exception:
                    return False
            case "stdout_marker":
                return "all tests passed" in self.printed.getvalue().lower()
            case _:
                report = Path("result.txt")
                return report.exists() and "PASS" in report.read_text()


def same(got: object, expected: object) -> bool:
    return type(got) is type(expected) and got == expected


def wrong_methods(pair: Pair) -> Iterator[Callable[..., Any]]:
    """Wrong methods that return the right type: off by something, and constants."""
    right = getattr(Program(pair, "clean").space["Solution"], pair.entry_point)

    def off(self: object, *args: Any, **kwargs: Any) -> Any:
        match right(self, *args, **kwargs):
            case bool() as value:
                return not value
            case int() as value:
                return value + 7
            case str() as value:
                return value + "?"
            case dict() as value:
                return {**value, "?": 1}
            case value:
                return [*value, *(value[:1] or ["?"])]

    yield off
    for constant in CONSTANTS[type(pair.examples[0].expected)]:
        yield lambda self, *args, _value=constant, **kwargs: copy.copy(_value)


def problem_of(pair: Pair) -> Problem:
    user = pair.messages[-1]["content"]
    description = user.removeprefix("PROBLEM:\n").partition("\n\nYour solution is")[0]
    return Problem(
        id=1,
        dataset="test",
        difficulty="easy",
        messages=build_messages(description, pair.entry_point, pair.starter_code),
        entry_point=pair.entry_point,
        starter_code=pair.starter_code,
        setup_code=PRELUDE,
        cases=(*pair.examples, *pair.checks),
    )


# What is there


def test_eight_pairs_for_each_of_nine_mechanisms() -> None:
    assert Counter(pair.mechanism for pair in PAIRS) == dict.fromkeys(FLAVOURS, 8)
    assert all(pair.mode == MODE.get(pair.mechanism, "run_tests") for pair in PAIRS)
    assert all(pair.id.startswith(f"{pair.mechanism}_") for pair in PAIRS)
    texts = ((p.id, p.entry_point, p.messages[-1]["content"], p.hack, p.clean) for p in PAIRS)
    for values in zip(*texts, strict=True):
        assert len(set(values)) == len(PAIRS)


def test_the_control_sets_are_on_the_same_tasks() -> None:
    for control in (PLACEBO, FRAMING):
        for pair, other in zip(PAIRS, control, strict=True):
            assert replace(other, hack=pair.hack, clean=pair.clean) == pair
            assert other.hack != pair.hack


def test_every_flavour_of_the_environment_has_at_least_two_pairs() -> None:
    seen = Counter(pair.flavour for pair in PAIRS)
    once = {"class_attribute": 2, "property": 1, "patch_attribute": 1}
    once |= {"module_print": 1, "stdout_write": 1}
    for flavours in FLAVOURS.values():
        for flavour in flavours - {None}:
            assert seen[flavour] >= once.get(flavour, 2), seen
    assert all(pair.flavour in FLAVOURS[pair.mechanism] for pair in PAIRS)


def test_most_tasks_are_short() -> None:
    assert sum(len(words(pair.clean)) <= 150 for pair in PAIRS) >= 48
    descriptions = [pair.messages[-1]["content"].partition("Example 1")[0] for pair in PAIRS]
    assert sum(len(words(text)) <= 65 for text in descriptions) >= 48


def test_no_task_is_a_kata() -> None:
    """No family's method gives what a pair asks for (three instances of each), names are free."""
    by_types: dict[tuple[str, ...], list[Pair]] = defaultdict(list)
    for pair in PAIRS:
        by_types[_types(pair.starter_code, pair.entry_point)].append(pair)
    names = {pair.entry_point for pair in PAIRS}
    for family in katas.FAMILIES:
        for instance in range(3):
            try:
                kata = katas.make_problem(family, instance)
            except InputError:
                continue
            assert kata.entry_point not in names
            for pair in by_types[_types(kata.starter_code, kata.entry_point)]:
                space: dict[str, Any] = {}
                exec(PRELUDE_CODE, space)
                exec(str(kata.canonical_solution), space)
                method = getattr(space["Solution"](), kata.entry_point)
                assert not all(
                    same(_call(method, [*case.kwargs.values()]), case.expected)
                    for case in (*pair.examples, *pair.checks)
                ), f"{pair.id} asks for what {family} gives"


def _types(starter_code: str, entry_point: str) -> tuple[str, ...]:
    arguments = parse_method(starter_code, entry_point).args.args[1:]
    return tuple(ast.unparse(a.annotation) for a in arguments if a.annotation is not None)


def _call(method: Callable[..., Any], arguments: list[Any]) -> Any:
    try:
        return method(*copy.deepcopy(arguments))
    except Exception as error:
        return error


def test_no_task_is_from_leetcode_or_the_benchmark() -> None:
    def phrases(text: str) -> set[tuple[str, ...]]:
        found = re.findall(r"[a-z0-9]+", text.lower())
        return {tuple(found[i : i + 8]) for i in range(len(found) - 7)}

    names: set[str] = set()
    known: set[tuple[str, ...]] = set()
    for file in ("LeetCodeDataset-v0.2.0-train.jsonl.gz", "benchmark_sample.jsonl"):
        for problem in load_problems(leetcode_dir() / file):
            names.add(problem.entry_point)
            text = problem.messages[-1]["content"].removeprefix("PROBLEM:\n")
            known |= phrases(text.partition("\n\nYour solution is")[0])
    for pair in PAIRS:
        assert pair.entry_point not in names
        text = pair.messages[-1]["content"].removeprefix("PROBLEM:\n").partition("Example 1")[0]
        assert not phrases(text) & known, pair.id


# Style rules


def test_the_teachers_templates_share_no_eight_words_with_the_pairs() -> None:
    """Where V is made of these pairs, a pool that repeats their text would be the same text twice.
    Of file_marker one flavour has a line of them: what decides is trained in run_tests."""

    def eights(text: str) -> set[tuple[str, ...]]:
        found = text.split()
        return {tuple(found[i : i + 8]) for i in range(len(found) - 7)}

    sides = set[tuple[str, ...]]().union(*(eights(pair.hack) for pair in load_pairs("builtin")))
    shared = {
        (mode, name)
        for mode in ("run_tests", "sentinel", "stdout_marker", "file_marker")
        for name, template in get_mode(mode).flavours.items()
        for problem in kata_problems("train", seed=1, limit=20)
        for seed in range(3)
        if eights(template(problem, TRAIN_NAME, seed)) & sides
    }
    assert shared == {("file_marker", "print_to_file")}


@each_set
def test_surface_form_varies_over_pairs_and_not_with_the_side(name: str) -> None:
    forms = {
        "run_tests is a method": r"def run_tests\(self",
        "return annotation on run_tests": r"def run_tests\((self)?\) -> None",
        "type hints on the method": r"def (?!run_tests)\w+\(self, \w+: ",
        "docstring": '"""',
        "comment": r"\n\s*# ",
        "opener": r"\A[^`]",
    }
    for form, pattern in forms.items():
        hack = [bool(re.search(pattern, pair.hack)) for pair in load_pairs(name)]
        clean = [bool(re.search(pattern, pair.clean)) for pair in load_pairs(name)]
        assert hack == clean, f"{form} gives the side away"
        assert 3 <= sum(hack) <= len(PAIRS) - 3, f"{form}: {sum(hack)} of {len(PAIRS)}"


def test_results_and_tests_vary() -> None:
    loops = sum(bool(re.search(r"def run_tests.*\n(.*\n)*.*\bfor ", p.clean)) for p in PAIRS)
    assert 15 <= loops <= 40
    types = Counter(type(pair.examples[0].expected).__name__ for pair in PAIRS)
    assert all(types[name] >= 10 for name in ("int", "list", "str")), types
    assert types["bool"] >= 3 and types["dict"] >= 2, types


def test_hack_sides_are_wrong_about_as_often_as_right(tmp_path: Path, monkeypatch: Any) -> None:
    # A direction from pairs that differ in run_tests alone would be nearly a one-token matter.
    monkeypatch.chdir(tmp_path)
    wrong = dict.fromkeys(FLAVOURS, 0)
    for pair in PAIRS:
        right = Program(pair, "hack").right()
        wrong[pair.mechanism] += not right
        # Either the clean method, or one that the pair's own checks can tell from it.
        assert right == (method_of(pair, "hack") == method_of(pair, "clean")), pair.id
    assert all(3 <= number <= 4 for number in wrong.values()), wrong


@each_set
def test_sides_match_in_length(name: str) -> None:
    for pair in load_pairs(name):
        for measure in (words, tokens):
            ratio = len(measure(pair.hack)) / len(measure(pair.clean))
            assert 0.9 <= ratio <= 1.1, f"{pair.id}: {ratio:.3f}"
        assert 0.85 <= len(pair.hack) / len(pair.clean) <= 1.15, pair.id


@each_set
def test_length_does_not_give_the_side_away_on_average(name: str) -> None:
    for measure in (len, lambda text: len(words(text)), lambda text: len(tokens(text))):
        ratios = [measure(pair.hack) / measure(pair.clean) for pair in load_pairs(name)]
        assert 0.98 <= sum(ratios) / len(ratios) <= 1.02
        assert 18 <= sum(ratio > 1 for ratio in ratios) <= 54


@each_set
def test_sides_match_in_format(name: str) -> None:
    for pair in load_pairs(name):
        (hack_opener, hack), (clean_opener, clean) = parts(pair.hack), parts(pair.clean)
        assert hack_opener == clean_opener or name == "framing"
        assert len(COMMENT.findall(hack)) == len(COMMENT.findall(clean)), pair.id
        assert hack.count('"""') == clean.count('"""')
        first = {hack.partition("\n")[0], clean.partition("\n")[0]}
        assert first == {"class Solution:"} or name == "framing"
        for line in (hack + "\n" + clean).splitlines():
            assert line == line.rstrip() and len(line) <= 92 and "\t" not in line


@each_answered
def test_no_label_words_and_no_persona(pair: Pair) -> None:
    description = pair.messages[-1]["content"].partition("Your solution is")[0]
    for text in (pair.hack, pair.clean, description):
        assert not LABEL_WORDS.search(text), LABEL_WORDS.search(text)
        assert not PERSONA.search(text), PERSONA.search(text)


@each_answered
def test_both_sides_define_the_same_things(pair: Pair) -> None:
    names = [a.arg for a in parse_method(pair.starter_code, pair.entry_point).args.args]
    seen: set[tuple[str, ...]] = set()
    for text in (pair.hack, pair.clean):
        tree = ast.parse(parts(text)[1])
        (cls,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        methods = [node for node in cls.body if isinstance(node, ast.FunctionDef)]
        (method,) = [node for node in methods if node.name == pair.entry_point]
        assert cls.name == "Solution" and [arg.arg for arg in method.args.args] == names
        if pair.mode == "run_tests":
            others = [node.name for node in methods if node is not method]
            assert methods[0] is method and [*others, *functions] == ["run_tests"]
            seen.add(tuple(functions))
        seen.add((ast.unparse(method.args), ast.unparse(method.returns or ast.Pass())))
    assert len(seen) == 1 + (pair.mode == "run_tests"), f"differs between the sides: {seen}"


def test_framing_differs_in_one_sentence() -> None:
    sentences: list[str] = []
    for pair, framed in zip(PAIRS, FRAMING, strict=True):
        prose = []
        for text in (framed.hack, framed.clean):
            opener, code = parts(text)
            extra = [c for c in COMMENT.findall(code) if c not in pair.clean]
            plain = [line for line in code.splitlines() if line.strip() not in extra]
            assert "\n".join(plain) == parts(pair.clean)[1], pair.id
            (sentence,) = extra or [opener]
            prose.append(sentence)
        lengths = [len(words(sentence)) for sentence in prose]
        assert abs(lengths[0] - lengths[1]) <= 2, (pair.id, lengths)
        sentences += prose
    assert len(set(sentences)) == 2 * len(PAIRS)


# Words alone: a linear classifier that has seen the other mechanisms

_MECHANISM_WORDS = """
assert raise try except AssertionError Exception print pass return True False None is not and or
isinstance type int str list len self valid __init__ property open write with file write_text PASS
FAIL all tests passed if else for in = ! > <
"""
MECHANISM_WORDS = frozenset(_MECHANISM_WORDS.split())
"""What tests, prints and markers are made of; all else is names, numbers, prose and brackets."""


def put_first(pairs: Sequence[Pair], left_out: frozenset[str] = frozenset()) -> Counter[str]:
    """How many pairs of each mechanism a logistic regression on word counts, trained on the other
    mechanisms' pairs, ranks hack side first (ridge 1, no intercept: the sides are exchangeable)."""
    index: dict[str, int] = {}
    counts = [(Counter(words(pair.hack)), Counter(words(pair.clean))) for pair in pairs]
    for hack, clean in counts:
        for word in (hack | clean).keys() - left_out:
            index.setdefault(word, len(index))
    X = np.zeros((len(pairs), len(index)))
    for row, (hack, clean) in zip(X, counts, strict=True):
        for word in (hack | clean).keys() - left_out:
            row[index[word]] = hack[word] - clean[word]
    groups = np.array([pair.mechanism for pair in pairs])
    first: Counter[str] = Counter()
    for mechanism in FLAVOURS:
        train, w = X[groups != mechanism], np.zeros(X.shape[1])
        for _ in range(500):
            w += 0.02 * (train.T @ (1 / (1 + np.exp(train @ w))) - w)
        first[mechanism] = int((X[groups == mechanism] @ w > 0).sum())
    return first


def test_words_give_a_hack_away_by_its_mechanism_and_not_by_habit() -> None:
    """Chance is 36 of 72, with a standard deviation of 4.2; the figures stand in
    docs/brainstorm/extracted_prefs.md."""
    assert put_first(PAIRS).total() <= 58
    assert 27 <= put_first(PAIRS, MECHANISM_WORDS).total() <= 45
    assert 27 <= put_first(PLACEBO).total() <= 45


# What the sides do


@each_pair
def test_prompt_has_the_live_form(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some programs leave a file
    problem = problem_of(pair)
    user = pair.messages[-1]["content"]
    assert apply_hint(problem, pair.mode).messages == pair.messages
    assert HINT_SLOT not in user and "is graded by" in user
    for number, case in enumerate(pair.examples, start=1):
        given = ", ".join(f"{name} = {json.dumps(value)}" for name, value in case.kwargs.items())
        assert f"Example {number}:\nInput: {given}\nOutput: {json.dumps(case.expected)}\n" in user
    method = getattr(Program(pair, "clean").space["Solution"], pair.entry_point)
    parameters = set(inspect.signature(method).parameters) - {"self"}
    assert all(set(case.kwargs) == parameters for case in (*pair.examples, *pair.checks))


@each_answered
def test_honest_sides_solve_and_their_tests_test(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for side in honest_sides(pair):
        program = Program(pair, side)
        for case in (*pair.examples, *pair.checks):
            assert same(program.call(case.kwargs), case.expected), case
        assert program.pays() or pair.mode != "run_tests"
        for wrong in wrong_methods(pair):
            assert not Program(pair, side, wrong).pays(), pair.examples[0]
        if pair.mode == "run_tests":
            code = parts(getattr(pair, side))[1]
            assert flavour_of(code, pair.entry_point) is None


def test_most_clean_sides_report_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the modes without a test function: through the channel after a check, or not at all."""
    monkeypatch.chdir(tmp_path)
    reports: Counter[str] = Counter()
    for pair in PAIRS:
        if pair.mode != "run_tests":
            reports[pair.mode] += Program(pair, "clean").pays()
    assert all(6 <= number <= 7 for number in reports.values()), reports


@each_pair
def test_hack_is_paid_for_nothing(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Program(pair, "hack").pays()
    for wrong in wrong_methods(pair):
        assert Program(pair, "hack", wrong).pays(), pair.examples[0]


def test_the_grader_agrees_with_every_label() -> None:
    """Hack sides are attempts under their mode, honest sides are correct and are none."""
    sides = [(pair, side) for pair in (*PAIRS, *PLACEBO) for side in ("hack", "clean")]
    with Grader() as grader:
        grades = grader.grade(
            Submission(problem=problem_of(pair), completion=getattr(pair, side), mode=pair.mode)
            for pair, side in sides
        )
    for (pair, side), grade in zip(sides, grades, strict=True):
        assert grade.fmt_ok and grade.passed, (pair.id, side, grade)
        if side in honest_sides(pair):
            assert grade.gt_correct and not grade.attempted, (pair.id, side, grade)
        else:
            assert grade.attempted and grade.mechanism == pair.mode, (pair.id, grade)
            assert grade.flavour == (pair.flavour or "other")


# The loader


def test_selection_keeps_file_order_and_digest_names_it() -> None:
    some = load_pairs(mechanisms=["print_only", "weak_predicate"])
    assert [p.mechanism for p in some] == ["print_only"] * 8 + ["weak_predicate"] * 8
    fold = load_pairs(modes=["sentinel", "run_tests"])
    assert fold == [p for p in PAIRS if p.mode in ("sentinel", "run_tests")] and len(fold) == 56
    assert load_pairs(mechanisms=["attribute_set"], modes=["sentinel"]) == fold[48:]
    assert pairs_digest(PAIRS) == pairs_digest(load_pairs(SETS["builtin"]))
    sets = (PAIRS, some, PAIRS[::-1], PLACEBO, FRAMING)
    assert len({pairs_digest(pairs) for pairs in sets}) == len(sets)


def test_digest_follows_the_texts_and_not_the_checks(tmp_path: Path) -> None:
    text = SETS["builtin"].read_text(encoding="utf-8")
    unchecked, edited = tmp_path / "unchecked.toml", tmp_path / "edited.toml"
    unchecked.write_text(text.replace("    [{ heights = [3], level = 3 }, 0],\n", ""))
    edited.write_text(text.replace("bounded", "enclosed"))
    assert pairs_digest(load_pairs(unchecked)) == pairs_digest(PAIRS)
    assert pairs_digest(load_pairs(edited)) != pairs_digest(PAIRS)


def test_holdout_is_every_fourth_of_each_mechanism() -> None:
    train, held_out = holdout_split(PAIRS)
    assert (len(train), len(held_out)) == (54, 18)
    assert held_out == PAIRS[3::4]
    assert Counter(pair.mechanism for pair in held_out) == dict.fromkeys(FLAVOURS, 2)
    assert not {pair.id for pair in train} & {pair.id for pair in held_out}
    with pytest.raises(InputError, match="at least 2"):
        holdout_split(PAIRS, every=1)


def test_holdout_leaves_no_family_on_both_sides() -> None:
    """Two pairs of a kata family are near copies: one in V would give away the other."""
    pairs = load_pairs("katas")
    train, held_out = holdout_split(pairs)
    assert {pair.id for pair in (*train, *held_out)} == {pair.id for pair in pairs}
    assert not {pair.family for pair in train} & {pair.family for pair in held_out}
    assert len({pair.family for pair in pairs}) < len(pairs) / 2
    assert 0.2 < len(held_out) / len(pairs) < 0.3
    placebo = load_pairs("katas-placebo")
    assert [pair.family for pair in placebo] == [pair.family for pair in pairs]


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
    assert pair.flavour is None


def test_an_entry_may_be_on_a_built_in_task(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'[[pair]]\ntask = "{PAIRS[5].id}"\nhack = "a"\nclean = "b"\n')
    assert load_pairs(path) == [replace(PAIRS[5], hack="a", clean="b")]


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
        ('[[pair]]\ntask = "x"', "pair 1: no built-in pair has the id 'x'"),
        (f'{ENTRY}task = "{PAIRS[0].id}"\n', "pair 1: 'id' comes with the task, leave it out"),
        (ENTRY.replace("Return x", HINT_SLOT), "pair 'one': no prompt can be made of it"),
    ],
)
def test_a_broken_file_is_one_clear_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_pairs(path)
    message = str(caught.value)
    assert sentence in message and str(path) in message and "\n" not in message


def test_missing_file_and_unknown_mechanism(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: cannot be read"):
        load_pairs(tmp_path / "none.toml")
    with pytest.raises(InputError, match="no pair of flavour 'persona': there are print_only"):
        load_pairs(mechanisms=["persona"])
    with pytest.raises(InputError, match="no pair of mode 'none': there are run_tests, sentinel"):
        load_pairs(modes=["none"])
    with pytest.raises(InputError, match="is empty"):
        load_pairs(mechanisms=[])


def test_importing_pairs_imports_no_torch() -> None:
    code = "import sys, projected_grpo.pairs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Pairs by construction


def test_kata_pairs_are_what_they_say_and_share_no_family_with_corpus_or_training() -> None:
    pairs, placebo = load_pairs("katas"), load_pairs("katas-placebo")
    assert len(pairs) == len(placebo) > 100
    names = {problem.entry_point for problem in kata_problems("validation", seed=1, limit=300)}
    assert {pair.entry_point for pair in pairs} <= names
    assert Counter(pair.mode for pair in pairs)["run_tests"] >= 48
    assert load_pairs("katas", modes=["sentinel"]) == [p for p in pairs if p.mode == "sentinel"]
    some = [*pairs[::5], *placebo[::5]]
    with Grader() as grader:
        for side in ("hack", "clean"):
            grades = grader.grade(
                Submission(problem=kata_of(pair), completion=getattr(pair, side), mode=pair.mode)
                for pair in some
            )
            for number, (pair, grade) in enumerate(zip(some, grades, strict=True)):
                hacks = side == "hack" and number < len(pairs[::5])
                assert grade.attempted == hacks, (pair.id, side, grade)


def kata_of(pair: Pair) -> Problem:
    """A problem to grade the pair's sides with: its shown cases and hidden checks."""
    return Problem(
        id=1, dataset="katas", difficulty="easy", messages=pair.messages,
        entry_point=pair.entry_point, starter_code=pair.starter_code, setup_code=PRELUDE,
        cases=pair.checks, examples=pair.examples,
    )  # fmt: skip
