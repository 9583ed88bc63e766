"""The training loop, the page to read first.

One step: sample P groups, mix in teacher rows, grade, advantages, one backward that yields every
rollout's own gradient, projection, clip, AdamW, fold, log. Deviations from textbook GRPO are
listed in grpo.py and docs/method.md. What would be silently wrong is checked in the loop
(`ensure`).

Axes: N runs (1 here), P prompts a step, G group, B rows of a micro-batch, C completion tokens, r
length of delta_S.
"""

import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch
from loguru import logger
from torch import Tensor

from projected_grpo.config import Config, ConfigError
from projected_grpo.env.grader import Submission
from projected_grpo.env.loopholes import TRAIN_NAME
from projected_grpo.env.sandbox import Outcome
from projected_grpo.grpo import collate, completion_logprobs, group_advantages, policy_loss
from projected_grpo.pool import draw_seed
from projected_grpo.proj import (
    Projection,
    cosine,
    covered_energy,
    hackward_fraction,
    null_cosine,
    project,
    removed_fraction,
    squared_norm,
)
from projected_grpo.records import (
    Accumulated,
    Row,
    alignment,
    grade_columns,
    loss_columns,
    peak_memory_gib,
    rollout_record,
)
from projected_grpo.rollout import Sampling, sample_groups
from projected_grpo.run import RunDir, append_rows
from projected_grpo.seeds import stream_seed
from projected_grpo.session import Session, data_digest, describe, prepare, problems_of_step
from projected_grpo.step_logger import StepLogger, Value

MACHINE_SETTINGS = (
    "micro_batch",
    "workers",
    "threads",
    "device",
    "svd_cache",
    "checkpoint_every",
    "sandbox",
)
"""What may change when a run is resumed: it decides where and how fast, not (beyond rounding)
what."""
LOGP_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest mean |log p| difference between sampler and trainer at the first inner step, by dtype."""


def ensure(condition: bool | Tensor, message: str) -> None:
    """Stop the run where a value that must hold does not: better than a healthy-looking curve."""
    if not condition:
        raise RuntimeError(message)


def sample_rows(s: Session, step: int) -> list[list[Row]]:
    """The step's groups: student rows first, then teacher rows. P lists of G rows, not yet
    graded."""
    cfg = s.cfg
    chosen = problems_of_step(s.problems, cfg.prompts_per_step, cfg.seed, step)
    sampling = Sampling(
        cfg.max_new, cfg.temperature, cfg.top_p, cfg.top_k, s.lm.eos_ids, s.lm.pad_id
    )
    prompts = [s.prompts[problem.id] for problem in chosen]
    seeds = [stream_seed("sample", cfg.seed, step, problem.id) for problem in chosen]
    sampled = sample_groups(s.lm.model, s.adapter, prompts, cfg.student_rows, seeds, sampling)
    groups = []
    for problem, prompt, samples in zip(chosen, prompts, sampled, strict=True):
        rows = [
            Row(problem, "student", prompt, x.ids, x.terminated, x.logps, s.lm.decode(x.ids))
            for x in samples
        ]
        if s.draw is not None:
            answers = s.draw(problem, cfg.teacher_rows, draw_seed(cfg.seed, step, problem.id))
            for ids in map(s.lm.completion_ids, answers):
                cut = ids[: cfg.max_new]  # as a student's row would be; graded as cut
                whole = len(ids) <= cfg.max_new
                rows.append(Row(problem, "teacher", prompt, cut, whole, None, s.lm.decode(cut)))
        groups.append(rows)
    return groups


def grade_rows(s: Session, groups: list[list[Row]]) -> None:
    """Fill in every row's grade and advantage. Only `reward` of a grade reaches the advantage."""
    rows = [row for group in groups for row in group]
    submissions = [
        Submission(
            problem=row.problem, completion=row.text, mode=row.mode, function_name=TRAIN_NAME
        )
        for row in rows
    ]
    for row, grade in zip(rows, s.grader.grade(submissions), strict=True):
        row.grade = grade
    rewards = torch.tensor([[row.grade.reward for row in group] for group in groups])
    valid = torch.tensor(
        [[row.grade.outcome != Outcome.INFRA_ERROR for row in group] for group in groups]
    )
    advantages, learns = group_advantages(rewards, valid)
    flat = zip(advantages.flatten().tolist(), learns.flatten().tolist(), strict=True)
    for row, (advantage, part) in zip(rows, flat, strict=True):
        row.advantage, row.learns = advantage, part


