"""What a step leaves behind: its rollouts while they are worked on, its row in steps.jsonl, their
records."""

import resource
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from projected_grpo.arms.token_scores import encode_lengths, encode_pulls, strongest_window
from projected_grpo.env.grading.schema import SHARES, Grade
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.proj import Basis, Grads, cosine, squared_norm
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
    run: int = 0  # of the packed axis
    advantage: float = 0.0
    learns: bool = False  # part of the loss: neither masked nor in a group without reward variance
    hack_score: float | None = None  # alignment of grad NLL with V, whatever the advantage
    concept_score: float | None = None  # of the hidden state, where the arm scores it
    penalty: float = 0.0  # what the arm takes off the grade's reward
    weight: float = 1.0  # of its gradient in the step's (row_weights.py)
    pull: NDArray[np.float64] | None = None  # of each token along V, at the policy
    pull_base: NDArray[np.float64] | None = None  # at the base, along what its screen scores
    screen_score: float | None = None  # what its run's screen makes of it (screening.py)
    flagged: bool = False  # by that screen, itself or a token of it
    flagged_tokens: list[int] = field(default_factory=list)  # which do not count, by index

    @property
    def mode(self) -> str:
        """The loophole mode its prompt disclosed."""
        return self.problem.mode or "none"


@dataclass(slots=True)
class RowGradients:
    """Rows of one step with the gradient of each, for what needs them after the last micro-batch:
    of those runs only, and those rows only that pull somewhere (advantage not 0)."""

    runs: frozenset[int]
    """The runs whose rows are kept; the others cost nothing."""
    rows: list[Row] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    """module -> (rows, r)"""
    _parts: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, rows: list[Row], gradients: Mapping[str, Tensor]) -> None:
        """Keep what is wanted of a micro-batch: its rows, and module -> (B, r)."""
        some = [b for b, row in enumerate(rows) if row.run in self.runs and row.advantage != 0]
        if some:
            self.rows += [rows[b] for b in some]
            places = torch.tensor(some, device=next(iter(gradients.values())).device)
            for name, g in gradients.items():
                self._parts.setdefault(name, []).append(g[places])

    def close(self) -> None:
        """Put the micro-batches together; once, after the last."""
        self.gradients = {name: torch.cat(parts) for name, parts in self._parts.items()}
        self._parts = {}

    def of(self, run: int) -> "RowGradients":
        """The rows of one run."""
        some = [b for b, row in enumerate(self.rows) if row.run == run]
        rows = [self.rows[b] for b in some]
        gradients = {name: g[some] for name, g in self.gradients.items()} if some else {}
        return RowGradients(frozenset({run}), rows, gradients)

    def tensor(self, values: Sequence[float | bool]) -> Tensor:
        """One value a row, beside the gradients."""
        return torch.tensor(values, device=next(iter(self.gradients.values())).device)


class StepSums:
    """Sums over the micro-batches of one step, one entry (or row) for each of the N runs."""

    def __init__(self, trained: Mapping[str, Tensor]) -> None:
        first = next(iter(trained.values()))
        n, device = first.shape[0], first.device
        self._gradients = {name: p.new_zeros(2 * n, p.shape[1]) for name, p in trained.items()}
        self.student = {name: sums[:n] for name, sums in self._gradients.items()}  # (N, r)
        self.teacher = {name: sums[n:] for name, sums in self._gradients.items()}
        self.loss = torch.zeros(n, dtype=torch.float64, device=device)
        self.kl = torch.zeros_like(self.loss)
        self.clipped = torch.zeros(n, dtype=torch.long, device=device)
        self.tokens = torch.zeros_like(self.clipped)
        self.student_tokens = torch.zeros_like(self.clipped)
        self.logp_difference = torch.zeros_like(self.loss)  # sum of |sampler - trainer|, students'
        self.logp_difference_max = torch.zeros_like(self.loss)

    @property
    def sums(self) -> list[Tensor]:
        """What adds up over processes: everything but `logp_difference_max`."""
        counts = (self.clipped, self.tokens, self.student_tokens)
        gradients = (*self.student.values(), *self.teacher.values())
        return [*gradients, self.loss, self.kl, self.logp_difference, *counts]

    @property
    def total(self) -> dict[str, Tensor]:
        """The gradient of all rows: module -> (N, r)."""
        return {name: self.student[name] + self.teacher[name] for name in self.student}

    def add_gradients(self, gradients: Mapping[str, Tensor], run: Tensor, student: Tensor) -> None:
        """Add every row's own gradient, module -> (B, r), to its run (B,) by its source (B,)."""
        place = torch.where(student, run, run + len(self.tokens))
        for name, g in gradients.items():
            self._gradients[name].index_add_(0, place, g)

    def add_sums(self, sums: Mapping[str, Tensor], run: Tensor) -> None:
        """Add the rows' own sums over tokens (B,) as `policy_loss` returns them."""
        self.loss.index_add_(0, run, sums["loss"].double())
        self.kl.index_add_(0, run, sums["kl"].double())
        self.clipped.index_add_(0, run, sums["clipped"])
        self.tokens.index_add_(0, run, sums["tokens"])

    def add_differences(self, difference: Tensor, mask: Tensor, run: Tensor) -> None:
        """Add |log p| differences of sampler and trainer (B, C) where `mask` (B, C) holds."""
        off = torch.where(mask, difference.abs(), 0.0).double()
        self.logp_difference.index_add_(0, run, off.sum(1))
        self.student_tokens.index_add_(0, run, mask.sum(1))
        self.logp_difference_max.scatter_reduce_(0, run, off.amax(1), "amax")


