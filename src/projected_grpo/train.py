"""The training loop, the page to read first.

`run_step` is one step of GRPO with the projection, and what follows it stands in the order of the
step: sample P groups and mix in teacher rows (runs/sample_rows.py), grade, advantages, one backward
that yields every rollout's own gradient (runs/gradients.py), then projection, clip, AdamW, fold
(arms/update.py). `train_runs` repeats it and logs. Deviations from textbook GRPO are listed in
model/loss.py and docs/method.md. What would be silently wrong is checked in the loop (`ensure`).

A *pack* is N runs (arms x seeds) that share one frozen model and advance in lock-step: one sampling
call, one grading call, one backward. N = 1 is the everyday run.

Axes: N runs, P prompts a step, G group, B rows of a micro-batch, C completion tokens, r length of
delta_S.
"""

import math
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from loguru import logger
from tqdm import tqdm

from projected_grpo.arms.advantages import (
    grade_rows,
    require_grades,
    score_rows,
)
from projected_grpo.arms.row_weights import runs_with_row_weights, weigh_rows
from projected_grpo.arms.rows import (
    Row,
    RowGradients,
    StepSums,
    alignment,
    grade_columns,
    loss_columns,
    peak_memory_gib,
    rollout_record,
)
from projected_grpo.arms.screening import screen_columns
from projected_grpo.arms.treatment import Treatment, columns_by_run, treatment_at
from projected_grpo.arms.update import optimize
from projected_grpo.config import Config
from projected_grpo.runs.banner import announce, best_and_hack, columns_of, labels, sum_up
from projected_grpo.runs.begin import make_directories, open_runs, restore
from projected_grpo.runs.checkpoints import rotate
from projected_grpo.runs.command_line import console_command
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.distributed import gather_groups, process_group
from projected_grpo.runs.files import append_rows, writing
from projected_grpo.runs.gradients import accumulate_gradients, ensure
from projected_grpo.runs.refresh import NO_REFRESH, Refresh, refresh
from projected_grpo.runs.sample_rows import sample_rows
from projected_grpo.runs.screens import calibrate_all, screen_rows
from projected_grpo.runs.session import Session, prepare
from projected_grpo.runs.signals import stop_on_signal
from projected_grpo.runs.trackers import Trackers
from projected_grpo.step_logger import PackLogger, StepLogger, Value, legend


def run_step(
    s: Session, step: int, num_tokens: list[int], refreshed: Refresh = NO_REFRESH
) -> list[tuple[dict[str, Value], list[Row]]]:
    """One step of all runs: for each a row of every declared column, and its rollouts.

    `num_tokens` (N) is what each run has seen so far; it is brought up to date. `refreshed` says
    what became of V just before.
    """
    clock = [time.perf_counter()]

    def lap() -> float:
        if s.device.type == "cuda":
            torch.cuda.synchronize()
        clock.append(time.perf_counter())
        return clock[-1] - clock[-2]

    groups = sample_rows(s, step)
    timings = {"gen": lap()}
    thresholds = screen_rows(s, step, groups)
    timings["t_screen"] = lap()
    score_rows(s.lm, s.adapter, s.concepts, groups, s.cfg.micro_batch_tokens)
    grade_rows(s.cfgs, s.grader, groups, step)
    mine = [row.grade for group in groups for row in group]
    require_grades([grade for part in s.world.gather(mine) for grade in part])
    timings["t_rew"] = lap()
    treatments = current_treatments(s, step, refreshed)
    learning = s.learned_axes.runs if s.learned_axes else frozenset[int]()
    per_row = RowGradients(runs_with_row_weights(treatments) | learning)
    sums = accumulate_gradients(s, [row for group in groups for row in group], per_row)
    groups, per_row = gather_groups(s.world, groups, per_row, s.adapter.trained)
    timings["fb"] = lap()
    row_weights = weigh_rows(treatments, sums, per_row, len(s.cfgs))
    lr = [learning_rate(cfg, step) for cfg in s.cfgs]
    columns = {
        **loss_columns(sums, s.cfg.beta),
        **columns_by_run(s.treatments, len(s.cfgs), lambda t: _alignment_by_source(t, sums)),
        **optimize(
            s.adapter, s.optimizer, treatments, sums.total,
            lr=lr, grad_clip=s.cfg.grad_clip, quarantine=s.quarantine,
        ),
        "weight": row_weights,
        **learn_axes(s, step, per_row, treatments),
    }  # fmt: skip
    ensure(s.world.same(s.adapter.trained), "the processes of this run have different adapters")
    timings["t_proj"] = lap()
    timings["t_refresh"] = refreshed.seconds
    timings["step_time"] = clock[-1] - clock[0] + refreshed.seconds
    results = []
    P = s.cfg.prompts_per_step
    for n in range(len(s.cfgs)):
        mine = groups[n * P : (n + 1) * P]
        rows = [row for group in mine for row in group]
        num_tokens[n] += sum(len(r.prompt) + len(r.ids) for r in rows)
        row: dict[str, Value] = {
            "step": step,
            **grade_columns(mine),
            **screen_columns(rows, s.cfgs[n], thresholds.get(n)),
            **{key: values[n] for key, values in columns.items()},
            **refreshed.columns(n),
            **timings,
            "num_tokens": num_tokens[n],
            "peak_mem_gib": peak_memory_gib(s.device),
        }
        results.append((row, rows))
    return results


