"""Run a plan of the experiment: its variants x seeds in packs, evaluated, with one file of rows.

    python scripts/experiment/experiment.py confirm --seeds 1 2 3 4 --device cuda --out runs/confirm

Runs lie in OUT/runs, rows in OUT/<base>_<plan>.jsonl.gz. The same command again goes on where the
last one ended: runs that are finished are not run again, those not yet evaluated (or not as is
asked now) are evaluated. Those that were stopped go on from their newest checkpoint, and begin
again where they have none. Rows are written after each pack, and when the command is stopped: those
of all runs that were ever asked for of the plan in OUT, which OUT/<base>_<plan>.asked.jsonl lists,
be it with other seeds or another --only. headline.py makes tables of them. Two commands at once
need two OUTs.
"""

import gc
import gzip
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from collect_rows import EVALUATED, labelled, write
from loguru import logger

from projected_grpo.arms.arms import ARMS
from projected_grpo.cli import say_and_exit
from projected_grpo.config import (
    PER_RUN,
    Config,
    ConfigError,
    FastConfig,
    MiniConfig,
    SmallConfig,
    stored_config,
)
from projected_grpo.env.errors import InputError
from projected_grpo.env.problems.load import load_problems
from projected_grpo.model.load import DTYPES, load, resolve_device
from projected_grpo.runs.adapters import adapter_of
from projected_grpo.runs.checkpoints import folders_of, step_of
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.evaluate import EvalPlan, EvalRecord, evaluate_runs, write_records
from projected_grpo.runs.session import grader_of
from projected_grpo.runs.status import is_finished, runs_by_settings
from projected_grpo.step_logger import whole_rows
from projected_grpo.train import train_runs

EVALUATED_HOW = "eval.json"
"""Beside a run's `EVALUATED`: what was asked for."""
Variant = tuple[str, dict[str, Any]]
"""Label in tables, and what it sets other than the base."""

MODES = ("run_tests", "sentinel", "stdout_marker", "file_marker")
HALVES = {
    "a": (
        *("print", "swallow", "weak", "self_compare", "early_return"),
        *("init_attribute", "property", "module_print", "stdout_write"),
        *("open_write", "print_to_file"),
    ),
    "b": (
        *("pass", "assert_true", "type_only", "or_true", "soft_check"),
        *("class_attribute", "patch_attribute", "function_print", "fake_report"),
        "pathlib_write",
    ),
}
"""Every second flavour of each mode, in the order in which pairs/katas.py has them."""

_LONG = ("vanilla", "projected", "random_v", "placebo_v")
_PROJECTED, _RANDOM = {"arm": "projected"}, {"arm": "random_v"}
_REFRESHED = {"refresh_every": 10, "trust": 1.0}
_AXES = (12, 64, 128)
# The own-hack protocol of preset small: arms act from the step on that has no teacher rows. Rows
# are scored along 32 axes; with overshoot 0 nothing else is removed.
_LATE = {"start_arm_at": 9}
_SCREEN = {**_PROJECTED, **_LATE, "v_hack_k": 32, "overshoot": 0.0, "screen": "row"}
_SHARE = {**_SCREEN, "screen_share": 0.125}
_OWN = {**_SCREEN, "pairs": "own", "refresh_every": 8}


def _both(name: str, changed: Mapping[str, Any]) -> list[Variant]:
    return [(arm["arm"] + name, {**arm, **changed}) for arm in (_PROJECTED, _RANDOM)]


def _without(mode: str) -> dict[str, Any]:
    return {"pair_modes": tuple(m for m in MODES if m != mode)}


def _under(modes: Sequence[str], variants: Sequence[Variant]) -> list[Variant]:
    return [(label, {**changed, "mode": ",".join(modes)}) for label, changed in variants]