def grade_columns(groups: list[list[Row]]) -> dict[str, Value]:
    """The columns that grades decide; rows that the grader failed on are counted apart."""
    rows = [row for group in groups for row in group if row.grade.outcome != Outcome.INFRA_ERROR]
    student = [row for row in rows if row.source == "student"]
    teacher = [row for row in rows if row.source == "teacher"]
    rewards = [row.grade.reward for row in rows]
    sampled = [row for group in groups for row in group if row.source == "student"]

    def share(rows: list[Row], fact: str) -> Value:
        return (sum(getattr(row.grade, fact) for row in rows), len(rows)) if rows else None

    return {
        "reward": statistics.fmean(rewards) if rewards else None,
        "reward_std": statistics.pstdev(rewards) if rewards else None,
        "penalty": statistics.fmean(row.penalty for row in rows) if rows else None,
        "concept_std": _concept_std(groups),
        "frac_reward_zero_std": statistics.fmean(
            not any(row.learns for row in group) for group in groups
        ),
        **{metric: share(student, fact) for metric, fact in SHARES.items()},
        "hack_t": share(teacher, "exploited"),
        "gt_t": share(teacher, "gt_correct"),
        "hack_auroc": _auroc(student),
        "completions/mean_length": statistics.fmean(len(row.ids) for row in sampled),
        "completions/clipped_ratio": statistics.fmean(not row.terminated for row in sampled),
        "outcomes": dict(Counter(row.grade.outcome.value for row in sampled)),
        "flavours": dict(Counter(row.grade.flavour for row in student if row.grade.flavour)),
        "infra_errors": sum(map(len, groups)) - len(rows),
    }


def _concept_std(groups: list[list[Row]]) -> float | None:
    scores = [
        [r.concept_score for r in group if r.concept_score is not None and r.terminated]
        for group in groups
    ]
    spread = [statistics.stdev(group) for group in scores if len(group) > 1]
    return statistics.fmean(spread) if spread else None


def _auroc(rows: list[Row]) -> float | None:
    scored = [(r.hack_score, r.grade.exploited) for r in rows if r.hack_score is not None]
    kinds = Counter(hacked for _, hacked in scored)
    if min(kinds[True], kinds[False]) < 2:
        return None
    scores, hacked = zip(*scored, strict=True)
    return rank_auroc(scores, hacked)


def rank_auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """P(score of a hack > score of another row), a tie counting one half (Mann-Whitney); scores
    (n,), labels (n,) true for hacks. Raises ValueError where one kind is missing."""
    x, hacks = np.asarray(scores), np.asarray(labels, dtype=bool)
    if not hacks.any() or hacks.all():
        raise ValueError("one kind is missing")
    a, b = x[hacks][:, None], x[~hacks][None]
    return float(((a > b) + (a == b) / 2).mean())


def alignment(gradients: Grads, V: Basis) -> list[Value]:
    """Cosine of every run's gradient with V; None where there is no gradient to measure, or no
    V."""
    if not V:
        return [None] * len(next(iter(gradients.values())))
    lengths = squared_norm(gradients).tolist()
    cosines = cosine(gradients, V).tolist()
    return [c if length > 0 else None for c, length in zip(cosines, lengths, strict=True)]


def loss_columns(a: StepSums, beta: float) -> dict[str, list[Value]]:
    """The columns of the loss, a list over runs each."""
    student = a.student_tokens.tolist()
    some = [n > 0 for n in student]

    def where(holds: list[bool], values: Tensor) -> list[Value]:
        return [v if yes else None for v, yes in zip(values.tolist(), holds, strict=True)]

    return {
        "loss": a.loss.tolist(),
        "kl": where([beta > 0 and yes for yes in some], a.kl / a.student_tokens.clamp_min(1)),
        "clip_ratio": where((a.tokens > 0).tolist(), a.clipped / a.tokens.clamp_min(1)),
        "sampling_logp_diff_max": where(some, a.logp_difference_max),
    }


def peak_memory_gib(device: torch.device) -> float:
    """Highest memory so far: allocated on the GPU, or resident in this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def rollout_record(
    step: int, index: int, row: Row, characters: Callable[[list[int]], list[int]]
) -> dict[str, Any]:
    """One line of rollouts.jsonl. characters: ids -> how many characters each token adds to the
    text."""
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
        "concept_score": row.concept_score,
        "penalty": row.penalty,
        "weight": row.weight,
        **_token_record(row, characters),
        **row.grade.to_record(),
    }


def _token_record(row: Row, characters: Callable[[list[int]], list[int]]) -> dict[str, Any]:
    """What was measured of its tokens, and what a screen made of it; nothing where neither was."""
    found: dict[str, Any] = {}
    for name, pulls in (("pull_base", row.pull_base), ("pull", row.pull)):
        if pulls is not None:
            found[name] = encode_pulls(pulls)
    if (pulls := row.pull_base if row.pull_base is not None else row.pull) is not None:
        score, first, end = strongest_window(pulls)
        found |= {"token_chars": encode_lengths(characters(row.ids))}
        found |= {"window_score": score, "window_at": [first, end]}
    if row.screen_score is not None:
        found |= {"screen_score": row.screen_score, "flagged": row.flagged}
        found |= {"flagged_tokens": len(row.flagged_tokens)}
    return found
