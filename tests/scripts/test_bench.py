"""The harness of the benchmarks, and that each still measures what it names, tiny."""

import json
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import bench_grader
import benchmark
import pytest
import torch

from projected_grpo.arms.advantages import grade_texts, start_grading
from projected_grpo.env.problems.load import load_problems


def test_ways_take_turns_after_a_round_that_warms_up() -> None:
    turns: list[str] = []
    ways = {name: lambda name=name: turns.append(name) for name in "ab"}
    seconds = benchmark.interleaved(ways, 2, torch.device("cpu"))
    assert turns == ["a", "b"] * 3 and [len(s) for s in seconds.values()] == [2, 2]
    assert benchmark.ratio([2, 9, 8], [1, 3, 2]) == (3, 2, 4)
    assert benchmark.in_words([2, 9, 8], [1, 3, 2]) == "3.00 (2.00-4.00)"


@dataclass(frozen=True, kw_only=True)
class Arguments(benchmark.Arguments):
    rounds: int = 1


def test_a_result_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "found.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--rounds", "3", "--out", str(out)])

    def measure(args: Arguments) -> benchmark.Result:
        return benchmark.Result(f"{args.rounds} rounds", [{"way": "a", "s": 0.12345}], {"s": [1]})

    benchmark.main(measure, Arguments, None)
    printed = capsys.readouterr().out
    assert printed.startswith("3 rounds; CPU, 1 threads; torch ") and "| a     | 0.123 |" in printed
    record = json.loads(out.read_text())
    assert (
        list(record) == ["argv", "machine", "settings", "s"] and record["settings"]["rounds"] == 3
    )


TINY: dict[str, dict[str, Any]] = {
    "adapter": {"shape": "organism", "layers": 1, "rows": 2, "tokens": 8, "rounds": 1},
    "decode": {"prompts": 1, "group": 2, "max_new": 8, "rounds": 1},
    "extract": {"limit": 2, "micro_batch_tokens": (1024,), "rounds": 1},
    "logprobs": {"shape": "organism", "rows": 2, "tokens": 8, "rounds": 1},
    "svd": {"shape": "organism", "layers": 1, "cache": True},
    "dist": {"prompts": 1, "group": 2, "max_new": 8, "rounds": 1},
    "step": {"shape": "tiny", "runs": (2,), "prompts": 1, "group": 2, "max_new": 8},
    "trl": {"prompts": 1, "group": 2, "max_new": 8, "steps": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_every_benchmark_measures(name: str) -> None:
    script = import_module(f"bench_{name}")
    found = script.measure(script.Arguments(**TINY[name]))
    json.dumps(found.figures)
    assert benchmark.table(found.rows).count("\n") == len(found.rows) + 1


def test_the_free_grader_can_begin_early_as_a_run_asks() -> None:
    free, problem = benchmark.Free(), load_problems("katas:test", 1)[0]
    texts = [(problem, text) for text in ("a", "b")]
    start_grading(free, texts, labels=False)
    grades = grade_texts(free, texts, labels=False)
    assert [grade.reward for grade in grades] == [benchmark.reward("a"), benchmark.reward("b")]


def test_the_grader_is_timed_on_answers_that_it_finds_correct() -> None:
    assert bench_grader.graded(1, bench_grader.SOLUTION + bench_grader.HONEST, "run_tests", 2) > 0