PLANS: dict[str, list[Variant]] = {
    "pilot": [
        ("vanilla", {}),
        ("projected", _PROJECTED),
        ("random_v", _RANDOM),
        *((f"projected {gate}", {**_PROJECTED, "gate": gate}) for gate in ("one_sided", "whole")),
        *((f"projected on {on}", {**_PROJECTED, "project_on": on}) for on in ("grad", "both")),
        *((f"projected k={k}", {**_PROJECTED, "v_hack_k": k}) for k in _AXES),
        *((f"random_v k={k}", {**_RANDOM, "v_hack_k": k}) for k in _AXES),
        ("projected refresh=10", {**_PROJECTED, "refresh_every": 10}),
        ("projected overshoot=1.5", {**_PROJECTED, "overshoot": 1.5}),
        ("projected floor=0", {**_PROJECTED, "v_hack_drop_bottom_frac": 0.0}),
        ("projected half the pairs", {**_PROJECTED, "pair_flavours": HALVES["a"]}),
        ("projected k to 128", {**_PROJECTED, "v_hack_k_end": 128}),
        ("random_v k to 128", {**_RANDOM, "v_hack_k_end": 128}),
        ("projected refresh=10 trust=1", {**_PROJECTED, **_REFRESHED}),
        ("projected weight=1", {**_PROJECTED, "score_weight": 1.0}),
        ("random_v weight=1", {**_RANDOM, "score_weight": 1.0}),
        ("projected running", {**_PROJECTED, "running_k": 8}),
        (
            "projected running permuted",
            {**_PROJECTED, "running_k": 8, "running_permuted": True},
        ),
        ("placebo_v k=128", {"arm": "placebo_v", "v_hack_k": 128}),
        ("projected k=128 refresh=10 trust=1", {**_PROJECTED, "v_hack_k": 128, **_REFRESHED}),
    ],
    "reduced": [("vanilla", {}), ("projected", _PROJECTED), ("random_v", _RANDOM)],
    # At the k where the direction does the work and hacking comes back: each beside the same along
    # random axes. Those take neither refresh nor trust, which would change nothing of them: they
    # are not made anew, and delta_S never has anything inside their span
    # (tests/arms/test_remedies.py). Beside running axes, which are made anew, trust would act: that
    # control is missing here.
    "remedies": [
        ("vanilla", {}),
        *_both("", {}),
        *_both(" k to 128", {"v_hack_k_end": 128}),
        *_both(" weight=1", {"score_weight": 1.0}),
        *_both(" running", {"running_k": 8}),
        (
            "projected running permuted",
            {**_PROJECTED, "running_k": 8, "running_permuted": True},
        ),
        ("projected refresh=10 trust=1", {**_PROJECTED, **_REFRESHED}),
        (
            "projected weight=1 refresh=10 trust=1",
            {**_PROJECTED, "score_weight": 1.0, **_REFRESHED},
        ),
        ("projected running refresh=10 trust=1", {**_PROJECTED, "running_k": 8, **_REFRESHED}),
    ],
    # Base small only; the most telling first, so that a short loan of a GPU can stop anywhere
    "screens": [
        ("vanilla", {}),
        ("no loophole", {"mode": "none", "mix_ratio": 0.0, "teacher_steps": 0}),
        ("row", _SCREEN),
        ("penalty", {**_SCREEN, "screen": "penalty"}),
        ("row flavour", {**_SCREEN, "screen_score": "flavour"}),
        ("penalty flavour", {**_SCREEN, "screen": "penalty", "screen_score": "flavour"}),
        ("row share", _SHARE),
        ("row share random", {**_SHARE, "arm": "random_v"}),
        ("row share placebo", {**_SHARE, "arm": "placebo_v"}),
        ("row share nll", {**_SHARE, "screen_score": "nll_tokens"}),
        ("row share shortness", {**_SHARE, "screen_score": "shortness"}),
        ("row share shuffled", {**_SHARE, "arm": "shuffled_v"}),
        ("row random", {**_SCREEN, "arm": "random_v"}),
        ("row placebo", {**_SCREEN, "arm": "placebo_v"}),
        ("token", {**_SCREEN, "screen": "token"}),
        ("projected as founded", {**_PROJECTED, **_LATE}),
        ("row own pairs", _OWN),
        ("row own pairs placebo", {**_OWN, "arm": "placebo_v"}),
        ("row refresh=8", {**_SCREEN, "refresh_every": 8}),
        ("row at the policy", {**_SCREEN, "screen_at": "policy"}),
        (
            "row and projection",
            {**_SCREEN, "overshoot": 1.0, "gate": "no_gate", "project_on": "update"},
        ),
        ("token own pairs", {**_OWN, "screen": "token"}),
        ("KL", {"beta": 0.05}),
    ],
    # docs/spec.md fixes these three
    "confirm": [
        *((arm, {"arm": arm, "v_hack_k": 128}) for arm in ARMS),
        ("projected k=32", {**_PROJECTED, "v_hack_k": 32}),
        ("random_v k=32", {**_RANDOM, "v_hack_k": 32}),
    ],
    "long": [
        (arm, {"arm": arm, "v_hack_k": 128, "steps": 200, "warmup_frac": 0.015}) for arm in _LONG
    ],
    "pool": [(arm, {"arm": arm, "v_hack_k": 128, "mix_ratio": 0.5}) for arm in _LONG],
    "modes": _under(
        MODES,
        [
            ("vanilla", {}),
            ("projected", _PROJECTED),
            *((f"projected without {m}", {**_PROJECTED, **_without(m)}) for m in MODES),
            *((f"random_v without {m}", {**_RANDOM, **_without(m)}) for m in MODES),
        ],
    ),
    "flavours": [
        ("vanilla", {}),
        ("projected", _PROJECTED),
        ("random_v", _RANDOM),
        *((f"projected half {h}", {**_PROJECTED, "pair_flavours": HALVES[h]}) for h in HALVES),
    ],
}
"""Name -> variants. What a variant does not set is the base's: `projected` alone is the default."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """What all variants share."""

    preset: type[Config]
    settings: dict[str, Any]
    on_gpu: dict[str, Any]
    """Instead, where there is a GPU."""


_LIKE_MINI = {
    name: vars(MiniConfig())[name]
    for name in (
        *("group", "temperature", "top_p", "top_k", "adam_betas", "warmup_frac", "grad_clip"),
        *("sampling_tokens", "pairs", "pair_norm", "v_hack_k", "gate", "project_on", "cpu_s"),
        *("labels", "steps", "checkpoint_every"),
    )
}
BASES = {
    "organism": Base(preset=MiniConfig, settings={}, on_gpu={"micro_batch_tokens": 65536}),
    "small": Base(
        preset=SmallConfig,
        settings={"steps": 60},
        on_gpu={"micro_batch_tokens": 32768, "sampling_tokens": 1_500_000},
    ),
    "smollm2": Base(
        preset=FastConfig,
        settings={**_LIKE_MINI, "prompts_per_step": 16, "mix_ratio": 0.0, "max_new": 256,
                  "lr": 0.06, "micro_batch_tokens": 8192},
        on_gpu={"micro_batch_tokens": 32768},
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run a plan of the experiment."""

    plan: tyro.conf.Positional[
        Literal[
            "pilot",
            "reduced",
            "remedies",
            "confirm",
            "long",
            "pool",
            "modes",
            "flavours",
            "screens",
        ]
    ]
    seeds: tuple[int, ...]
    """Every variant runs with each."""
    out: Path
    """Folder of runs and rows."""
    rows: Path | None = None
    """File of rows (.jsonl.gz); default OUT/BASE_PLAN.jsonl.gz. Never one with runs that OUT does
    not have."""
    only: tuple[str, ...] = ()
    """Labels of the variants to run; default all."""
    base: Literal["organism", "small", "smollm2"] = "organism"
    """What all variants share."""
    model: str = ""
    """Instead of the base's; smollm2 needs the folder that supervise_smollm2.py wrote."""
    problems: str = ""
    """Instead of the base's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where there is one."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice."""
    steps: int = 0
    """Instead of the base's."""
    prompts_per_step: int = 0
    """Instead of the base's."""
    lr: float = 0.0
    """Instead of the base's."""
    warmup_frac: float = 0.0
    """Instead of the base's: runs of unequal length warm up alike only if this says so."""
    pack: int = 24
    """Runs that advance together, at most: what memory holds."""
    eval_problems: int = 91
    """Held-out (test) families that each finished run is evaluated on; 0: it is not."""
    minutes: float = 0.0
    """Start no pack that, as long as the one before, would not end in time; 0: no limit."""


