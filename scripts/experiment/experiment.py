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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from bases import BASES, HeldOut
from collect_rows import labelled, write
from evaluation import evaluate_pack, is_evaluated
from loguru import logger
from plans import PLANS

from projected_grpo.arms.yoked import leaders
from projected_grpo.cli import say_and_exit
from projected_grpo.config import PER_RUN, Config, ConfigError, stored_config
from projected_grpo.env.errors import InputError
from projected_grpo.env.names import hint
from projected_grpo.runs.checkpoints import folders_of, step_of
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.preflight import require_problems
from projected_grpo.runs.status import is_finished, runs_by_settings
from projected_grpo.step_logger import whole_rows
from projected_grpo.train import train_runs


def _choice(names: Iterable[str]) -> str:
    return f"{{{','.join(names)}}}"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run a plan of the experiment."""

    plan: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar=_choice(PLANS))]]
    """What is varied (plans.py)."""
    seeds: tuple[int, ...]
    """Every variant runs with each."""
    out: Path
    """Folder of runs and rows."""
    rows: Path | None = None
    """File of rows (.jsonl.gz); default OUT/BASE_PLAN.jsonl.gz. Never one with runs that OUT does
    not have."""
    only: tuple[str, ...] = ()
    """Labels of the variants to run; default all."""
    base: Annotated[str, tyro.conf.arg(metavar=_choice(BASES))] = "organism"
    """What all variants share (bases.py)."""
    model: str = ""
    """Instead of the base's; smollm2 needs the folder that supervise_smollm2.py wrote."""
    problems: str = ""
    """Instead of the base's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where there is one."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice, to 16."""
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
    eval_problems: int | None = None
    """Held-out problems that each finished run is asked, at most; default the base's, 0: none."""
    eval_from: str = ""
    """Where they come from, as --problems of train; default the base's, where it has any (katas).
    For real problems the file that split_leetcode.py wrote."""
    minutes: float = 0.0
    """Start no pack that, as long as the one before, would not end in time; 0: no limit."""


def asked_for(args: Arguments) -> list[tuple[str, Config]]:
    """Every run of the plan with its label, seed by seed: an early end leaves whole pairs."""
    for what, name, there in (("plan", args.plan, PLANS), ("base", args.base, BASES)):
        if name not in there:
            raise ConfigError(f"there is no {what} {name}: {hint(name, there)}")
    plan, base = PLANS[args.plan], BASES[args.base]
    if plan.bases and args.base not in plan.bases:
        raise ConfigError(f"{args.plan} is a plan for --base={' or '.join(plan.bases)}")
    known = [label for label, _ in plan.variants]
    for label in args.only:
        if label not in known:
            raise ConfigError(f"{args.plan} has no variant {label!r}; it has: {', '.join(known)}")
    settings = {**base.settings, **(base.on_gpu if on_gpu(args.device) else {}), **plan.settings}
    names = ("model", "problems", "steps", "prompts_per_step", "lr", "warmup_frac")
    given = {name: getattr(args, name) for name in names}
    settings |= {name: value for name, value in given.items() if value}
    settings |= {"device": args.device, "threads": args.threads, "out_dir": args.out / "runs"}
    if args.base == "smollm2" and not args.model:
        raise ConfigError("--base=smollm2 needs --model: supervise_smollm2.py writes it")
    return [
        (label, base.preset(**{**settings, **changed, "seed": seed}))
        for seed in args.seeds
        for label, changed in plan.variants
        if label in (args.only or known)
    ]


def on_gpu(device: str) -> bool:
    """Whether runs asked for with this --device have a GPU."""
    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def held_out_of(args: Arguments) -> HeldOut | None:
    """What finished runs are asked; None: nothing. Raises ConfigError or InputError where no
    problems are known that are held out, or they are not there."""
    base = BASES[args.base].held_out
    problems = base.problems if args.eval_problems is None else args.eval_problems
    if not problems:
        return None
    if not (source := args.eval_from or base.source):
        raise ConfigError(
            f"--base={args.base} has no held-out problems of its own: name the file that "
            "split_leetcode.py wrote by --eval-from=FOLDER/held_out.jsonl.gz, or leave the "
            "evaluation out by --eval-problems=0"
        )
    require_problems(source)
    return replace(base, source=source, problems=problems)


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


