"""The runs that decide H2, on a model of your own: queued, evaluated, and judged in one sentence.

    python scripts/experiment/queue_verdict.py --model Qwen/Qwen3-4B --launcher pueue

There is a job for each seed: its runs advance together, as a pack of experiment.py, and are
evaluated. It says beforehand how long that takes and how much memory. When all jobs have ended,
verdict.py says what they come to. The same command again does what is left.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
import verdict
from evaluation import is_evaluated
from experiment import Arguments as Asked
from experiment import asked_for, held_out_of
from loguru import logger
from plans import DECIDING

from projected_grpo.cli import say_and_exit
from projected_grpo.config import LEETCODE, Config, ConfigError
from projected_grpo.runs import plan
from projected_grpo.runs.status import is_finished, runs_by_settings
from projected_grpo.runs.sweep.grid import short_digest
from projected_grpo.runs.sweep.job import LaunchOptions, SweepJob, ask
from projected_grpo.runs.sweep.launchers import LAUNCHERS
from projected_grpo.runs.sweep.settings import LocalOptions, PueueOptions

EXPERIMENT = Path(__file__).with_name("experiment.py")
SECONDS = {"small": 1.6, "large": 15.0, "tiny": 0.2}
"""Base -> seconds of one step of one run in a pack, evaluation apart. small: of nine runs, between
1.3 s of sixteen and 2.6 s of three, measured on an H100. large: reckoned from the fast preset's
parts there, not measured (both docs/performance.md). tiny: two CPU cores."""
GIB = {"large": 58}
"""Base -> GiB of GPU memory at the peak, reckoned likewise: 23 of the model with its factors, 16 of
three rows of 1,100 tokens in a backward, 18 of keys and values."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Queue the runs that decide H2 on a model, wait for them, and say the verdict."""

    model: str
    """As for train."""
    seeds: tuple[int, ...] = (401, 402, 403)
    """Two at least; each is a job."""
    plan: Literal["own_hacks", "founding"] = "own_hacks"
    """own_hacks: teacher rows for the first 8 of 100 steps; founding: half of each group for 60."""
    base: Literal["small", "large", "tiny"] = "large"
    """What the machine is set for: small for half a billion parameters, large for 4 billion on a
    card of 80 GB, tiny to rehearse on a CPU."""
    problems: str = ""
    """Of training; default LeetCodeDataset on the hub (tiny: katas)."""
    eval_from: str = ""
    """Held-out problems; default its split `test` (tiny: katas:test)."""
    eval_problems: int | None = None
    """How many of them; default the base's, 0: none."""
    steps: int = 0
    """Instead of the plan's: to rehearse."""
    out: Path = Path("runs/verdict")
    """Folder: in it one for each model, base, plan and --steps, with verdict.md, and a folder and a
    file of rows for each seed."""
    step_s: float = 0.0
    """Seconds of one step of one run on your machine; 0 takes what is known of the base."""
    launcher: Literal["local", "pueue"] = "pueue"
    """local runs the jobs here, one after the other."""
    local: LocalOptions = field(default_factory=LocalOptions)
    """Of --launcher=local."""
    pueue: PueueOptions = field(default_factory=lambda: PueueOptions(group="verdict"))
    """Of --launcher=pueue."""
    dry_run: bool = False
    """Only say what would be run, how long it takes and how much memory."""

    @property
    def folder(self) -> Path:
        """Where runs lie that may be compared: a rehearsal, or another model, has another."""
        model = re.sub(r"[^\w.]+", "-", self.model).strip("-.")
        steps = (f"{self.steps}_steps",) if self.steps else ()
        return self.out / "_".join([model, self.base, self.plan, *steps])

    def of_seed(self, seed: int) -> Asked:
        """What experiment.py is asked for one seed."""
        held_out = self.eval_from or ("" if self.base == "tiny" else f"{LEETCODE}:test")
        return Asked(
            plan=self.plan, seeds=(seed,), only=DECIDING, base=self.base, model=self.model,
            problems=self.problems, steps=self.steps, eval_from=held_out,
            eval_problems=self.eval_problems, out=self.folder / f"seed_{seed}",
            rows=self.folder / f"seed_{seed}.jsonl.gz",
        )  # fmt: skip


