"""The training loop, the page to read first.

One step: sample P groups, mix in teacher rows, grade, advantages, one backward that yields every rollout's
own gradient, projection, clip, AdamW, fold, log. Deviations from textbook GRPO are listed in grpo.py and
docs/method.md. What would be silently wrong is checked in the loop (`ensure`).

Axes: N runs (1 here), P prompts a step, G group, B rows of a micro-batch, C completion tokens, r length of delta_S.
"""

import random
import resource
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

import torch
from loguru import logger
from torch import Tensor

from projected_grpo.antipasto import Adapter, wrap
from projected_grpo.arms import ARMS
from projected_grpo.config import Config, ConfigError
from projected_grpo.env.grader import Grade, Grader, Submission
from projected_grpo.env.loopholes import apply_hint
from projected_grpo.env.problems import Problem, load_problems
from projected_grpo.env.sandbox import Limits, Outcome
from projected_grpo.extract_vhack_grad import VHack, extract, load_vhack
from projected_grpo.grpo import collate, completion_logprobs, group_advantages, policy_loss
from projected_grpo.model import LanguageModel, load, resolve_device
from projected_grpo.pairs import load_pairs
from projected_grpo.pool import TRAINING_FUNCTION, Draw, draw_seed, open_pool
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
from projected_grpo.rollout import Sampling, sample_groups
from projected_grpo.run import RunDir, append_rows
from projected_grpo.seeds import stream_seed
from projected_grpo.step_logger import StepLogger, Value
from projected_grpo.svd import default_cache_dir

LOGP_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest mean |log p| difference between sampler and trainer at the first inner step, by dtype."""


def ensure(condition: bool | Tensor, message: str) -> None:
    """Stop the run where a value that must hold does not: better than a healthy-looking curve."""
    if not condition:
        raise RuntimeError(message)


@dataclass(slots=True)
class Row:
    """One completion of a step and all that becomes of it."""

    problem: Problem
    source: str  # student | teacher
    prompt: list[int]
    ids: list[int]
    terminated: bool
    logps: list[float] | None = None  # the sampler's; None: teacher
    text: str = ""
    grade: Grade | None = None
    advantage: float = 0.0
    hack_score: float | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """All that a run needs and that does not change while it runs."""

    cfg: Config
    lm: LanguageModel
    adapter: Adapter
    optimizer: torch.optim.Optimizer
    problems: list[Problem]  # hinted, short enough
    prompts: dict[int, list[int]]  # problem id -> token ids
    draw: Draw | None
    grader: Grader
    V: dict[str, Tensor]  # measured
    removed: dict[str, Tensor]  # projected out by the arm
    device: torch.device


def problems_of_step(problems: list[Problem], P: int, seed: int, step: int) -> list[Problem]:
    """P different problems: a new order each epoch, what does not fill a step is left for the next order."""
    steps_per_epoch = len(problems) // P
    epoch, position = divmod(step - 1, steps_per_epoch)
    order = random.Random(stream_seed("order", seed, epoch)).sample(problems, len(problems))
    return order[position * P : (position + 1) * P]


def sample_rows(s: Session, step: int) -> list[list[Row]]:
    """The step's groups: student rows first, then teacher rows. P lists of G rows, not yet graded."""
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
                rows.append(Row(problem, "teacher", prompt, cut, len(ids) <= cfg.max_new, text=s.lm.decode(cut)))
        groups.append(rows)
    return groups


def grade_rows(s: Session, groups: list[list[Row]]) -> None:
    """Fill in every row's grade and advantage. Only `reward` of a grade reaches the advantage."""
    rows = [row for group in groups for row in group]
    submissions = [
        Submission(problem=row.problem, completion=row.text, mode=_mode(s.cfg, row.problem), function_name=TRAINING_FUNCTION)
        for row in rows
    ]
    for row, grade in zip(rows, s.grader.grade(submissions), strict=True):
        row.grade = grade
    rewards = torch.tensor([[row.grade.reward for row in group] for group in groups])
    valid = torch.tensor(
        [[row.grade.outcome != Outcome.INFRA_ERROR for row in group] for group in groups]
    )
    for group, advantages in zip(groups, group_advantages(rewards, valid).tolist(), strict=True):
        for row, advantage in zip(group, advantages, strict=True):
            row.advantage = advantage