def current_treatments(s: Session, step: int, refreshed: Refresh = NO_REFRESH) -> list[Treatment]:
    """The treatments as they act at one step: with a k that grows and axes that a run learned."""
    now = [treatment_at(t, s.cfgs, step) for t in s.treatments]
    if s.learned_axes is None:
        return now
    for t in s.treatments:
        if refreshed.overlaps.keys() & set(t.runs.tolist()):
            s.learned_axes.make_axes(t)  # outside the span of the new V
    if refreshed.overlaps:
        s.world.as_first(s.learned_axes.tensors)
    return [s.learned_axes.with_axes(t) if s.cfgs[t.runs[0]].acts_at(step) else t for t in now]


def _alignment_by_source(t: Treatment, sums: StepSums) -> dict[str, list[Value]]:
    """Alignment with V of the gradients of student rows and of teacher rows."""
    return {
        "cos_pre_s": alignment(t.of(sums.student), t.V),
        "cos_pre_t": alignment(t.of(sums.teacher), t.V),
    }


def learn_axes(
    s: Session, step: int, per_row: RowGradients, treatments: Sequence[Treatment]
) -> dict[str, list[Value]]:
    """Let the runs that learn axes add the step's rows; returns the columns of that."""
    if s.learned_axes is not None:
        columns = s.learned_axes.learn(step, per_row, s.treatments, treatments)
        s.world.as_first(s.learned_axes.tensors)  # its eigenproblems: on each host's own CPU
        return columns
    nothing: list[Value] = [None] * len(s.cfgs)
    return {"running_rows": nothing, "running_captured": nothing}


def learning_rate(cfg: Config, step: int) -> float:
    """Linear warm-up over `warmup_steps`, its first step above zero; then constant, or half a
    cosine to 0 at the step after the last."""
    if step <= cfg.warmup_steps:
        return cfg.lr * (step / cfg.warmup_steps)
    if cfg.lr_schedule == "constant":
        return cfg.lr
    done = (step - cfg.warmup_steps - 1) / max(cfg.steps - cfg.warmup_steps, 1)
    return cfg.lr * (1 + math.cos(math.pi * done)) / 2


def _silent(line: str) -> None:
    """The runs of a pack write their rows, but the pack speaks for them."""