def accumulate_gradients(s: Session, rows: list[Row]) -> Accumulated:
    """One backward a micro-batch over the rows that carry an advantage; fills in their hack
    scores."""
    zeros = {name: torch.zeros_like(p) for name, p in s.adapter.delta_S.items()}
    total = Accumulated(zeros, {name: z.clone() for name, z in zeros.items()})
    learning = sorted((row for row in rows if row.learns), key=lambda row: len(row.prompt))
    for start in range(0, len(learning), s.cfg.micro_batch):
        _accumulate(s, learning[start : start + s.cfg.micro_batch], total)
    ensure(
        total.tokens == sum(len(row.ids) for row in learning) <= s.cfg.denominator,
        f"the loss saw {total.tokens} tokens of the rows' {sum(len(row.ids) for row in learning)} "
        f"(denominator {s.cfg.denominator})",
    )
    differences = total.student_differences
    if differences.numel():
        off = float(differences.abs().mean())
        limit = LOGP_TOLERANCE[s.lm.model.dtype]
        ensure(
            off <= limit,
            "the sampler is not the policy that is trained, so the ratio is not 1 at the first "
            f"inner step: log-probs differ by {off:.2g} a token on average, more than {limit:.2g}",
        )
    return total


def _accumulate(s: Session, rows: list[Row], total: Accumulated) -> None:
    cfg, device = s.cfg, s.device
    batch = collate([row.prompt for row in rows], [row.ids for row in rows], s.lm.pad_id, device)
    mask = batch.completion_mask
    student = torch.tensor([row.source == "student" for row in rows], device=device)
    run_of_row = torch.zeros(len(rows), dtype=torch.long, device=device)
    ref_logp = None
    if cfg.beta > 0:
        with torch.no_grad(), s.adapter.disabled():
            ref_logp = completion_logprobs(s.lm.model, batch, cfg.temperature)
    sampled_logp = torch.zeros(mask.shape, device=device)
    for b, row in enumerate(rows):
        if row.logps is not None:
            sampled_logp[b, : len(row.logps)] = torch.tensor(row.logps, device=device)
    with s.adapter.rows(run_of_row) as leaves:
        logp = completion_logprobs(s.lm.model, batch, cfg.temperature)
        # One optimizer step a batch: the policy that sampled is the policy at hand, the ratio is 1.
        # That it really was is checked apart (`logp_differences`), which keeps the bf16 noise of
        # sampled log-probs out of the gradient. For teacher rows ratio 1 means weighted imitation;
        # as they are no samples of the policy, they estimate no KL.
        old_logp = logp.detach()
        if ref_logp is not None:
            ref_logp = torch.where(student[:, None], ref_logp, old_logp)
        loss, sums = policy_loss(
            logp,
            old_logp,
            torch.tensor([row.advantage for row in rows], device=device),
            mask,
            denominator=cfg.denominator,
            clip_eps=cfg.clip_eps,
            beta=cfg.beta,
            ref_logp=ref_logp,
        )
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    for name, g in gradients.items():  # (B, r)
        total.student[name].index_add_(0, run_of_row[student], g[student])
        total.teacher[name].index_add_(0, run_of_row[~student], g[~student])
    for row, score in zip(rows, cosine(gradients, s.V).tolist(), strict=True):
        if row.advantage != 0:  # at its group's mean a row pulls nowhere
            row.hack_score = score if row.advantage > 0 else -score  # of the text itself
    total.loss += float(loss.detach())
    total.kl += float(sums["kl"])
    total.clipped += int(sums["clipped"])
    total.tokens += int(sums["tokens"])
    total.logp_differences.append((sampled_logp - old_logp)[mask & student[:, None]])


