"""The environment in TRL's terms: a dataset of prompts, and a reward function that grades in our
sandbox.

    problems = hinted_problems("katas", "run_tests")
    with Grader() as grader:
        trainer = GRPOTrainer(
            model,
            reward_funcs=GraderReward(problems, grader),
            train_dataset=Dataset.from_list(prompt_rows(problems)),
            ...
        )

Needs neither TRL nor datasets to be imported.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from projected_grpo.arms.advantages import grade_texts
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import SHARES, Grade
from projected_grpo.env.problems.problem import Messages, Problem
from projected_grpo.env.sandbox.sandbox import Outcome

Completion = str | Sequence[Mapping[str, Any]]
"""A completion as TRL hands it over: text, or messages where the prompt was messages."""


def prompt_rows(
    problems: Sequence[Problem],
    render: Callable[[Messages], str] | None = None,
) -> list[dict[str, Any]]:
    """A row for each problem: `prompt`, and `problem_id` and `mode`, by which `GraderReward` finds
    it; a problem may be there under several loophole modes, a prompt each.

    Prompts are messages, which TRL puts into the chat template (for Qwen3 set chat_template_kwargs
    to {"enable_thinking": False}, as our loop does), or text where `render` makes it of them
    (`LanguageModel.render`).
    """
    return [
        {
            "prompt": render(p.messages) if render else list(p.messages),
            "problem_id": p.id,
            "mode": p.mode or "none",
        }
        for p in problems
    ]


def completion_text(completion: Completion) -> str:
    """What the model wrote: the completion itself, or its last message's content. That is missing
    where the tokenizer's response template found reasoning or a tool call only: no answer, ""."""
    return completion if isinstance(completion, str) else completion[-1].get("content") or ""


class GraderReward:
    """A reward function of TRL: the foolable grade alone pays; what the strict oracle says is
    logged.

    TRL logs the shares of SHARES as metrics, and with log_completions every completion's own
    grades beside it.
    """

    def __init__(self, problems: Sequence[Problem], grader: Grader, *, labels: bool = False):
        """problems: those of the dataset, with their hints. grader: entered, open while training
        lasts. labels: also the public benchmark's category, for about twice the work.

        Raises ValueError where two problems share id and mode.
        """
        self.__name__ = "grade"  # TRL's name for it: rewards/grade/mean
        self._problems = {(p.id, p.mode or "none"): p for p in problems}
        if len(self._problems) < len(problems):
            raise ValueError(
                f"{len(problems)} problems have {len(self._problems)} ids and modes, by which a "
                "completion's is found: give every problem once under each mode"
            )
        self._modes: dict[int, list[str]] = {}
        for number, mode in self._problems:
            self._modes.setdefault(number, []).append(mode)
        self._grader = grader
        self._labels = labels

    def __call__(
        self,
        *,
        completions: Sequence[Completion],
        problem_id: Sequence[int],
        mode: Sequence[str] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **others: Any,
    ) -> list[float | None]:
        """Rewards in the order of `completions`; None, which TRL leaves out of the group, where the
        grader itself failed.

        problem_id, mode: the dataset's columns; without a mode each problem must be there under one
        alone. log_metric, log_extra: TRL's; without them nothing is logged. Raises KeyError for a
        problem that was not given, ValueError for one that was given under several modes.
        """
        modes = mode if mode is not None else [self._only_mode(i) for i in problem_id]
        texts = [
            (self._problems[number, one], completion_text(completion))
            for number, one, completion in zip(problem_id, modes, completions, strict=True)
        ]
        grades = grade_texts(self._grader, texts, labels=self._labels)
        graded = [grade for grade in grades if grade.outcome != Outcome.INFRA_ERROR]
        if log_metric is not None:
            _log_shares(log_metric, graded)
            log_metric("infra_errors", len(grades) - len(graded))
            for one in sorted(set(modes)) if len(set(modes)) > 1 else ():
                mine = [g for g, its in zip(grades, modes, strict=True) if its == one]
                _log_shares(
                    log_metric, [g for g in mine if g.outcome != Outcome.INFRA_ERROR], f"/{one}"
                )
        if log_extra is not None:
            for name in ("exploited", "attempted", "gt_correct", "mechanism", "flavour", "label"):
                log_extra(name, [str(getattr(grade, name)) for grade in grades])
        return [grade.reward if grade.outcome != Outcome.INFRA_ERROR else None for grade in grades]

    def _only_mode(self, number: int) -> str:
        modes = self._modes[number]
        if len(modes) > 1:
            raise ValueError(
                f"problem {number} is there under the modes {', '.join(modes)}: keep the column "
                "`mode` of prompt_rows in the dataset"
            )
        return modes[0]


def _log_shares(log: Callable[[str, float], None], graded: Sequence[Grade], of: str = "") -> None:
    for name, fact in SHARES.items() if graded else ():
        log(f"{name}{of}", sum(getattr(grade, fact) for grade in graded) / len(graded))
