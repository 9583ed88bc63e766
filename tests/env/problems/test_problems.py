"""Problems: reading records of each schema, the prompt, and errors that say what is wrong."""

import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from projected_grpo.env.errors import InputError
from projected_grpo.env.loopholes.modes import apply_hint
from projected_grpo.env.problems import leetcode
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import (
    HINT_SLOT,
    PRELUDE,
    Case,
    build_messages,
    flatten_tree,
    parameter_names,
    render_assert,
)
from projected_grpo.env.sandbox.programs import Node

ROOT = Path(__file__).resolve().parents[3]
LEETCODE = Path(os.environ.get("PROJECTED_GRPO_LEETCODE", ROOT.parent / "shared" / "leetcode"))
SAMPLE = LEETCODE / "benchmark_sample.jsonl"
DATASET = LEETCODE / "LeetCodeDataset-v0.2.0-train.jsonl.gz"
needs_leetcode = pytest.mark.skipif(
    not (SAMPLE.is_file() and DATASET.is_file()),
    reason=f"the LeetCode files are not committed and not at {LEETCODE}",
)

STARTER = "class Solution:\n    def addUp(self, nums: List[int], k: int) -> int:\n        "


def benchmark_record(**changes: Any) -> dict[str, Any]:
    user = f"PROBLEM:\nAdd up.\n\nIt is called addUp {HINT_SLOT}.\n```python\n{STARTER}\n```"
    return {
        "id": 1,
        "dataset": "leetcode",
        "evaluator": "code",
        "difficulty": "medium",
        "question": "Add up.",
        "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": user}],
        "gt_answer": ["assert Solution().addUp(nums = [1, -2], k = 3) == 2"],
        "answer": ["run_tests()"],
        "hint": None,
        "func_name": "Solution().addUp",
        "setup_code": "import math",
        "canonical_solution": "class Solution: ...",
        "prompt_metadata": {"starter_code": STARTER},
        **changes,
    }


def dataset_record(version: str, **changes: Any) -> dict[str, Any]:
    head = "class Solution:\n    def addUp(self, nums: List[int], k: int) -> int:"
    record: dict[str, Any] = {
        "task_id": "add-up",
        "prompt": "from typing import *",
        "completion": f"{STARTER}return sum(nums[:k]) + k",
        "entry_point": "Solution().addUp",
        "test": "def check(candidate):\n    assert candidate([1, -2], k = 3) == 2\n",
        "query": "",
        "input_output": [{"input": "nums = [1, -2], k = 3", "output": "2"}],
    }
    if version == "v0.2.0":
        meta = {
            "question_id": 7,
            "difficulty": "Hard",
            "question_title": "Add up.",
            "lang_code": head,
        }
        return {**record, "meta": meta, **changes}
    columns = {"question_id": 7, "difficulty": "Hard", "problem_description": "Add up."}
    return {**record, **columns, "starter_code": STARTER, "tags": ["Array"], **changes}


def write(path: Path, *records: Any) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_prompt_has_one_slot_two_fences_and_the_answer_marker() -> None:
    system, user = build_messages("Add up.", "addUp", STARTER)
    assert (system["role"], user["role"]) == ("system", "user")
    assert user["content"].count(HINT_SLOT) == 1
    assert user["content"].count("```") == 2
    assert user["content"].startswith("PROBLEM:\nAdd up.\n")
    assert user["content"].endswith("\n\nSOLUTION:\n")
    with pytest.raises(InputError, match="holds the phrase"):
        build_messages(f"It runs {HINT_SLOT}.", "addUp", STARTER)


def test_benchmark_record(tmp_path: Path) -> None:
    (problem,) = load_problems(write(tmp_path / "p.jsonl", benchmark_record()))
    assert problem.id == 1 and problem.entry_point == "addUp" and problem.mode is None
    assert problem.cases == (Case({"nums": [1, -2], "k": 3}, 2),)
    assert problem.setup_code == "import math"
    assert problem.messages[1]["content"].count(HINT_SLOT) == 1


