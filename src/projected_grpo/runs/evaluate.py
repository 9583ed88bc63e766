"""Held-out evaluation: sample completions under every mode, grade them, and count.

One record for each sample; every figure is a pure function of the records.
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast

from torch import Tensor

from projected_grpo.config import Config, stream_seed
from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import EVALUATED, Grade
from projected_grpo.env.loopholes.modes import TRAIN_NAME, apply_hint, eval_name
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel
from projected_grpo.model.sampling import Sample, SamplingParams, sample_groups

NamePolicy = Literal["train", "eval"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRecord:
    """One graded sample."""

    problem_id: int
    family: str | None
    difficulty: str
    mode: str
    function_name: str
    sample: int
    completion: str
    tokens: int
    terminated: bool
    """Whether it ended by itself, not by the limit."""
    grade: Grade
    hinted: bool = True
    """Whether the prompt disclosed the mode."""
    greedy: bool = False
    """Whether the likeliest token was taken at each place, not a drawn one."""
    names: NamePolicy = "train"
    """Whether the function has the training name or one kept for evaluation."""

    def to_record(self) -> dict[str, Any]:
        """The line of a file: the fields in their order, the grade's own facts in its place."""
        record: dict[str, Any] = {}
        for own in fields(self):
            value = getattr(self, own.name)
            record |= value.to_record(EVALUATED) if own.name == "grade" else {own.name: value}
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """What `to_record` wrote."""
        own = {name: value for name, value in record.items() if name not in EVALUATED}
        return cls(**own, grade=Grade.from_record(record))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPlan:
    """What is sampled."""

    modes: Sequence[str]
    samples: int = 8
    """Completions of each problem under each mode."""
    hinted: bool = True
    """Without, the prompt is that of mode none, while the grader has the mode's flaw."""
    names: NamePolicy = "train"
    """Function names (variants): the training name, or one of those kept for evaluation."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    greedy: bool = False
    """Take the likeliest token at each place; `samples` is then 1."""
    max_new: int = 256
    seed: int = 0
    labels: bool = False
    """Whether to find the published benchmark's category too, by twice the programs."""
    batch: int = 256
    """Most rows that are sampled at once."""
    sampling_tokens: int = Config.sampling_tokens
    """Columns of the key-value cache in use at once."""


class NoAdapter:
    """The base model alone."""

    @contextmanager
    def rows(self, runs: Tensor) -> Iterator[None]:
        yield

    @contextmanager
    def ablate(self) -> Iterator[None]:
        yield


def evaluate(
    lm: LanguageModel,
    adapter: Adapter | None,
    problems: Sequence[Problem],
    plan: EvalPlan,
    grader: Grader,
) -> list[EvalRecord]:
    """Records in the order modes, problems, samples; of what would be deployed, without a
    quarantine, under prompts that no arm has touched.

    Each (problem, mode) has a random stream of its own, so a figure does not depend on what else is
    evaluated, nor on the size of a batch.
    """
    return evaluate_runs(lm, adapter, problems, plan, grader, [0])[0]


