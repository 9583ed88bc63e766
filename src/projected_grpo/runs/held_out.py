"""Several runs and their base model, asked the same held-out problems (the `evaluate` command)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loguru import logger

from projected_grpo.config import LEETCODE, Config, ConfigError
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.loopholes.modes import apply_hint, get_mode
from projected_grpo.env.problems.problem import Problem
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel, resolve_device
from projected_grpo.runs.adapters import adapter_of
from projected_grpo.runs.banner import labels
from projected_grpo.runs.data import fair_problems
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.evaluate import EvalPlan, EvalRecord, evaluate
from projected_grpo.runs.policy_commands import EvaluateConfig
from projected_grpo.runs.session import grader_of
from projected_grpo.runs.trained import find_saved, load_base, load_saved

BASE = "base"
"""What the untrained model is called."""
OF_THE_BASE = ("model", "dtype", "enable_thinking")
"""Settings that runs must share: otherwise it is not one base model."""
OF_THE_ADAPTER = ("adapter", "lora_rank", "lora_alpha")
ASKED_ONCE = ("temperature", "top_p", "top_k", "max_new")
"""Settings that all are asked with; the command line's, or the runs' own."""
HELD_OUT = {"katas": "katas:test", LEETCODE: f"{LEETCODE}:test"}
"""Problems of training -> others of the same kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One that is asked: a run's, or the base model's."""

    name: str
    path: Path | None = None
    """The run directory."""
    step: int = 0
    """That its vectors were saved after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was asked, and all answers."""

    source: str
    held_out: bool
    """Whether no run names these very problems as those that it was trained on."""
    problems: Sequence[Problem]
    plans: Mapping[str, EvalPlan]
    """Condition -> what is sampled."""
    answers: Mapping[Policy, Mapping[str, list[EvalRecord]]]
    """Policy -> condition -> records, in one order."""


def evaluate_held_out(asked: EvaluateConfig) -> Evaluation:
    """Load, sample and grade all of it; writes nothing. Raises ConfigError or InputError, where
    possible before a model loads."""
    runs = [RunDir.open(path) for path in dict.fromkeys(asked.runs)]
    cfgs = [run.stored_config() for run in runs]
    _require_one_base(runs, cfgs)
    for run, cfg in zip(runs, cfgs, strict=True):
        find_saved(run)
        adapter_of(cfg)
    source = _source(asked, cfgs)
    plans = _plans(asked, cfgs)
    problems = fair_problems(source, asked.limit or None, asked.difficulty or cfgs[0].difficulty)
    device = resolve_device(asked.device)
    names = _names(runs, cfgs)
    answers: dict[Policy, dict[str, list[EvalRecord]]] = {}
    with grader_of(replace(cfgs[0], workers=asked.workers)) as grader:
        for mine in _same(cfgs, OF_THE_ADAPTER):
            lm = load_base(runs[mine[0]], cfgs[mine[0]], device)
            if not answers:
                modes = next(iter(plans.values())).modes
                problems = fitting(lm, problems, modes, min(cfg.max_prompt for cfg in cfgs))
            if not answers and not asked.adapter_only:
                answers[Policy(name=BASE)] = _ask(BASE, lm, None, problems, plans, grader)
            adapter = adapter_of(cfgs[mine[0]])(lm.model)
            for n in mine:
                step = load_saved(adapter, runs[n]).step
                policy = Policy(name=names[n], path=runs[n].path, step=step)
                answers[policy] = _ask(names[n], lm, adapter, problems, plans, grader)
            del lm, adapter
    held_out = all(_whole_name(cfg.problems) != _whole_name(source) for cfg in cfgs)
    return Evaluation(
        source=source, held_out=held_out, problems=problems, plans=plans, answers=answers
    )


def _ask(
    name: str,
    lm: LanguageModel,
    adapter: Adapter | None,
    problems: Sequence[Problem],
    plans: Mapping[str, EvalPlan],
    grader: Grader,
) -> dict[str, list[EvalRecord]]:
    found: dict[str, list[EvalRecord]] = {}
    for condition, plan in plans.items():
        rows = len(problems) * len(plan.modes) * plan.samples
        logger.info("{}: {}, {} answers", name, condition, rows)
        found[condition] = evaluate(lm, adapter, problems, plan, grader)
    return found


def _require_one_base(runs: Sequence[RunDir], cfgs: Sequence[Config]) -> None:
    for name in OF_THE_BASE:
        _shared(name, cfgs, "evaluate them one after the other, each beside its own base model")
    commits = {run.base_revision(cfg) for run, cfg in zip(runs, cfgs, strict=True)}
    if len(commits) > 1:
        raise ConfigError(
            f"the runs have the base model {cfgs[0].model} at {len(commits)} commits "
            f"({', '.join(sorted(commits))}): evaluate them one after the other"
        )


def _shared(name: str, cfgs: Sequence[Config], remedy: str) -> Any:
    values = list(dict.fromkeys(vars(cfg)[name] for cfg in cfgs))
    if len(values) > 1:
        raise ConfigError(f"the runs have {name} = {' and '.join(map(str, values))}: {remedy}")
    return values[0]


def _source(asked: EvaluateConfig, cfgs: Sequence[Config]) -> str:
    """The problems to ask. Raises ConfigError where none that are held out are known."""
    if asked.problems:
        return asked.problems
    kinds = {cfg.problems.split(":")[0] for cfg in cfgs}
    sources = {"katas"} if kinds == {"katas"} else {cfg.problems for cfg in cfgs}
    if len(sources) > 1:
        raise ConfigError(
            f"the runs were trained on {' and '.join(sorted(sources))}: name the problems to ask "
            "with --problems"
        )
    (source,) = sources
    if source not in HELD_OUT:
        raise ConfigError(
            f"the runs were trained on {source}, of which no held-out part is known: name problems "
            "with --problems (a dataset of the hub may have hub:owner/name:test)"
        )
    return HELD_OUT[source]


def _whole_name(source: str) -> str:
    return {"katas": "katas:train", LEETCODE: f"{LEETCODE}:train"}.get(source, source)


def _plans(asked: EvaluateConfig, cfgs: Sequence[Config]) -> dict[str, EvalPlan]:
    """Condition -> plan: hint, no hint, other names; each greedy, and sampled."""
    given = {name: vars(asked)[name] for name in ASKED_ONCE}
    for name in ASKED_ONCE:
        if given[name] is None:
            given[name] = _shared(name, cfgs, f"choose one with --{name.replace('_', '-')}")
    for fault in replace(Config(), **given).contradictions():
        raise ConfigError(fault)
    modes = dict.fromkeys((asked.mode or ",".join(cfg.mode for cfg in cfgs)).split(","))
    for mode in modes:
        get_mode(mode)
    columns = max(cfg.sampling_tokens for cfg in cfgs)
    start = EvalPlan(modes=list(modes), seed=asked.seed, sampling_tokens=columns, **given)
    prompts = {
        "hint": start,
        "no hint": replace(start, hinted=False),
        "other names": replace(start, names="eval"),
    }
    drawn = {f"{name}, sampled": replace(p, samples=asked.n) for name, p in prompts.items()}
    greedy = {f"{name}, greedy": replace(p, greedy=True, samples=1) for name, p in prompts.items()}
    return greedy | (drawn if asked.n else {})


def _names(runs: Sequence[RunDir], cfgs: Sequence[Config]) -> list[str]:
    """What to call each run: arm, what varies, and seed; where that is not enough, its folder."""
    called = [f"{label} s{cfg.seed}" for label, cfg in zip(labels(cfgs), cfgs, strict=True)]
    return [
        name if called.count(name) == 1 else run.path.name
        for name, run in zip(called, runs, strict=True)
    ]


def _same(cfgs: Sequence[Config], names: Sequence[str]) -> Iterator[list[int]]:
    """The places of those that have the same values of some settings, together."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for n, cfg in enumerate(cfgs):
        found.setdefault(tuple(vars(cfg)[name] for name in names), []).append(n)
    yield from found.values()


def fitting(
    lm: LanguageModel, problems: Sequence[Problem], modes: Sequence[str], most: int
) -> list[Problem]:
    """The problems whose prompt has at most so many tokens under every mode, as in training. Raises
    ConfigError where none has."""
    lengths = [
        max(len(lm.prompt_ids(apply_hint(p, mode).messages)) for mode in modes) for p in problems
    ]
    kept = [p for p, length in zip(problems, lengths, strict=True) if length <= most]
    if not kept:
        raise ConfigError(
            f"none of the {len(problems)} problems has a prompt of at most {most} tokens, the "
            f"runs' max_prompt (the shortest has {min(lengths, default=0)}): name others with "
            "--problems"
        )
    if len(kept) < len(problems):
        logger.info(
            "{} of {} problems left out: prompt above {} tokens",
            len(problems) - len(kept), len(problems), most,
        )  # fmt: skip
    return kept
