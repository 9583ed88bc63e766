"""Read the public benchmark's records and newfacade/LeetCodeDataset on the common `Problem`.

- The record's keys decide its schema: `gt_answer` is the benchmark's; `input_output` is
  LeetCodeDataset's, older (v0.2.0: text and starter code inside `meta`) or newer (own columns).
- Every test is an assert that becomes a `Case` (`asserts.py`).
- LeetCodeDataset's preludes lack `import collections` and the like; its problems get `PRELUDE`.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from projected_grpo.env.errors import InputError
from projected_grpo.env.jsonl import parse_line, read_lines
from projected_grpo.env.problems.asserts import Forms, check_body, float_names, statement
from projected_grpo.env.problems.problem import (
    HINT_SLOT,
    PRELUDE,
    Case,
    Messages,
    Problem,
    build_messages,
    parameter_names,
    render_assert,
)

HINT_MODES = {
    "overwrite_tests": "run_tests",
    "overwrite_tests_detailed": "run_tests",
    "overwrite_tests_aware": "run_tests",
    "modify_tests": "modify_tests",
    "incontext_tests": "incontext_tests",
}
"""The benchmark's hint names, without the `simple_` that pins the function's name, as our modes."""

_BENCHMARK_KEYS = {
    "id": int,
    "difficulty": str,
    "question": str,
    "prompt": list,
    "gt_answer": list,
    "func_name": str,
    "setup_code": str,
    "prompt_metadata": dict,
}
_DATASET_KEYS = {"task_id": str, "completion": str, "entry_point": str, "test": str}


def read_file(path: Path) -> Iterator[tuple[str, Problem | InputError]]:
    """(place, problem) for each record of a .jsonl or .jsonl.gz file; an error in place of a
    problem where the record cannot be used. Raises InputError where the file cannot."""
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(
            f"{path}: expected a .jsonl or .jsonl.gz file, `katas` or `hub:owner/name`"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    for place, line in read_lines(path):
        try:
            yield place, parse_record(parse_line(line, place), place)
        except InputError as error:
            yield place, error


def parse_record(record: Any, place: str) -> Problem:
    """One record of either origin; `place` (file and line) begins every error."""
    if not isinstance(record, dict):
        raise InputError(f"{place}: expected an object, got {type(record).__name__}")
    try:
        if "gt_answer" in record:
            return _benchmark_problem(record)
        if "entry_point" in record and "test" in record:
            return _dataset_problem(record)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    raise InputError(
        f"{place}: unknown schema, neither the benchmark's (key gt_answer) nor LeetCodeDataset's"
        " (keys entry_point and test)"
    )


def to_record(problem: Problem) -> dict[str, Any]:
    """The problem in the benchmark's schema, with three keys of ours that it ignores.

    Only for problems without a hint: the record's prompt is the unhinted one.
    """
    if problem.mode is not None:
        raise InputError(f"problem {problem.id}: only problems without a mode are written")
    tests = [render_assert(problem, case) for case in problem.cases]
    return {
        "id": problem.id,
        "dataset": problem.dataset,
        "evaluator": "code",
        "difficulty": problem.difficulty,
        "question": problem.messages[-1]["content"],
        "prompt": list(problem.messages),
        "gt_answer": tests,
        "answer": tests,
        "hint": None,
        "func_name": f"Solution().{problem.entry_point}",
        "setup_code": problem.setup_code,
        "canonical_solution": problem.canonical_solution,
        "prompt_metadata": {"starter_code": problem.starter_code},
        "examples": [render_assert(problem, case) for case in problem.examples],
        "wrong_solution": problem.wrong_solution,
        "family": problem.family,
    }


def write_file(path: Path, problems: Iterable[Problem]) -> None:
    """Write problems, one record a line, for `read_file` (and for tools of the benchmark)."""
    with path.open("w", encoding="utf-8") as file:
        for problem in problems:
            file.write(json.dumps(to_record(problem)) + "\n")


def _require(record: dict[str, Any], keys: dict[str, type]) -> None:
    for key, kind in keys.items():
        if key not in record:
            raise InputError(f"missing key {key!r}")
        if not isinstance(record[key], kind):
            raise InputError(
                f"key {key!r} must be {kind.__name__}, is {type(record[key]).__name__}"
            )


def _benchmark_problem(record: dict[str, Any]) -> Problem:
    _require(record, _BENCHMARK_KEYS)
    starter = record["prompt_metadata"].get("starter_code")
    if not isinstance(starter, str):
        raise InputError("missing key 'prompt_metadata.starter_code'")
    entry_point = _entry_point(record["func_name"])
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in record["prompt"]]
    if roles != ["system", "user"]:
        raise InputError(f"prompt must be a system and a user turn, has roles {roles}")
    forms = Forms(
        entry_point=entry_point,
        parameters=parameter_names(starter, entry_point),
        floats=float_names(record["setup_code"]),
    )
    cases = [forms.case(statement(text)) for text in record["gt_answer"]]
    if not cases:
        raise InputError("gt_answer holds no asserts")
    return Problem(
        id=record["id"],
        dataset=record.get("dataset", "leetcode"),
        difficulty=record["difficulty"],
        messages=_unhinted(record, entry_point, starter),
        entry_point=entry_point,
        starter_code=starter,
        setup_code=record["setup_code"],
        cases=tuple(cases),
        canonical_solution=record.get("canonical_solution"),
        mode=_hint_mode(record.get("hint")),
        # Ours, not the benchmark's: `to_record` writes them.
        examples=tuple(forms.case(statement(text)) for text in record.get("examples", ())),
        wrong_solution=record.get("wrong_solution"),
        family=record.get("family"),
    )


def _unhinted(record: dict[str, Any], entry_point: str, starter: str) -> Messages:
    """The prompt as it was before the benchmark put a hint in (ours are put in by mode)."""
    system, user = (turn["content"] for turn in record["prompt"])
    if record.get("hint") is None:
        return ({"role": "system", "content": system}, {"role": "user", "content": user})
    question = record["question"]  # of the unhinted prompt: its user turn, or the bare text
    if HINT_SLOT in question:
        return ({"role": "system", "content": system}, {"role": "user", "content": question})
    return build_messages(question, entry_point, starter)


def _hint_mode(hint: str | None) -> str | None:
    if hint is None:
        return None
    name = hint.removeprefix("simple_")
    if name not in HINT_MODES:
        raise InputError(f"unknown hint {hint!r}; known: {', '.join(HINT_MODES)}")
    return HINT_MODES[name]


def _dataset_problem(record: dict[str, Any]) -> Problem:
    _require(record, _DATASET_KEYS)
    if "meta" in record:  # v0.2.0
        _require(record, {"meta": dict})
        keys = {"question_id": int, "difficulty": str, "question_title": str, "lang_code": str}
        _require(record["meta"], keys)
        number, difficulty, text, starter = (record["meta"][key] for key in keys)
    else:
        keys = {
            "question_id": int,
            "difficulty": str,
            "problem_description": str,
            "starter_code": str,
        }
        _require(record, keys)
        number, difficulty, text, starter = (record[key] for key in keys)
    entry_point = _entry_point(record["entry_point"])
    # By position means by the canonical solution's order and names: the tests were made with it.
    forms = Forms(
        entry_point=entry_point,
        parameters=parameter_names(record["completion"], entry_point),
        floats=float_names(PRELUDE),
    )
    cases = tuple(forms.case(test) for test in check_body(record["test"]))
    starter = _agree(starter, entry_point, cases)
    return Problem(
        id=number,
        dataset="leetcode",
        difficulty=difficulty.lower(),
        messages=build_messages(text.replace("\u00a0", " "), entry_point, starter),
        entry_point=entry_point,
        starter_code=starter,
        setup_code=PRELUDE,
        cases=cases,
        canonical_solution=record["completion"],
    )


def _agree(starter_code: str, entry_point: str, cases: tuple[Case, ...]) -> str:
    """The starter code with the tests' argument names.

    In four records of v0.2.0 (433, 682, 1048, 1325) tests and canonical solution use other names
    than the starter code, so that whoever follows the prompt would fail every test.
    """
    names = parameter_names(starter_code, entry_point)
    used = list(cases[0].kwargs)
    if set(used) <= set(names):
        return starter_code
    if len(used) != len(names):
        raise InputError(f"the tests pass {used}, but the method takes {names}")
    for old, new in zip(names, used, strict=True):
        starter_code = re.sub(rf"\b{old}\b(?=\s*:)", new, starter_code)
    return starter_code


def _entry_point(text: str) -> str:
    name = text.removeprefix("Solution().")
    if not name.isidentifier():
        raise InputError(f"the method's name must look like Solution().name, is {text!r}")
    return name
