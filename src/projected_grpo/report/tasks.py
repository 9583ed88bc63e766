"""The prompts and hidden tests of the rollouts that a report shows.

No run stores them: rollouts.jsonl names the problem and its mode, config.json where problems come
from, and they are read from there again. The run's prompt.txt tells whether they are still the
same.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.prompts import PROMPTS
from projected_grpo.config import stored_config
from projected_grpo.env.errors import InputError
from projected_grpo.env.loopholes.modes import TRAIN_NAME, apply_hint
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import Problem, render_assert

MOST_TESTS, MOST_CHARS = 12, 240
"""Hidden tests of a problem that are shown, and characters of each."""


@dataclass(frozen=True)
class RolloutTask:
    """What a rollout answers."""

    messages: tuple[tuple[str, str], ...]
    """The prompt as it is trained on, before the chat template: (role, text)."""
    tests: tuple[str, ...]
    """The first hidden tests."""
    hidden: int
    """All of them."""


def tasks_of(path: Path, groups: Iterable[Sequence[Mapping[str, Any]]]) -> dict[str, RolloutTask]:
    """problem id and mode (`task_key`) -> task of the groups' rows of a run directory. Raises
    InputError, which says why, where they cannot be had or are no longer what the run trained
    on."""
    rows = [row for group in groups for row in group]
    if not rows:
        return {}
    try:
        text = (path / "config.json").read_text(encoding="utf-8")
        cfg = stored_config(text)
        about = json.loads((path / "run.json").read_text(encoding="utf-8"))
        rendered = (path / "prompt.txt").read_text(encoding="utf-8")
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(f"its settings cannot be read ({error})") from error
    known = problems_of(pinned(cfg.problems, about.get("data_commit")))
    change = PROMPTS[ARMS[cfg.arm].prompt]
    found: dict[str, RolloutTask] = {}
    for row in rows:
        key = task_key(row)
        if key in found or row["problem_id"] not in known:
            continue
        problem = apply_hint(known[row["problem_id"]], row["mode"] or "none", TRAIN_NAME)
        turns = tuple((m["role"], m["content"]) for m in change(problem.messages, cfg))
        found[key] = RolloutTask(turns, shown(problem), len(problem.cases))
    first = found.get(task_key(rows[0]))  # prompt.txt is that of the first group, which is kept
    if first is None or not all(text.strip() in rendered for _, text in first.messages):
        raise InputError(f"{cfg.problems} no longer has the run's first prompt (prompt.txt)")
    return found


def task_key(row: Mapping[str, Any]) -> str:
    """What tells the tasks of one run apart."""
    return f"{row['problem_id']}/{row['mode']}"


def pinned(source: str, commit: str | None) -> str:
    """A source of problems at the commit that the run read it at."""
    if commit is None or not source.startswith("hub:"):
        return source
    name, _, split = source.partition(":")[2].partition(":")
    return f"hub:{name.partition('@')[0]}@{commit}" + (f":{split}" if split else "")


@cache  # the runs of a report mostly share it
def problems_of(source: str) -> Mapping[int, Problem]:
    """id -> problem. Raises InputError where the source cannot be read."""
    return {problem.id: problem for problem in load_problems(source)}


def shown(problem: Problem) -> tuple[str, ...]:
    """The first hidden tests as asserts, long ones cut."""
    texts = (render_assert(problem, case) for case in problem.cases[:MOST_TESTS])
    return tuple(f"{t[:MOST_CHARS]} ..." if len(t) > MOST_CHARS else t for t in texts)