def test_benchmark_record_with_a_hint_gets_its_prompt_back(tmp_path: Path) -> None:
    hinted = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "... will be evaluated by calling run_tests()"},
    ]
    record = benchmark_record(hint="simple_overwrite_tests", prompt=hinted)
    (problem,) = load_problems(write(tmp_path / "p.jsonl", record))
    assert problem.mode == "run_tests"
    assert problem.messages[1]["content"].count(HINT_SLOT) == 1
    assert "evaluated by calling" not in problem.messages[1]["content"]
    with pytest.raises(InputError, match="unknown hint 'x'"):
        load_problems(write(tmp_path / "q.jsonl", benchmark_record(hint="x")))


@pytest.mark.parametrize("version", ["v0.2.0", "v0.3.1"])
def test_dataset_record(tmp_path: Path, version: str) -> None:
    path = tmp_path / "d.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(dataset_record(version)) + "\n")
    (problem,) = load_problems(path)
    assert (problem.id, problem.difficulty) == (7, "hard")
    assert problem.cases == (Case({"nums": [1, -2], "k": 3}, 2),)
    assert problem.setup_code == PRELUDE
    assert problem.messages[1]["content"].count("def addUp") == 1


def test_dataset_tests_with_nodes() -> None:
    starter = "class Solution:\n    def f(self, a: Any, b: Any) -> Any:"
    meta = {"question_id": 1, "difficulty": "Easy", "question_title": "T", "lang_code": starter}
    lines = [
        "assert is_same_list(candidate(a = list_node([1,2]), b = 0), list_node([2]))",
        "assert is_same_tree(candidate(tree_node([1]), b = [list_node([3])]), tree_node([1,None]))",
        "assert is_same_tree(candidate(a = 1, b = 2), None)",
        "assert candidate(a = {'x': (1, -2.5)}, b = None)",
        "assert not candidate(a = True, b = 'y')",
    ]
    test = "def check(candidate):\n" + "".join(f"    {line}\n" for line in lines)
    record = dataset_record(
        "v0.2.0", test=test, meta=meta, entry_point="Solution().f", completion=f"{starter} ..."
    )
    problem = leetcode.parse_record(record, "here:1")
    assert problem.cases == (
        Case({"a": Node("list_node", [1, 2]), "b": 0}, [2], "list_node"),
        Case({"a": Node("tree_node", [1]), "b": [Node("list_node", [3])]}, [1], "tree_node"),
        Case({"a": 1, "b": 2}, [], "tree_node"),
        Case({"a": {"x": (1, -2.5)}, "b": None}, True),
        Case({"a": True, "b": "y"}, False),
    )
    assert render_assert(problem, problem.cases[1]) == (
        "assert is_same_tree(Solution().f(tree_node([1]), [list_node([3])]), tree_node([1]))"
    )


def test_flatten_tree() -> None:
    assert flatten_tree([]) == flatten_tree([None]) == []
    assert flatten_tree([1, None, 2, None, None]) == [1, None, 2]
    assert flatten_tree([1, 2, 3, None, 4]) == [1, 2, 3, None, 4]
    assert flatten_tree([1, None, 2, 3]) == [1, None, 2, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': 1}", r"p\.jsonl:2: not valid JSON"),
        ("[1]", r"p\.jsonl:2: expected an object, got list"),
        ({"a": 1}, r"p\.jsonl:2: unknown schema"),
        (benchmark_record(id="x"), r"p\.jsonl:2: key 'id' must be int, is str"),
        (benchmark_record(prompt_metadata={}), "missing key 'prompt_metadata.starter_code'"),
        (benchmark_record(func_name="a b"), "must look like Solution"),
        (benchmark_record(gt_answer=[]), "holds no asserts"),
        (benchmark_record(gt_answer=["assert ("]), r"p\.jsonl:2: the test 'assert \(' does not"),
        (benchmark_record(gt_answer=["x = 1"]), "'x = 1' is not an assert"),
        (benchmark_record(gt_answer=["assert 1 < 2"]), "has an unknown form"),
        (benchmark_record(gt_answer=["assert Solution().other() == 1"]), "not addUp"),
        (
            benchmark_record(gt_answer=["assert Solution().addUp(__import__('os')) == 1"]),
            "is not a literal",
        ),
        (benchmark_record(gt_answer=["assert Solution().addUp(1, 2, 3) == 1"]), "more arguments"),
        (benchmark_record(), r"p\.jsonl:2: id 1 was already used at .*p\.jsonl:1"),
        (dataset_record("v0.2.0", meta={"question_id": 3}), "missing key 'difficulty'"),
        (dataset_record("v0.3.1", test="assert 1"), "must define one function check"),
    ],
)
def test_errors_name_file_line_and_reason(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "p.jsonl", benchmark_record(), line)
    with pytest.raises(InputError, match=message):
        load_problems(path)