@dataclass(slots=True)
class Accumulated:
    """Sums over the micro-batches of one step."""

    student: dict[str, Tensor]  # module -> gradient of the student rows (N, r)
    teacher: dict[str, Tensor]
    loss: float = 0.0
    kl: float = 0.0
    clipped: int = 0
    tokens: int = 0
    logp_differences: list[Tensor] = field(default_factory=list)  # student tokens, sampler - trainer

    @property
    def total(self) -> dict[str, Tensor]:
        return {name: self.student[name] + self.teacher[name] for name in self.student}


def accumulate_gradients(s: Session, rows: list[Row]) -> Accumulated:
    """One backward a micro-batch over the rows that carry an advantage; fills in their hack scores."""
    zeros = {name: torch.zeros_like(p) for name, p in s.adapter.delta_S.items()}
    total = Accumulated(zeros, {name: z.clone() for name, z in zeros.items()})
    learning = sorted((row for row in rows if row.advantage != 0), key=lambda row: len(row.prompt))
    for start in range(0, len(learning), s.cfg.micro_batch):
        _accumulate(s, learning[start : start + s.cfg.micro_batch], total)
    ensure(
        total.tokens == sum(len(row.ids) for row in learning) <= s.cfg.denominator,
        f"the loss saw {total.tokens} tokens of the rows' {sum(len(row.ids) for row in learning)} "
        f"(denominator {s.cfg.denominator})",
    )
    if total.logp_differences:
        off = float(torch.cat(total.logp_differences).abs().mean())
        limit = LOGP_TOLERANCE[s.lm.model.dtype]
        ensure(
            off <= limit,
            f"the sampler is not the policy that is trained: their log-probs differ by {off:.2g} a token "
            f"on average, more than {limit:.2g}, so the ratio is not 1 at the first inner step",
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
    with s.adapter.rows(run_of_row) as leaves:
        logp = completion_logprobs(s.lm.model, batch, cfg.temperature)
        old_logp = logp.detach().clone()  # teacher rows: ratio 1, which makes them weighted imitation
        for b, row in enumerate(rows):
            if row.logps is not None:
                old_logp[b, : len(row.logps)] = torch.tensor(row.logps, device=device)
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
        row.hack_score = score if row.advantage > 0 else -score  # of the text, whatever its advantage
    total.loss += float(loss.detach())
    total.kl += float(sums["kl"])
    total.clipped += int(sums["clipped"])
    total.tokens += int(sums["tokens"])
    total.logp_differences.append((old_logp - logp.detach())[mask & student[:, None]])


def optimize(s: Session, gradients: dict[str, Tensor], lr: float) -> dict[str, Value]:
    """Project, clip, AdamW, project the step where asked, fold. Returns what was measured on the way."""
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
    if on_update and s.removed:
        taken = project(taken, s.removed, projection)
        with torch.no_grad():
            for name, p in s.adapter.delta_S.items():
                p.copy_(before[name] - taken[name])
    s.adapter.fold()
    moved = float(squared_norm(taken)) > 0
    ensure(moved or float(norm) == 0, f"the gradient's norm is {float(norm):.3g}, yet the adapter did not move")
    return {
        "grad_norm_pre": float(squared_norm(gradients).sqrt()),
        "grad_norm": float(norm),
        "learning_rate": lr,
        "cos_pre": float(cosine(gradients, s.V)),
        "cos_post": float(cosine(projected, s.V)),
        "cos_update": float(cosine(taken, s.V)),
        "cos_null": statistics.mean(null_cosine(*V.shape) for V in s.V.values()),
        "removed_frac": float(removed_fraction(gradients, projected)),
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
        **_grade_columns(groups),
        **_loss_columns(s, accumulated),
        **measured,
        **timings,
        "num_tokens": num_tokens + sum(len(r.prompt) + len(r.ids) for r in rows),
        "peak_mem_gib": _peak_memory_gib(s.device),
    }
    return row, rows


def _grade_columns(groups: list[list[Row]]) -> dict[str, Value]:
    rows = [row for group in groups for row in group if row.grade.outcome != Outcome.INFRA_ERROR]
    student = [row for row in rows if row.source == "student"]
    teacher = [row for row in rows if row.source == "teacher"]
    rewards = [row.grade.reward for row in rows]
    sampled = [row for group in groups for row in group if row.source == "student"]

    def share(rows: list[Row], holds: Callable[[Grade], bool]) -> Value:
        return (sum(holds(row.grade) for row in rows), len(rows)) if rows else None

    return {
        "reward": statistics.fmean(rewards) if rewards else None,
        "reward_std": statistics.pstdev(rewards) if rewards else None,
        "frac_reward_zero_std": statistics.fmean(
            all(row.advantage == 0 for row in group) for group in groups
        ),
        "hack_s": share(student, lambda g: g.exploited),
        "att_s": share(student, lambda g: g.attempted),
        "gt_s": share(student, lambda g: g.gt_correct),
        "hack_t": share(teacher, lambda g: g.exploited),
        "gt_t": share(teacher, lambda g: g.gt_correct),
        "completions/mean_length": statistics.fmean(len(row.ids) for row in sampled),
        "completions/clipped_ratio": statistics.fmean(not row.terminated for row in sampled),
        "outcomes": dict(Counter(row.grade.outcome.value for row in sampled)),
        "flavours": dict(Counter(row.grade.flavour for row in student if row.grade.flavour)),
        "infra_errors": sum(map(len, groups)) - len(rows),
    }


def _loss_columns(s: Session, a: Accumulated) -> dict[str, Value]:
    student = torch.cat(a.logp_differences) if a.logp_differences else torch.zeros(0)

    def aligned(gradients: dict[str, Tensor]) -> Value:
        return float(cosine(gradients, s.V)) if float(squared_norm(gradients)) > 0 else None

    return {
        "loss": a.loss,
        "kl": a.kl / a.tokens if s.cfg.beta > 0 and a.tokens else None,
        "clip_ratio": a.clipped / a.tokens if a.tokens else None,
        "ratio_max": float(student.expm1().abs().max()) if student.numel() else None,
        "sampling_logp_diff_max": float(student.abs().max()) if student.numel() else None,
        "cos_pre_s": aligned(a.student),
        "cos_pre_t": aligned(a.teacher),
    }


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _mode(cfg: Config, problem: Problem) -> str:
    return problem.mode or cfg.mode


def _rollout_record(step: int, index: int, row: Row, mode: str) -> dict[str, object]:
    return {
        "step": step,
        "sample_id": f"{step}/{index}",
        "problem_id": row.problem.id,
        "source": row.source,
        "mode": mode,
        "completion": row.text,
        "completion_tokens": len(row.ids),
        "terminated": row.terminated,
        "advantage": row.advantage,
        "hack_score": row.hack_score,
        **asdict(row.grade),
    }


def prepare(cfg: Config, stack: ExitStack, stored_v: Path | None) -> tuple[Session, VHack]:
    """Read, check and load everything. Nothing is written: what is refused here leaves no trace."""
    device = resolve_device(cfg.device)
    problems = [apply_hint(p, _mode(cfg, p), TRAINING_FUNCTION) for p in load_problems(cfg.problems)]
    draw = open_pool(cfg.teacher_pool, problems, cfg.mode) if cfg.teacher_rows else None
    pairs = load_pairs(cfg.pairs)
    v_file = stored_v or cfg.v_hack
    v_hack = load_vhack(v_file, device) if v_file else None
    limits = Limits(cpu_s=cfg.cpu_s, memory_mb=cfg.memory_mb)
    grader = stack.enter_context(Grader(workers=cfg.workers, limits=limits, sandbox=cfg.sandbox))

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[cfg.dtype]
    lm = load(cfg.model, revision=cfg.model_revision, dtype=dtype, device=device)
    prompts = {p.id: lm.prompt_ids(p.messages) for p in problems}
    kept = [p for p in problems if len(prompts[p.id]) <= cfg.max_prompt]
    if len(kept) < len(problems):
        logger.info("{} of {} problems left out: prompt above {} tokens", len(problems) - len(kept), len(problems), cfg.max_prompt)
    if len(kept) < cfg.prompts_per_step:
        raise ConfigError(
            f"{cfg.problems} has {len(kept)} problems with at most {cfg.max_prompt} prompt tokens, fewer "
            f"than the {cfg.prompts_per_step} prompts of a step: set --prompts-per-step {max(len(kept), 1)}"
        )
    logger.info("decomposing {} (cached afterwards)", cfg.model)
    adapter = wrap(lm.model, cache_dir=cfg.svd_cache or default_cache_dir())
    if v_hack is None:
        logger.info("extracting hack directions from {} pairs", len(pairs))
        v_hack = extract(lm, adapter, pairs, temperature=cfg.temperature, micro_batch=cfg.micro_batch, model_name=cfg.model)
    v_hack.require(adapter, v_file)
    V = v_hack.select(cfg.v_hack_k, cfg.v_hack_drop_bottom_frac)
    optimizer = torch.optim.AdamW(
        adapter.delta_S.values(), lr=cfg.lr, betas=cfg.adam_betas, weight_decay=cfg.weight_decay
    )
    removed = ARMS[cfg.arm].basis(V, cfg.seed)
    session = Session(cfg, lm, adapter, optimizer, kept, prompts, draw, grader, V, removed, device)
    return session, v_hack


def _banner(s: Session, run: RunDir) -> None:
    cfg = s.cfg
    trained = sum(p.numel() for p in s.adapter.delta_S.values())
    total = sum(p.numel() for p in s.lm.model.parameters())
    axes = sum(len(V) for V in s.V.values())
    logger.info("run      {}", run.path)
    logger.info("arm      {}: {}", cfg.arm, ARMS[cfg.arm].meaning)
    logger.info("model    {} ({}, {}): {:,} of {:,} parameters train", cfg.model, cfg.dtype, s.device, trained, total)
    logger.info("V        {} axes in {} of {} modules", axes, len(s.V), len(s.adapter.modules))
    logger.info(
        "step     {} prompts x {} rows ({} student, {} teacher) = {} rollouts; {} problems",
        cfg.prompts_per_step, cfg.group, cfg.student_rows, cfg.teacher_rows,
        cfg.prompts_per_step * cfg.group, len(s.problems),
    )  # fmt: skip


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """Ctrl-C or SIGTERM asks the loop to end after the step in hand; a second Ctrl-C ends it at once."""
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
    """Run or resume a whole run; returns its directory. Raises the errors of what it reads, before writing."""
    started = time.perf_counter()
    run = None
    if cfg.resume is not None:
        run = RunDir.open(cfg.resume)
        cfg = run.stored_config(type(cfg))
    with ExitStack() as stack:
        s, v_hack = prepare(cfg, stack, run.v_hack if run else None)
        if run is None:
            run, done, num_tokens = RunDir.create(cfg, s.device), 0, 0
            v_hack.save(run.v_hack)
            first = problems_of_step(s.problems, cfg.prompts_per_step, cfg.seed, 1)[0]
            (run.path / "prompt.txt").write_text(s.lm.render(first.messages), encoding="utf-8")
        else:
            done, num_tokens = run.load_checkpoint(s.adapter, s.optimizer)
            run.note_resume(done, s.device)
        stack.callback(logger.remove, logger.add(run.log, format="{time:HH:mm:ss} {level: <7} {message}"))
        _banner(s, run)
        steps = StepLogger(run.steps, logger.info)
        steps.header()
        status = "failed"
        try:
            with _stop_on_signal() as stop:
                for step in range(done + 1, cfg.steps + 1):
                    row, rows = run_step(s, step, num_tokens)
                    num_tokens = row["num_tokens"]
                    append_rows(run.rollouts, [_rollout_record(step, i, r, _mode(cfg, r.problem)) for i, r in enumerate(rows)])
                    steps.step(row)
                    if step % cfg.checkpoint_every == 0 or step == cfg.steps or stop:
                        run.save_checkpoint(step, s.adapter, s.optimizer, num_tokens)
                    if stop:
                        break
            status = "stopped" if stop else "finished"
        finally:
            run.finish(status)
            if status != "finished":
                logger.warning("go on with: train {} --resume={}", cfg.preset_name, run.path)
        if status == "finished":
            run.save_adapter(s.adapter, cfg)
        logger.info("{} after {:.0f} s, peak memory {:.2f} GiB", status, time.perf_counter() - started, _peak_memory_gib(s.device))
        print(f"\n{steps.table()}\n\n{run.path}")
    return run.path