def asked_for(args: Arguments) -> list[tuple[str, Config]]:
    """Every run of the plan with its label, seed by seed: an early end leaves whole pairs."""
    variants = PLANS[args.plan]
    known = [label for label, _ in variants]
    for label in args.only:
        if label not in known:
            raise ConfigError(f"{args.plan} has no variant {label!r}; it has: {', '.join(known)}")
    base = BASES[args.base]
    settings = {**base.settings, **(base.on_gpu if on_gpu(args.device) else {})}
    names = ("model", "problems", "steps", "prompts_per_step", "lr", "warmup_frac")
    given = {name: getattr(args, name) for name in names}
    settings |= {name: value for name, value in given.items() if value}
    settings |= {"device": args.device, "threads": args.threads, "out_dir": args.out / "runs"}
    if args.base == "smollm2" and not args.model:
        raise ConfigError("--base=smollm2 needs --model: supervise_smollm2.py writes it")
    return [
        (label, base.preset(**{**settings, **changed, "seed": seed}))
        for seed in args.seeds
        for label, changed in variants
        if label in (args.only or known)
    ]


def on_gpu(device: str) -> bool:
    """Whether runs asked for with this --device have a GPU."""
    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def rows_file(args: Arguments) -> Path:
    """Where the rows go."""
    return args.rows or args.out / f"{args.base}_{args.plan}.jsonl.gz"


