"""Hack-score weights: rows that pull along the hack directions count less.

The weights read no label; but where a run learns axes (`running_k`) these are among the directions,
and they come from labels.

Projection takes a component off the sum of all rows' gradients; this takes whole rows down, their
parts outside V included, so that a hack which V sees is not learned through what V misses. Every
row's own gradient is there after the backward (`Adapter.rows`) and is linear in its advantage, so
a weight on the gradient is a weight on the advantage.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from projected_grpo.arms.rows import RowGradients, StepSums
from projected_grpo.arms.treatment import Treatment
from projected_grpo.proj import cosine
from projected_grpo.step_logger import Value


def hack_weights(scores: Tensor, strength: float) -> Tensor:
    """exp(-strength max(z, 0)) in [0, 1], (B,): z is the score over all these rows, standardised.

    Rows at or below the mean keep all of their gradient; one deviation above it a row keeps
    exp(-strength). Where all scores are the same nothing tells the rows apart, and all keep theirs.
    """
    off = scores - scores.mean()
    deviation = off.square().mean().sqrt()
    z = torch.where(deviation > 0, off / deviation.clamp_min(1e-38), 0.0)
    return torch.exp(-strength * torch.relu(z))


def scores_along(
    gradients: dict[str, Tensor], removed: dict[str, Tensor], advantages: Tensor
) -> Tensor:
    """Alignment of every row's grad NLL with the basis, (B,): the cosine of its loss gradient, the
    sign of its advantage taken out.

    The basis is what the run's arm removes and not what it measures: in random_v the rows are
    weighted along random directions.
    """
    return cosine(gradients, removed) * advantages.sign()


def runs_with_row_weights(treatments: Sequence[Treatment]) -> frozenset[int]:
    """The runs whose rows are weighted: those that ask for it and remove something."""
    return frozenset(
        n
        for t in treatments
        if t.score_weight
        for n, removes in zip(t.runs.tolist(), t.removes(), strict=True)
        if removes
    )


def weigh_rows(
    treatments: Sequence[Treatment], total: StepSums, per_row: RowGradients, n_runs: int
) -> list[Value]:
    """Take off `total` what the weights leave out of every row's gradient; returns the mean weight
    of each run, None where rows have none.

    z is over a run's rows of the step, of all its problems: more of them than a group has, and the
    mean gradient of a problem's rows has no say in which problem is learned from. Rows at their
    group's mean pull nowhere, have no score and take no part.
    """
    means: list[Value] = [None] * n_runs
    for t in treatments:
        for i, n in enumerate(t.runs.tolist()):
            mine = per_row.of(n)
            if not (t.score_weight and mine.rows):
                continue
            # A module of zero rows, padding for the other runs, only scales all scores alike.
            removed = {name: rows[i] for name, rows in t.removed.items()}
            advantages = mine.tensor([row.advantage for row in mine.rows])
            scores = scores_along(mine.gradients, removed, advantages)
            w = hack_weights(scores, t.score_weight)
            less = {name: g * (w - 1)[:, None] for name, g in mine.gradients.items()}
            student = mine.tensor([row.source == "student" for row in mine.rows])
            total.add_gradients(less, torch.full_like(student, n, dtype=torch.long), student)
            for row, weight in zip(mine.rows, w.tolist(), strict=True):
                row.weight = weight
            means[n] = float(w.mean())
    return means