def optimize(s: Session, gradients: dict[str, Tensor], lr: float) -> dict[str, Value]:
    """Project, clip, AdamW, project the step where asked, fold. Returns what was measured on the
    way."""
    cfg = s.cfg
    projection = Projection(cfg.gate, cfg.overshoot, cfg.preserve_magnitude)
    on_grad, on_update = cfg.project_on != "update", cfg.project_on != "grad"
    ensure(torch.isfinite(squared_norm(gradients)).all(), "a gradient is not finite")
    projected = project(gradients, s.removed, projection) if on_grad else gradients
    norm = squared_norm(projected).sqrt()  # (N,)
    scale = (cfg.grad_clip / norm.clamp_min(1e-38)).clamp_max(1.0)[:, None]
    before = {name: p.detach().clone() for name, p in s.adapter.delta_S.items()}
    for name, p in s.adapter.delta_S.items():
        p.grad = projected[name] * scale
    for settings in s.optimizer.param_groups:
        settings["lr"] = lr
    s.optimizer.step()
    s.optimizer.zero_grad(set_to_none=True)
    taken = {name: before[name] - p.detach() for name, p in s.adapter.delta_S.items()}
    stepped = taken
    if on_update and s.removed:
        taken = project(taken, s.removed, projection)
        with torch.no_grad():
            for name, p in s.adapter.delta_S.items():
                p.copy_(before[name] - taken[name])
    s.adapter.fold()
    moved = float(squared_norm(taken)) > 0
    ensure(
        moved or float(norm) == 0,
        f"the gradient's norm is {float(norm):.3g}, yet the adapter did not move",
    )
    return {
        "grad_norm_pre": float(squared_norm(gradients).sqrt()),
        "grad_norm": float(norm),
        "learning_rate": lr,
        "cos_pre": alignment(gradients, s.V),
        "cos_post": alignment(projected, s.V),
        "cos_update": alignment(taken, s.V),
        "cos_null": statistics.mean(null_cosine(*V.shape) for V in s.V.values()),
        "removed_frac": float(removed_fraction(gradients, projected)) if on_grad else None,
        "removed_frac_update": float(removed_fraction(stepped, taken)) if on_update else None,
        "hackward_frac": float(hackward_fraction(gradients, s.V)),
        "covered_energy": float(covered_energy(gradients, s.V)),
    }


def learning_rate(cfg: Config, step: int) -> float:
    """Linear warm-up over `warmup_steps`, its first step above zero, then constant."""
    return cfg.lr * min(1.0, step / max(cfg.warmup_steps, 1))