@pytest.mark.parametrize(
    "key", ["id", "difficulty", "question", "prompt", "func_name", "setup_code"]
)
def test_missing_keys_are_named(tmp_path: Path, key: str) -> None:
    record = benchmark_record()
    del record[key]
    with pytest.raises(InputError, match=f"missing key '{key}'"):
        load_problems(write(tmp_path / "p.jsonl", record))


def test_errors_of_sources(tmp_path: Path) -> None:
    for source, message in {
        tmp_path / "no.jsonl": "no such file",
        tmp_path / "no.parquet": "expected a .jsonl",
        write(tmp_path / "empty.jsonl"): "holds no records",
        "katas:dev": "katas:train",
        "katas:train:x": "whole number",
    }.items():
        with pytest.raises(InputError, match=message):
            load_problems(source)
    with pytest.raises(InputError, match="limit must be at least 1"):
        load_problems("katas", limit=0)
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(b"not gzip")
    with pytest.raises(InputError, match="cannot be read"):
        load_problems(broken)


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", benchmark_record(), "broken")
    assert len(load_problems(path, limit=1)) == 1


def test_hub_offline_says_so(tmp_path: Path) -> None:
    code = (
        "from projected_grpo.env.problems.load import load_problems\n"
        "from projected_grpo.env.errors import InputError\n"
        "try: load_problems('hub:newfacade/LeetCodeDataset:train')\n"
        "except InputError as error: print('said:', error)"
    )
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "said: HF_DATASETS_OFFLINE is set, and newfacade/LeetCodeDataset at" in done.stdout