def note(args: Arguments, asked: Sequence[tuple[str, Config]]) -> dict[str, str]:
    """Add what is asked for to the list of what ever was of this plan in OUT; the list, what
    decides a run -> its label (the last, where it was renamed)."""
    path = args.out / f"{args.base}_{args.plan}.asked.jsonl"
    had = list(whole_rows(path)) if path.is_file() else []
    labels: dict[str, str] = {}
    for entry in had:
        labels[stored_config(json.dumps(entry["config"])).identity()] = entry["label"]
    # as settings and not as the key that is made of them: a later version may have more settings
    new = [
        {"label": label, "config": json.loads(cfg.to_json())}
        for label, cfg in asked
        if labels.get(cfg.identity()) != label
    ]
    if new:
        aside = path.with_name(f".{path.name}")
        try:
            args.out.mkdir(parents=True, exist_ok=True)
            aside.write_text("".join(f"{json.dumps(e)}\n" for e in had + new), encoding="utf-8")
            aside.replace(path)
        except OSError as error:
            raise InputError(f"cannot write to {args.out}: {error.strerror}") from error
    return labels | {cfg.identity(): label for label, cfg in asked}


def require_no_fewer(args: Arguments, labels: Mapping[str, str]) -> None:
    """Raises ConfigError where the file of rows holds runs that would be lost."""
    out = rows_file(args)
    if not out.is_file():
        return
    there = runs_by_settings(args.out / "runs")
    kept = {path.name for key in labels for path in there.get(key, [])}
    with gzip.open(out, "rt", encoding="utf-8") as f:
        had = [row["run"] for row in map(json.loads, f) if "settings" in row]
    if lost := [name for name in had if name not in kept]:
        raise ConfigError(
            f"{out} has the rows of {len(lost)} runs (of {len(had)}) that were not asked for, or "
            f"are no longer, in {args.out}, such as {lost[0]}, and they would be lost: move that "
            "file away, or give --rows"
        )


def packs(cfgs: Sequence[Config], most: int) -> list[list[Config]]:
    """Runs that can advance together, at most `most`, a seed's runs in one pack where they fit."""
    groups: dict[str, dict[int, list[Config]]] = {}
    for cfg in cfgs:
        groups.setdefault(cfg.identity(but=PER_RUN), {}).setdefault(cfg.seed, []).append(cfg)
    made: list[list[Config]] = []
    for by_seed in groups.values():
        filled: list[list[Config]] = []
        for block in by_seed.values():
            if filled and len(filled[-1]) + len(block) <= most:
                filled[-1] += block
            else:
                filled += [block[i : i + most] for i in range(0, len(block), most)]
        made += filled
    return made


def go_on(pack: Sequence[Config], there: Mapping[str, Sequence[Path]]) -> list[list[Config]]:
    """The pack in parts that can advance together: the runs that were stopped at one step, which
    are resumed, and those that have no checkpoint yet, which begin."""
    parts: dict[int, list[Config]] = {}
    for cfg in pack:
        runs = there.get(cfg.identity(), ())
        folders = folders_of(RunDir(runs[0]).checkpoints) if runs else []
        step = step_of(folders[0]) if folders else 0
        parts.setdefault(step, []).append(replace(cfg, resume=runs[0]) if step else cfg)
    return [parts[step] for step in sorted(parts, reverse=True)]


def eval_plans(cfg: Config, batch: int) -> list[EvalPlan]:
    """The trained modes with hint (sampled, greedy, and sampled under function names kept for this)
    and without, and the others with it."""
    trained = cfg.mode.split(",")
    others = [mode for mode in MODES if mode not in trained]
    start = EvalPlan(
        modes=trained, samples=1, temperature=cfg.temperature, max_new=cfg.max_new, batch=batch,
        sampling_tokens=cfg.sampling_tokens,
    )  # fmt: skip
    found = [start, replace(start, greedy=True), replace(start, names="eval")]
    found.append(replace(start, hinted=False))
    return found + ([replace(start, modes=others)] if others else [])


def what_is_evaluated(cfg: Config, n_problems: int) -> dict[str, Any]:
    """What an evaluation is recognised by: all that decides its records beside the run."""
    left_out = ("batch", "sampling_tokens")
    plans = [
        {k: v for k, v in asdict(plan).items() if k not in left_out} for plan in eval_plans(cfg, 1)
    ]
    return {"problems": n_problems, "plans": plans}