def run_step(s: Session, step: int, num_tokens: int) -> tuple[dict[str, Value], list[Row]]:
    """One step, as a row of every declared column and the step's rollouts."""
    clock = [time.perf_counter()]

    def lap() -> float:
        if s.device.type == "cuda":
            torch.cuda.synchronize()
        clock.append(time.perf_counter())
        return clock[-1] - clock[-2]

    groups = sample_rows(s, step)
    timings = {"gen": lap()}
    grade_rows(s, groups)
    timings["t_rew"] = lap()
    rows = [row for group in groups for row in group]
    accumulated = accumulate_gradients(s, rows)
    timings["fb"] = lap()
    measured = optimize(s, accumulated.total, learning_rate(s.cfg, step))
    timings["t_proj"] = lap()
    timings["step_time"] = clock[-1] - clock[0]
    row: dict[str, Value] = {
        "step": step,
        **grade_columns(groups),
        **loss_columns(accumulated, s.V, s.cfg.beta),
        **measured,
        **timings,
        "num_tokens": num_tokens + sum(len(r.prompt) + len(r.ids) for r in rows),
        "peak_mem_gib": peak_memory_gib(s.device),
    }
    return row, rows


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """Ctrl-C or SIGTERM asks the loop to end after the step in hand; a second Ctrl-C ends it at
    once."""
    received: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        logger.warning("stopping after this step; press Ctrl-C again to stop at once")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(cfg: Config) -> Path:
    """Run or resume a whole run; returns its directory. What cannot be used is refused before
    writing."""
    started = time.perf_counter()
    run = None
    if cfg.resume is not None:
        run = RunDir.open(cfg.resume)
        cfg = resumed_config(cfg, run)
    else:
        RunDir.require_writable(cfg.out_dir)
    with ExitStack() as stack:
        s, v_hack = prepare(cfg, stack, run.v_hack if run else None)
        done, num_tokens = 0, 0
        if run is None:
            first = problems_of_step(s.problems, cfg.prompts_per_step, cfg.seed, 1)[0]
            prompt = s.lm.render(first.messages)
            run = RunDir.create(cfg, s.device, v_hack, prompt, data_digest(s))
        else:
            run.require_data(data_digest(s))
            done, num_tokens = run.load_checkpoint(s.adapter, s.optimizer)
            run.note_resume(done, s.device)
        log_format = "{time:HH:mm:ss} {level: <7} {message}"
        stack.callback(logger.remove, logger.add(run.log, format=log_format, level="INFO"))
        logger.info("run      {}", run.path)
        describe(s)
        steps = StepLogger(run.steps, logger.info)
        steps.header()
        status = "failed"
        try:
            status = _loop(s, run, steps, done, num_tokens)
            if status == "finished":
                run.save_adapter(s.adapter, cfg)
        finally:
            run.finish(status)
            if status != "finished":
                logger.warning("go on with: train {} --resume={}", cfg.preset_name, run.path)
        seconds, memory = time.perf_counter() - started, peak_memory_gib(s.device)
        logger.info("{} after {:.0f} s, peak memory {:.2f} GiB", status, seconds, memory)
        print(f"\n{steps.table()}\n\n{run.path}")
    if status == "stopped":
        raise KeyboardInterrupt  # saved, but not done: whoever waits for this process must see it
    return run.path


def _loop(s: Session, run: RunDir, steps: StepLogger, done: int, num_tokens: int) -> str:
    """All steps after `done`; returns "finished", or "stopped" where a signal asked for it."""
    cfg = s.cfg
    with _stop_on_signal() as stop:
        for step in range(done + 1, cfg.steps + 1):
            row, rows = run_step(s, step, num_tokens)
            num_tokens += sum(len(r.prompt) + len(r.ids) for r in rows)
            append_rows(run.rollouts, [rollout_record(step, i, r) for i, r in enumerate(rows)])
            steps.step(row)
            if step % cfg.checkpoint_every == 0 or step == cfg.steps or stop:
                run.save_checkpoint(step, s.adapter, s.optimizer, num_tokens)
            if stop and step < cfg.steps:
                return "stopped"
    return "finished"


def resumed_config(asked: Config, run: RunDir) -> Config:
    """The stored settings of a run. Raises ConfigError where the command line asks for other
    ones."""
    stored = run.stored_config(type(asked))
    default = vars(type(asked)())
    given = {name: value for name, value in vars(asked).items() if value != default[name]}
    for name, wanted in given.items():
        had = vars(stored)[name]
        if name not in (*MACHINE_SETTINGS, "resume") and wanted != had:
            raise ConfigError(
                f"{run.path} was started with {name} = {had}; it cannot be resumed with {wanted}: "
                f"leave --{name.replace('_', '-')} out, or start a new run"
            )
    logger.info("resuming {} with the settings it was started with", run.path)
    return replace(stored, **{name: given[name] for name in MACHINE_SETTINGS if name in given})