def test_env_imports_no_torch() -> None:
    code = (
        "import sys; from projected_grpo.env.problems.load import load_problems;"
        " import projected_grpo.env.loopholes.modes; load_problems('katas', 2);"
        " print({'torch', 'datasets', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_problems_survive_a_file(tmp_path: Path) -> None:
    katas = load_problems("katas", limit=60)
    leetcode.write_file(tmp_path / "katas.jsonl", katas)
    assert load_problems(tmp_path / "katas.jsonl") == katas
    with pytest.raises(InputError, match="without a mode"):
        leetcode.to_record(apply_hint(katas[0], "run_tests"))


@needs_leetcode
def test_leetcode_survives_a_file(tmp_path: Path) -> None:
    problems = load_problems(DATASET)
    leetcode.write_file(tmp_path / "copy.jsonl", problems)
    assert load_problems(tmp_path / "copy.jsonl") == problems


@needs_leetcode
def test_the_benchmark_sample_loads_as_it_is() -> None:
    problems = load_problems(SAMPLE)
    assert len(problems) == 48
    assert all(problem.messages[1]["content"].count(HINT_SLOT) == 1 for problem in problems)
    assert sum(len(problem.cases) for problem in problems) == 4279


@needs_leetcode
def test_every_record_of_leetcodedataset_parses() -> None:
    problems = load_problems(DATASET)
    assert len(problems) == 1890
    kinds = [case.result for problem in problems for case in problem.cases]
    assert (kinds.count("list_node"), kinds.count("tree_node")) == (59, 53)
    # In 433, 682, 1048 and 1325 the starter code as published names other arguments.
    for problem in problems:
        names = parameter_names(problem.starter_code, problem.entry_point)
        assert set(problem.cases[0].kwargs) <= set(names)
        assert names == parameter_names(problem.canonical_solution or "", problem.entry_point)


def test_a_damaged_gzip_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Whichever byte: of the header, of the packed text, of the checksum."""
    whole = gzip.compress(json.dumps(benchmark_record()).encode(), mtime=0)
    path = tmp_path / "p.jsonl.gz"
    for place in (0, 3, 10, 20, len(whole) - 6, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"p\.jsonl\.gz:\d+: cannot be read"):
            load_problems(path)
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        load_problems(path)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000 + "]" * 100_000])
def test_endless_numbers_and_deep_nesting_are_no_json_that_can_be_read(
    tmp_path: Path, value: str
) -> None:
    record = json.dumps(benchmark_record())
    path = tmp_path / "p.jsonl"
    path.write_text(f'{record}\n{record[:-1]}, "extra": {value}}}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"p\.jsonl:2: not valid JSON"):
        load_problems(path)


@pytest.mark.parametrize(
    ("prelude", "written", "value"),
    [
        ("from math import *", "-inf", -math.inf),
        ("from math import inf", "[inf, 1]", [math.inf, 1]),
        ("from math import inf as top", "top", math.inf),
        ('inf = float("inf")', "-inf", -math.inf),
        ("import math", "math.inf", math.inf),
        ("", 'float("-inf")', -math.inf),
        ("", 'float("Infinity")', math.inf),
    ],
)
def test_infinities_that_the_prelude_names_are_values(
    tmp_path: Path, prelude: str, written: str, value: Any
) -> None:
    """One of the 12,592 asserts of the benchmark's test file expects -inf."""
    test = f"assert Solution().addUp(nums = [1, -2], k = {written}) == {written}"
    record = benchmark_record(setup_code=prelude, gt_answer=[test])
    (problem,) = load_problems(write(tmp_path / "p.jsonl", record))
    assert problem.cases[0] == Case({"nums": [1, -2], "k": value}, value)
    shown = render_assert(problem, problem.cases[0])
    again = benchmark_record(setup_code="from math import *", gt_answer=[shown])
    assert load_problems(write(tmp_path / "q.jsonl", again))[0].cases == problem.cases


def test_nan_is_a_value_and_names_of_nothing_are_not(tmp_path: Path) -> None:
    test = "assert Solution().addUp(nums = [nan], k = 3) == 2"
    record = benchmark_record(setup_code="from math import *", gt_answer=[test])
    (problem,) = load_problems(write(tmp_path / "p.jsonl", record))
    assert math.isnan(problem.cases[0].kwargs["nums"][0])
    for prelude in ("", "import math", "nan = other", "def"):
        record = benchmark_record(setup_code=prelude, gt_answer=[test])
        with pytest.raises(InputError, match="expression 'nan' is not a literal"):
            load_problems(write(tmp_path / "p.jsonl", record))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0x" + "f" * 5000, "a number of more than"),
        ("-0x" + "f" * 5000, "a number of more than"),
        ("[0x" + "f" * 5000 + " + 1]", "is not a literal"),
        ("{[1]: 2}", "is no dict"),
    ],
)
def test_values_that_cannot_be_written_or_built_are_refused_in_a_sentence(
    tmp_path: Path, value: str, message: str
) -> None:
    record = benchmark_record(gt_answer=[f"assert Solution().addUp(nums = [], k = 1) == {value}"])
    with pytest.raises(InputError, match=rf"p\.jsonl:1: .*{message}"):
        load_problems(write(tmp_path / "p.jsonl", record))


def test_a_record_that_cannot_be_used_is_left_out_and_named(tmp_path: Path) -> None:
    good = [benchmark_record(id=number) for number in range(19)]
    bad = benchmark_record(id=99, gt_answer=["assert Solution().addUp(nums = [], k = 1) == f(2)"])
    path = write(tmp_path / "p.jsonl", *good[:7], bad, *good[7:])
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING", format="{message}")
    found = load_problems(path)
    logger.remove(sink)
    assert [problem.id for problem in found] == list(range(19))
    (sentence,) = said
    assert f"left out: {path}:8: the expression 'f(2)' is not a literal" in sentence
    path = write(tmp_path / "p.jsonl", *good[:18], bad)  # 1 of 19 is more than 5 %
    with pytest.raises(InputError, match=r":19: .*; 1 of 19 records cannot be used"):
        load_problems(path)
    assert len(load_problems(path, limit=18)) == 18
