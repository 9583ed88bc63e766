"""What a step leaves behind: its rollouts while they are worked on, its row in steps.jsonl, their
records."""

import resource
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from projected_grpo.env.grader import Grade
from projected_grpo.env.problems import Problem
from projected_grpo.env.sandbox import Outcome
from projected_grpo.proj import Basis, cosine, squared_norm
from projected_grpo.step_logger import Value


@dataclass(slots=True)
class Row:
    """One completion of a step and all that becomes of it."""

    problem: Problem
    source: str  # student | teacher
    prompt: list[int]
    ids: list[int]
    terminated: bool
    logps: list[float] | None  # the sampler's; None: teacher
    text: str
    grade: Grade = field(init=False)
    advantage: float = 0.0
    learns: bool = False  # part of the loss: neither masked nor in a group without reward variance
    hack_score: float | None = None  # alignment of grad NLL with V, whatever the advantage

    @property
    def mode(self) -> str:
        """The loophole mode its prompt disclosed."""
        return self.problem.mode or "none"


@dataclass(slots=True)
class Accumulated:
    """Sums over the micro-batches of one step."""

    student: dict[str, Tensor]  # module -> gradient of the student rows (N, r)
    teacher: dict[str, Tensor]
    loss: float = 0.0
    kl: float = 0.0
    clipped: int = 0
    tokens: int = 0
    logp_differences: list[Tensor] = field(
        default_factory=list
    )  # student tokens, sampler - trainer

    @property
    def student_differences(self) -> Tensor:
        """`logp_differences` of all micro-batches, flat; empty where no student row took part."""
        return torch.cat([torch.zeros(0), *(d.cpu() for d in self.logp_differences)])

    @property
    def total(self) -> dict[str, Tensor]:
        return {name: self.student[name] + self.teacher[name] for name in self.student}


def grade_columns(groups: list[list[Row]]) -> dict[str, Value]:
    """The columns that grades decide; rows that the grader failed on are counted apart."""
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
            not any(row.learns for row in group) for group in groups
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


def alignment(gradients: dict[str, Tensor], V: Basis) -> float | None:
    """Cosine of one run's gradient with V; None where there is no gradient to measure."""
    return float(cosine(gradients, V)) if float(squared_norm(gradients)) > 0 else None


def loss_columns(a: Accumulated, V: Basis, beta: float) -> dict[str, Value]:
    """The columns of the loss and of its gradient by source."""
    student = a.student_differences

    return {
        "loss": a.loss,
        "kl": a.kl / student.numel() if beta > 0 and student.numel() else None,
        "clip_ratio": a.clipped / a.tokens if a.tokens else None,
        "sampling_logp_diff_max": float(student.abs().max()) if student.numel() else None,
        "cos_pre_s": alignment(a.student, V),
        "cos_pre_t": alignment(a.teacher, V),
    }


def peak_memory_gib(device: torch.device) -> float:
    """Highest memory so far: allocated on the GPU, or resident in this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def rollout_record(step: int, index: int, row: Row) -> dict[str, Any]:
    """One line of rollouts.jsonl."""
    return {
        "step": step,
        "sample_id": f"{step}/{index}",
        "problem_id": row.problem.id,
        "source": row.source,
        "mode": row.mode,
        "completion": row.text,
        "completion_tokens": len(row.ids),
        "terminated": row.terminated,
        "advantage": row.advantage,
        "hack_score": row.hack_score,
        **asdict(row.grade),
    }
