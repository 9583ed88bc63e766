"""Finished runs of the experiment, asked held-out problems; each into its own directory."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bases import HeldOut
from collect_rows import EVALUATED
from loguru import logger
from plans import MODES

from projected_grpo.config import Config
from projected_grpo.model.load import DTYPES, load, resolve_device
from projected_grpo.runs.adapters import adapter_of
from projected_grpo.runs.data import fair_problems
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.evaluate import EvalPlan, EvalRecord, evaluate_runs, write_records
from projected_grpo.runs.held_out import fitting
from projected_grpo.runs.session import grader_of

EVALUATED_HOW = "eval.json"
"""Beside a run's `EVALUATED`: what was asked for."""
HONEST = "none"
"""The mode without a loophole. A run in it is asked under `ASKED`, as those that it is compared
with."""
ASKED = "run_tests"

Conditions = Callable[[EvalPlan], list[EvalPlan]]


def all_ways(start: EvalPlan) -> list[EvalPlan]:
    """The trained modes with hint (sampled, greedy, and sampled under function names kept for this)
    and without, and the others with it."""
    others = [mode for mode in MODES if mode not in start.modes]
    found = [start, replace(start, greedy=True, samples=1), replace(start, names="eval")]
    found.append(replace(start, hinted=False))
    return found + ([replace(start, modes=others)] if others else [])


def as_deployed(start: EvalPlan) -> list[EvalPlan]:
    """With the hint, under function names never trained; and without it. A prompt without it names
    no function, so the grader looks for the trained name: a habit shows."""
    modes = [ASKED if mode == HONEST else mode for mode in start.modes]
    asked = replace(start, modes=modes)
    return [replace(asked, names="eval"), replace(asked, hinted=False)]


CONDITIONS: dict[str, Conditions] = {"all": all_ways, "deployed": as_deployed}
"""HeldOut.conditions -> what is asked."""


def eval_plans(cfg: Config, held_out: HeldOut, batch: int) -> list[EvalPlan]:
    """What one run is asked, sampled as in training."""
    start = EvalPlan(
        modes=cfg.mode.split(","), samples=held_out.samples, temperature=cfg.temperature,
        top_p=cfg.top_p, top_k=cfg.top_k, max_new=cfg.max_new, batch=batch,
        sampling_tokens=cfg.sampling_tokens, seed=cfg.seed,
    )  # fmt: skip
    return CONDITIONS[held_out.conditions](start)


def what_is_evaluated(cfg: Config, held_out: HeldOut) -> dict[str, Any]:
    """What an evaluation is recognised by: all that decides its records beside the run."""
    left_out = ("batch", "sampling_tokens")
    plans = [
        {k: v for k, v in asdict(plan).items() if k not in left_out}
        for plan in eval_plans(cfg, held_out, 1)
    ]
    about: dict[str, Any] = {"problems": held_out.problems, "plans": plans}
    if held_out.source != HeldOut.source:  # which earlier evaluations do not name
        about["source"] = digest_of(held_out.source)
    return about


def digest_of(source: str) -> str:
    """A file of problems by its content, wherever it lies; any other source by its name."""
    path = Path(source)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else source


def is_evaluated(path: Path, cfg: Config, held_out: HeldOut) -> bool:
    """Has the run been evaluated as is asked now?"""
    about = path / EVALUATED_HOW
    if not about.is_file() or not (path / EVALUATED).is_file():
        return False
    return json.loads(about.read_text(encoding="utf-8")) == what_is_evaluated(cfg, held_out)


def evaluate_pack(paths: Sequence[Path], cfgs: Sequence[Config], held_out: HeldOut) -> None:
    """Evaluate finished runs of one model together, each into its own directory. It is what would
    be deployed: without a quarantine, under prompts that no arm has touched. Raises ConfigError
    where no problem is short enough."""
    cfg, started = cfgs[0], time.perf_counter()
    make = adapter_of(cfg, len(paths))
    problems = fair_problems(held_out.source, held_out.problems)
    device = resolve_device(cfg.device)
    lm = load(
        cfg.model,
        revision=RunDir.open(paths[0]).base_revision(cfg),
        dtype=DTYPES[cfg.dtype],
        device=device,
        enable_thinking=cfg.enable_thinking,
    )
    adapter = make(lm.model)
    for n, path in enumerate(paths):
        adapter.load(RunDir.open(path).adapter / "adapter.safetensors", n)
    records: list[list[EvalRecord]] = [[] for _ in paths]
    asked = eval_plans(cfg, held_out, len(paths) * cfg.prompts_per_step * cfg.group)  # as a step
    problems = fitting(lm, problems, sorted({m for p in asked for m in p.modes}), cfg.max_prompt)
    streams = [one.seed for one in cfgs]
    with grader_of(cfg) as grader:
        for plan in asked:
            found = evaluate_runs(lm, adapter, problems, plan, grader, range(len(paths)), streams)
            for mine, new in zip(records, found, strict=True):
                mine += new
    for path, one, mine in zip(paths, cfgs, records, strict=True):
        # first gone and last made: it never lies beside records that are not of it
        (path / EVALUATED_HOW).unlink(missing_ok=True)
        aside = path / f".{EVALUATED}"
        write_records(aside, mine)
        aside.replace(path / EVALUATED)
        aside.write_text(json.dumps(what_is_evaluated(one, held_out)) + "\n", encoding="utf-8")
        aside.replace(path / EVALUATED_HOW)
    seconds = time.perf_counter() - started
    logger.info(
        "evaluated {} runs, {} samples each, {:.0f} s", len(paths), len(records[0]), seconds
    )
