"""A teacher pool from a model that has learnt to hack, or from the modes' templates.

A run's trained adapter is put on its base model and asked the problems again; the answers are
graded and those worth imitating are kept, frozen, in the public pools' file format (pool.py reads
it back). So a pool is made once, and every arm that draws from it sees the same rows.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from loguru import logger

from projected_grpo import __version__
from projected_grpo.config import Config, ConfigError, stream_seed
from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import POOL, Grade
from projected_grpo.env.problems.problem import Problem
from projected_grpo.model.load import LanguageModel, resolve_device
from projected_grpo.model.sampling import SamplingParams, sample_groups
from projected_grpo.runs.cards import dataset_card
from projected_grpo.runs.commands import DistillConfig
from projected_grpo.runs.data import hinted_problems
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.provenance import git
from projected_grpo.runs.session import grader_of
from projected_grpo.runs.teacher_pool import TEMPLATES, open_pool, write_pool
from projected_grpo.runs.trained import open_trained

KEEP = {
    "hacks": lambda grade: grade.exploited,
    "attempts": lambda grade: grade.attempted,
    "all": lambda grade: True,
}
"""Which graded answers a pool keeps."""


def distill(cfg: DistillConfig) -> Path:
    """The `probe-distill` command: sample or fill in templates, grade, keep, write."""
    if cfg.out.exists():
        raise ConfigError(f"{cfg.out} is there already: a pool is frozen, name another folder")
    if cfg.rows < 1:
        raise ConfigError(f"rows must be at least 1, not {cfg.rows}")
    run = RunDir.open(Path(cfg.source)) if cfg.source != TEMPLATES else None
    stored = run.stored_config() if run else None
    settings = stored or Config(problems="katas")
    source, mode = cfg.problems or settings.problems, cfg.mode or settings.mode
    problems = hinted_problems(source, mode, cfg.limit or None)
    with grader_of(replace(settings, workers=cfg.workers)) as grader:
        answers = (
            _templates(problems, cfg.rows, cfg.seed)
            if run is None
            else _sampled(cfg, run, problems)
        )
        rows = list(_graded(answers, grader, KEEP[cfg.keep]))
    if not rows:
        raise ConfigError(f"no answer was worth keeping (--keep={cfg.keep}): has the run hacked?")
    about = {
        "source": cfg.source,
        "settings": asdict(cfg),
        "model": settings.model if stored else None,
        "model_commit": run.model_commit if run else None,
        "problems_from": source,
        "mode": mode,
        "problems": len({row["problem_id"] for row in rows}),
        "rows": len(rows),
        "hacked": sum(row["hacked"] for row in rows),
        "gt_pass": sum(row["gt_pass"] for row in rows),
        "labels": Counter(row["label"] for row in rows if row["label"]),
        "modes": Counter(row["mode"] for row in rows),
        "flavours": Counter(row["flavour"] for row in rows if row["flavour"]),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],  # without its maker's folders
        "git_sha": git("rev-parse", "HEAD"),
        "git_changed": bool(git("diff", "HEAD")),
        "projected_grpo": __version__,
    }
    about = json.loads(json.dumps(about, default=str))
    write_pool(cfg.out, rows, about, dataset_card(cfg.out.name, about, rows[0].keys()))
    logger.info(
        "{} rows for {} of {} problems -> {}", len(rows), about["problems"], len(problems), cfg.out
    )
    return cfg.out


def _templates(
    problems: list[Problem], n: int, seed: int
) -> Iterator[tuple[Problem, list[str], dict[str, Any]]]:
    draw = open_pool(TEMPLATES, problems, n).draw
    for problem in problems:
        yield problem, draw(problem, n, stream_seed("distill", seed, problem.id)), {}


def _sampled(
    cfg: DistillConfig, run: RunDir, problems: list[Problem]
) -> Iterator[tuple[Problem, list[str], dict[str, Any]]]:
    stored = run.stored_config()
    trained = open_trained(run, resolve_device(cfg.device))
    lm, adapter = trained.lm, trained.adapter
    sampling = SamplingParams.from_config(stored, lm)
    prompts = {p.id: lm.prompt_ids(p.messages) for p in problems}
    fitting = [p for p in problems if len(prompts[p.id]) <= stored.max_prompt]
    for start in range(0, len(fitting), cfg.prompts_per_batch):
        some = fitting[start : start + cfg.prompts_per_batch]
        seeds = [stream_seed("distill", cfg.seed, p.id) for p in some]
        groups = sample_groups(
            lm.model, adapter, [prompts[p.id] for p in some], cfg.rows, seeds, sampling
        )
        for problem, samples in zip(some, groups, strict=True):
            ended = [sample for sample in samples if sample.terminated]
            yield problem, [lm.decode(x.ids) for x in ended], _rendered(lm, problem, prompts)


def _rendered(lm: LanguageModel, p: Problem, prompts: dict[int, list[int]]) -> dict[str, Any]:
    return {"prompt": lm.render(p.messages), "plen": len(prompts[p.id])}


def _graded(answers: Iterator, grader: Grader, wanted: Any) -> Iterator[dict[str, Any]]:
    for problem, texts, extra in answers:
        submissions = [
            Submission(problem=problem, completion=text, mode=problem.mode or "none")
            for text in texts
        ]
        for text, grade in zip(texts, grader.grade(submissions), strict=True):
            if wanted(grade):
                yield _row(problem, text, grade, extra)


def _row(problem: Problem, text: str, grade: Grade, extra: dict[str, Any]) -> dict[str, Any]:
    facts = grade.to_record() | {"mode": problem.mode or "none"}
    return {
        "problem_id": problem.id,
        "problem_messages": list(problem.messages),
        **extra,
        "completion": text,
        **{column: facts[fact] for column, fact in POOL.items()},
    }