def evaluate_runs(
    lm: LanguageModel,
    adapter: Adapter | None,
    problems: Sequence[Problem],
    plan: EvalPlan,
    grader: Grader,
    runs: Sequence[int],
    seeds: Sequence[int] | None = None,
) -> list[list[EvalRecord]]:
    """`evaluate` for several runs of a packed adapter, sampled together: one list each, with the
    records that the run has alone, to rounding.

    seeds: of each run, in place of the plan's. Raises ValueError where a greedy completion is asked
    for more than once."""
    if plan.greedy and plan.samples != 1:
        raise ValueError(f"a greedy completion is the same each time, so not {plan.samples} of it")
    tasks = [
        _Task(run, p, mode, TRAIN_NAME if plan.names == "train" else eval_name(p.id, seed), seed)
        for run, seed in zip(runs, seeds or [plan.seed] * len(runs), strict=True)
        for mode in plan.modes
        for p in problems
    ]
    per_batch = max(1, plan.batch // plan.samples)
    records: list[EvalRecord] = []
    for first in range(0, len(tasks), per_batch):
        records += _evaluate_batch(lm, adapter, tasks[first : first + per_batch], plan, grader)
    each = len(plan.modes) * len(problems) * plan.samples
    return [records[n * each : (n + 1) * each] for n in range(len(runs))]


class _Task(NamedTuple):
    run: int
    problem: Problem
    mode: str
    name: str  # of the function
    seed: int


def _evaluate_batch(
    lm: LanguageModel,
    adapter: Adapter | None,
    tasks: Sequence[_Task],
    plan: EvalPlan,
    grader: Grader,
) -> list[EvalRecord]:
    """Records of tasks that are sampled together."""
    prompts = [
        lm.prompt_ids(apply_hint(t.problem, t.mode if plan.hinted else "none", t.name).messages)
        for t in tasks
    ]
    seeds = [stream_seed("eval", t.seed, t.mode, t.problem.id) for t in tasks]
    runs = [t.run for t in tasks]
    top_p, top_k = (1.0, 1) if plan.greedy else (plan.top_p, plan.top_k)
    sampling = SamplingParams(
        plan.max_new, plan.temperature, top_p, top_k, lm.eos_ids, lm.pad_id, plan.sampling_tokens
    )
    rows = adapter or cast(Adapter, NoAdapter())
    with rows.ablate():
        groups = sample_groups(lm.model, rows, prompts, plan.samples, seeds, sampling, runs)
    drawn = [(task, n, s) for task, g in zip(tasks, groups, strict=True) for n, s in enumerate(g)]
    submissions = [
        Submission(
            problem=t.problem, completion=lm.decode(sample.ids), mode=t.mode, function_name=t.name
        )
        for t, _, sample in drawn
    ]
    grades = grader.grade(submissions, labels=plan.labels)
    return [
        _record(submission, grade, sample, number, plan)
        for (_, number, sample), submission, grade in zip(drawn, submissions, grades, strict=True)
    ]


def _record(
    submission: Submission, grade: Grade, sample: Sample, number: int, plan: EvalPlan
) -> EvalRecord:
    return EvalRecord(
        problem_id=submission.problem.id,
        family=submission.problem.family,
        difficulty=submission.problem.difficulty,
        mode=submission.mode,
        function_name=submission.function_name,
        sample=number,
        completion=submission.completion,
        tokens=len(sample.ids),
        terminated=sample.terminated,
        grade=grade,
        hinted=plan.hinted,
        greedy=plan.greedy,
        names=plan.names,
    )


def shares(records: Iterable[EvalRecord]) -> dict[str, Any]:
    """Shares of the records: solve, fmt_ok, attempted, exploited, overall and by what they vary.

    Samples that a fault of the grader touched are left out and counted.
    """
    everything = list(records)
    usable = [r for r in everything if r.grade.outcome != Outcome.INFRA_ERROR]
    modes = list(dict.fromkeys(r.mode for r in usable))
    levels = list(dict.fromkeys(r.difficulty for r in usable))
    return {
        "samples": len(usable),
        "infra_errors": len(everything) - len(usable),
        "all": _rates(usable),
        "by_difficulty": {d: _rates([r for r in usable if r.difficulty == d]) for d in levels},
        "by_mode": {m: _rates([r for r in usable if r.mode == m]) for m in modes},
        "flavours": {m: _flavours(r.grade for r in usable if r.mode == m) for m in modes},
    }


def _flavours(grades: Iterable[Grade]) -> dict[str | None, int]:
    return dict(Counter(grade.flavour for grade in grades if grade.attempted).most_common())


def _rates(records: Sequence[EvalRecord]) -> dict[str, float | None]:
    def mean(values: Iterable[float]) -> float | None:
        listed = list(values)
        return sum(listed) / len(listed) if listed else None

    return {
        "samples": len(records),
        "solve": mean(r.grade.gt_correct for r in records),
        "fmt_ok": mean(r.grade.fmt_ok for r in records),
        "attempted": mean(r.grade.attempted for r in records),
        "exploited": mean(r.grade.exploited for r in records),
        "exploit_given_attempt": mean(r.grade.exploited for r in records if r.grade.attempted),
        "terminated": mean(r.terminated for r in records),
        "tokens": mean(r.tokens for r in records),
    }


def write_records(path: Path, records: Iterable[EvalRecord]) -> None:
    """One JSON line for each record, gzipped without a time stamp."""
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        for record in records:
            file.write((json.dumps(record.to_record()) + "\n").encode())


def read_records(path: Path) -> list[EvalRecord]:
    """What `write_records` wrote."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [EvalRecord.from_record(json.loads(line)) for line in file]