def _run_steps(
    s: Session,
    runs: list[RunDir],
    done: int,
    num_tokens: list[int],
    trackers: Trackers,
    bar: bool,
) -> str:
    """All steps after `done`; returns "finished", or "stopped" where a signal asked for it."""
    cfg = s.cfg
    alone = len(runs) == 1
    columns = columns_of(s.cfgs)
    logs = [StepLogger(run.steps, logger.info if alone else _silent, columns) for run in runs]
    pack = PackLogger(labels(s.cfgs), logger.info, columns)
    names = [f"{label} s{one.seed}" for label, one in zip(labels(s.cfgs), s.cfgs, strict=True)]
    if s.world.first:
        for line in legend(columns):
            logger.info("legend   {}", line)
        (logs[0] if alone else pack).header()
    progress = tqdm(
        total=cfg.steps, initial=done, unit="step", dynamic_ncols=True, leave=False,
        disable=None if bar and s.world.first else True,  # None: shown on a terminal only
    )  # fmt: skip
    # Of several processes each may well get SIGTERM twice: from whoever stops them all, and from
    # their launcher, which passes on its own.
    with progress, stop_on_signal(patient=s.world.size > 1) as stop:
        for step in range(done + 1, cfg.steps + 1):
            s, refreshed = refresh(s, step, runs)
            results = run_step(s, step, num_tokens, refreshed)
            if s.world.first:
                for run, log, (row, rows) in zip(runs, logs, results, strict=True):
                    drawn = [
                        rollout_record(step, i, r, s.lm.characters) for i, r in enumerate(rows)
                    ]
                    with writing(run.path):
                        append_rows(run.rollouts, drawn)
                        log.step(row)
                if not alone:
                    pack.step([row for row, _ in results])
                trackers.step({run.path: row for run, (row, _) in zip(runs, results, strict=True)})
                if cfg.print_every and step % cfg.print_every == 0:
                    for text in best_and_hack(
                        names, [rows for _, rows in results], s.lm.characters
                    ):
                        logger.info("{}", text)
            progress.update()
            stopping = s.world.any(bool(stop))
            due = step % cfg.checkpoint_every == 0 or step == cfg.steps or stopping
            for n, run in enumerate(runs) if due and s.world.first else ():
                run.save_checkpoint(
                    step, s.adapter, s.optimizer, num_tokens[n], n, s.quarantine, s.learned_axes
                )
            for run in runs if due and s.world.first else ():  # all have this step by now
                rotate(run.checkpoints, run.path, cfg.keep_checkpoints)
            if stopping and step < cfg.steps:
                return "stopped"
    return "finished"


def train(cfg: Config) -> Path:
    """Run or resume one run; returns its directory. What cannot be used is refused before
    writing."""
    return train_runs([cfg])[0]


def train_runs(
    cfgs: Sequence[Config], named: Collection[str] = (), *, bar: bool = False
) -> list[Path]:
    """Advance all these runs in lock-step in one process; returns their directories.

    They may differ in what `config.PER_RUN` names. Every run gets its own directory, with the rows
    that it would have alone, to rounding, and can be resumed alone; but yoked controls (yoked.py)
    are nothing without the run that they follow. `named` are the settings that
    the command line gave: one that differs from a resumed run's is refused, or heeded. `bar` shows
    the progress where stderr is a terminal, for a caller whose own lines go through `tqdm.write`.
    Started by torchrun, this is one of several processes that make one run (distributed.py).
    """
    started = time.perf_counter()
    with process_group(cfgs) as world, ExitStack() as stack:
        with world.fail_together():
            cfgs, runs = open_runs(cfgs, named, world, stack)
            trackers = Trackers(cfgs[0].track if world.first else "none")
        s, v_hack = prepare(cfgs, stack, runs, world)
        s = calibrate_all(s)
        done, num_tokens = 0, [0] * len(cfgs)
        if runs:
            s, done, num_tokens = restore(s, runs, stack)
        status = "failed"
        try:
            make_directories(s, v_hack, runs, stack)
            if world.first:
                announce(s, runs, stack)
                trackers.open([run.path for run in runs])
            reached = _run_steps(s, runs, done, num_tokens, trackers, bar)
            if reached == "finished" and world.first:
                for n, (run, cfg) in enumerate(zip(runs, s.cfgs, strict=True)):
                    run.save_adapter(s.adapter, cfg, n)
                    run.finish(reached)
            status = reached
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            for n, run in enumerate(runs if world.first and status != "finished" else ()):
                run.finish(status)
                if s.cfgs[n].screen_yoked:  # goes on beside the run that it follows, never alone
                    continue
                again = console_command("train", s.cfg.preset_name, f"--resume={run.path}")
                logger.warning("go on with: {}", again)
            trackers.close(status)
        if world.first:
            sum_up(s, runs, status, time.perf_counter() - started)
        world.wait()  # the launcher ends all once one has gone: not before rank 0 has written
    if status == "stopped":
        raise KeyboardInterrupt  # saved, but not done: whoever waits for this process must see it
    return [run.path for run in runs]