def require_led(
    asked: Sequence[Config], left: Sequence[Sequence[Config]], there: Mapping[str, Sequence[Path]]
) -> None:
    """Raises ConfigError where a yoked run that is left is in a pack without the run that it
    follows.

    left: the packs of what is not finished. there: the runs that there are, by their settings.
    """
    pack_of = {cfg.identity(): n for n, pack in enumerate(left) for cfg in pack}
    if not any(cfg.screen_yoked for pack in left for cfg in pack):
        return
    for n, leader in leaders(asked).items():
        follower, key = asked[n].identity(), asked[leader].identity()
        if follower not in pack_of or pack_of[follower] == pack_of.get(key):
            continue
        if key not in pack_of:
            raise ConfigError(
                f"a run in {there[key][0]} is finished, and controls that are not follow it step "
                "by step: name another --out, or move it away so that it begins again with them"
            )
        raise ConfigError(
            f"packs of {max(map(len, left))} part controls from the run that they follow: raise "
            "--pack so that a seed's runs are in one"
        )


def go_on(pack: Sequence[Config], there: Mapping[str, Sequence[Path]]) -> list[list[Config]]:
    """The pack in parts that can advance together: the runs that were stopped at one step, which
    are resumed, and those that have no checkpoint yet, which begin. Yoked runs and the run that
    they follow are in one part, wherever a cut has left them: resumed together, they go on from the
    last step that all of them have. Raises ConfigError where some of these have no checkpoint."""
    runs = [there.get(cfg.identity(), ()) for cfg in pack]
    folders = [folders_of(RunDir(mine[0]).checkpoints) if mine else [] for mine in runs]
    steps = [step_of(mine[0]) if mine else 0 for mine in folders]
    follows = leaders(pack)
    parts: dict[int, list[Config]] = {}
    for n, cfg in enumerate(pack):
        leader = follows.get(n, n)
        together = [steps[leader], *(steps[m] for m, other in follows.items() if other == leader)]
        if steps[n] and not min(together):
            raise ConfigError(
                f"{runs[n][0]} has come to step {steps[n]} and some of the runs that advance with "
                "it have no checkpoint: move it away, or take another --out"
            )
        resumed = replace(cfg, resume=runs[n][0]) if steps[n] else cfg
        parts.setdefault(min(together), []).append(resumed)
    return [parts[step] for step in sorted(parts, reverse=True)]


def collect(args: Arguments, labels: Mapping[str, str]) -> None:
    """Write the rows of what there is: of each run ever asked for the finished, or else longest,
    one."""
    there = runs_by_settings(args.out / "runs")
    extra = {"plan": args.plan, "base": args.base}
    found = [(there[key][0], label) for key, label in labels.items() if key in there]
    write(rows_file(args), [(path, labelled(path, label, extra)) for path, label in found])


def evaluate_rest(
    args: Arguments, asked: Sequence[tuple[str, Config]], held_out: HeldOut | None
) -> None:
    """Evaluate the finished runs that have not been, or not as is asked."""
    if held_out is None:
        return
    there = runs_by_settings(args.out / "runs")
    waiting: dict[str, Path] = {}
    for _, cfg in asked:
        path = there.get(cfg.identity(), [None])[0]
        if path is None or not is_finished(path) or is_evaluated(path, cfg, held_out):
            continue
        waiting[cfg.identity()] = path
    todo = [cfg for _, cfg in asked if cfg.identity() in waiting]
    for pack in packs(todo, args.pack):
        evaluate_pack([waiting[cfg.identity()] for cfg in pack], pack, held_out)
        gc.collect()  # the model's modules point at each other


def main(args: Arguments) -> None:
    """Train and evaluate what is missing, pack by pack."""
    asked, held_out = asked_for(args), held_out_of(args)
    twice = [key for key, n in Counter(cfg.identity() for _, cfg in asked).items() if n > 1]
    if twice:
        raise ConfigError(f"{len(twice)} runs of {args.plan} are asked for twice: {twice[0]}")
    labels = note(args, asked)
    require_no_fewer(args, labels)
    there = runs_by_settings(args.out / "runs")
    finished = {key for key, paths in there.items() if is_finished(paths[0])}
    left = packs([cfg for _, cfg in asked if cfg.identity() not in finished], args.pack)
    require_led([cfg for _, cfg in asked], left, there)
    todo = [part for pack in left for part in go_on(pack, there)]
    logger.info(
        "{}: {} runs asked for, {} left, in packs of {}",
        args.plan, len(asked), sum(map(len, todo)), ", ".join(str(len(p)) for p in todo) or "none",
    )  # fmt: skip
    started, longest, ended_well = time.monotonic(), 0.0, False
    try:
        evaluate_rest(args, asked, held_out)
        for number, pack in enumerate(todo):
            begun = time.monotonic()
            if args.minutes and begun - started + longest > 60 * args.minutes:
                logger.warning("{} packs are left for another call", len(todo) - number)
                break
            train_runs(pack)
            gc.collect()
            collect(args, labels)
            evaluate_rest(args, asked, held_out)
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