def command_of(asked: Asked) -> tuple[str, ...]:
    """The command line of experiment.py that asks for it."""
    one = {"base": asked.base, "model": asked.model, "out": asked.out, "rows": asked.rows}
    one |= {"problems": asked.problems, "eval_from": asked.eval_from, "steps": asked.steps or ""}
    one |= {"eval_problems": "" if asked.eval_problems is None else asked.eval_problems}
    flags = (f"--{name.replace('_', '-')}={value}" for name, value in one.items() if value != "")
    return (
        *(str(EXPERIMENT), asked.plan, "--seeds", *map(str, asked.seeds)),
        *("--only", *asked.only, *flags),
    )


def is_done(asked: Asked) -> bool:
    """Whether every run of it is finished, and evaluated as is asked."""
    held_out, there = held_out_of(asked), runs_by_settings(asked.out / "runs")
    for _, cfg in asked_for(asked):
        path = there.get(cfg.identity(), [None])[0]
        if path is None or not is_finished(path):
            return False
        if held_out is not None and not is_evaluated(path, cfg, held_out):
            return False
    return True


def jobs(args: Arguments) -> list[SweepJob]:
    """What is left: the seeds whose runs are not all finished and evaluated."""
    found: list[SweepJob] = []
    for seed in args.seeds:
        if is_done(args.of_seed(seed)):
            continue
        command = command_of(args.of_seed(seed))
        name = f"verdict_s{seed}_{short_digest(' '.join(command))}"
        found.append(SweepJob(name=name, command=command, why=f"H2 on {args.model}, {args.plan}"))
    return found


def estimate(args: Arguments, n_seeds: int) -> str:
    """How long, and how much memory."""
    if not n_seeds:
        return "nothing is left to run"
    cfgs: list[Config] = [cfg for _, cfg in asked_for(args.of_seed(args.seeds[0]))]
    step_s = args.step_s or SECONDS[args.base]
    hours = n_seeds * sum(cfg.steps for cfg in cfgs) * step_s / 3600
    known = "as given" if args.step_s else "see SECONDS in queue_verdict.py; --step-s=S for yours"
    gib = f"; about {GIB[args.base]} GiB at the peak are reckoned with" if args.base in GIB else ""
    at_once = len(args.pueue.gpus) or 1
    return (
        f"{n_seeds} seeds x {len(cfgs)} runs x {cfgs[0].steps} steps at {step_s:g} s a run and "
        f"step ({known}): {hours:.2g} hours on one GPU"
        + (f", {hours / at_once:.2g} on {at_once}" if at_once > 1 else "")
        + f", and the evaluation about a fifth of that more. Memory: "
        f"{plan.memory(cfgs[0], len(cfgs))}{gib}"
    )


def launch(args: Arguments, todo: Sequence[SweepJob], queued: Mapping[str, str]) -> None:
    """Run or queue what is not queued yet, and wait until all has ended."""
    new = [job for job in todo if job.name not in queued]
    logs = args.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    how = LaunchOptions(logs=logs, local=args.local, pueue=args.pueue)
    if new:
        LAUNCHERS[args.launcher].run(new, queued, how)
    if args.launcher == "pueue" and todo:
        logger.info(
            "waiting for pueue's group {}; Ctrl-C leaves it running, the same command waits again",
            args.pueue.group,
        )
        ask(("pueue", "wait", "--group", args.pueue.group, "--quiet"))


def main(args: Arguments) -> None:
    """Say what is ahead, do it, say what came of it."""
    if len({*args.seeds}) < 2:
        raise ConfigError("a verdict is one of seeds: name two or more by --seeds")
    todo = jobs(args)
    print(f"{args.plan} on {args.model}: {estimate(args, len(todo))}", flush=True)
    queued = LAUNCHERS[args.launcher].queued() if todo and not args.dry_run else {}
    for job in todo:
        logger.info("{: <9} {}", "queued" if job.name in queued else "begin", job.name)
    if args.dry_run:
        return
    launch(args, todo, queued)
    if left := [job.name for job in jobs(args)]:
        logger.warning("not all has ended well, the same command goes on: {}", ", ".join(left))
    verdict.main(verdict.Arguments(folder=args.folder))


if __name__ == "__main__":
    sys.exit(say_and_exit(lambda: main(tyro.cli(Arguments))))