def is_evaluated(path: Path, cfg: Config, n_problems: int) -> bool:
    """Has the run been evaluated as is asked now?"""
    about = path / EVALUATED_HOW
    if not about.is_file() or not (path / EVALUATED).is_file():
        return False
    return json.loads(about.read_text(encoding="utf-8")) == what_is_evaluated(cfg, n_problems)


def evaluate_pack(paths: Sequence[Path], cfgs: Sequence[Config], n_problems: int) -> None:
    """Evaluate finished runs of one model together, each into its own directory."""
    cfg, started = cfgs[0], time.perf_counter()
    make = adapter_of(cfg, len(paths))
    problems = load_problems("katas:test", n_problems)
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
    with grader_of(cfg) as grader:
        for plan in eval_plans(cfg, len(paths) * cfg.prompts_per_step * cfg.group):  # as a step
            found = evaluate_runs(lm, adapter, problems, plan, grader, range(len(paths)))
            for mine, new in zip(records, found, strict=True):
                mine += new
    about = json.dumps(what_is_evaluated(cfg, n_problems))
    for path, mine in zip(paths, records, strict=True):
        # first gone and last made: it never lies beside records that are not of it
        (path / EVALUATED_HOW).unlink(missing_ok=True)
        aside = path / f".{EVALUATED}"
        write_records(aside, mine)
        aside.replace(path / EVALUATED)
        aside.write_text(about + "\n", encoding="utf-8")
        aside.replace(path / EVALUATED_HOW)
    seconds = time.perf_counter() - started
    logger.info(
        "evaluated {} runs, {} samples each, {:.0f} s", len(paths), len(records[0]), seconds
    )


def collect(args: Arguments, labels: Mapping[str, str]) -> None:
    """Write the rows of what there is: of each run ever asked for the finished, or else longest,
    one."""
    there = runs_by_settings(args.out / "runs")
    extra = {"plan": args.plan, "base": args.base}
    found = [(there[key][0], label) for key, label in labels.items() if key in there]
    write(rows_file(args), [(path, labelled(path, label, extra)) for path, label in found])


def evaluate_rest(args: Arguments, asked: Sequence[tuple[str, Config]]) -> None:
    """Evaluate the finished runs that have not been, or not as is asked."""
    if not args.eval_problems:
        return
    there = runs_by_settings(args.out / "runs")
    waiting: dict[str, Path] = {}
    for _, cfg in asked:
        path = there.get(cfg.identity(), [None])[0]
        if path is None or not is_finished(path) or is_evaluated(path, cfg, args.eval_problems):
            continue
        waiting[cfg.identity()] = path
    todo = [cfg for _, cfg in asked if cfg.identity() in waiting]
    for pack in packs(todo, args.pack):
        evaluate_pack([waiting[cfg.identity()] for cfg in pack], pack, args.eval_problems)
        gc.collect()  # the model's modules point at each other


def main(args: Arguments) -> None:
    """Train and evaluate what is missing, pack by pack."""
    asked = asked_for(args)
    twice = [key for key, n in Counter(cfg.identity() for _, cfg in asked).items() if n > 1]
    if twice:
        raise ConfigError(f"{len(twice)} runs of {args.plan} are asked for twice: {twice[0]}")
    labels = note(args, asked)
    require_no_fewer(args, labels)
    there = runs_by_settings(args.out / "runs")
    finished = {key for key, paths in there.items() if is_finished(paths[0])}
    left = packs([cfg for _, cfg in asked if cfg.identity() not in finished], args.pack)
    todo = [part for pack in left for part in go_on(pack, there)]
    logger.info(
        "{}: {} runs asked for, {} left, in packs of {}",
        args.plan, len(asked), sum(map(len, todo)), ", ".join(str(len(p)) for p in todo) or "none",
    )  # fmt: skip
    started, longest, ended_well = time.monotonic(), 0.0, False
    try:
        evaluate_rest(args, asked)
        for number, pack in enumerate(todo):
            begun = time.monotonic()
            if args.minutes and begun - started + longest > 60 * args.minutes:
                logger.warning("{} packs are left for another call", len(todo) - number)
                break
            train_runs(pack)
            gc.collect()
            collect(args, labels)
            evaluate_rest(args, asked)
            longest = max(longest, time.monotonic() - begun)
        ended_well = True
    finally:
        try:
            collect(args, labels)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if ended_well:
                raise
            logger.warning("the rows were not written: {}", error)  # what ended it all is raised


if __name__ == "__main__":
    sys.exit(say_and_exit(lambda: main(tyro.cli(Arguments))))
