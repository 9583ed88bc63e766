"""One optimizer step of all runs of a pack: project, clip, AdamW, project the step, fold.

Every run is on its own: AdamW works entry by entry, norms and clipping are taken by run, and each
treatment projects its own runs only.
"""

import statistics
from collections.abc import Sequence

import torch

from projected_grpo.arms.optimizer import adamw_step
from projected_grpo.arms.quarantine import Quarantine
from projected_grpo.arms.rows import alignment
from projected_grpo.arms.treatment import Treatment, columns_by_run
from projected_grpo.model.adapter import Adapter
from projected_grpo.proj import (
    Grads,
    Projection,
    covered_energy,
    hackward_fraction,
    inside_fraction,
    inside_fraction_by_chance,
    null_cosine,
    project,
    removed_fraction,
    squared_norm,
    turn,
)
from projected_grpo.step_logger import Value

MEASURED_ALONG_V = (
    *("cos_pre", "cos_post", "cos_update", "cos_null", "hackward_frac", "covered_energy"),
    *("inside_frac", "inside_null", "inside_frac_update", "inside_frac_delta"),
)
"""The columns of `measure` that are taken along V."""


def apply_projections(
    values: Grads, treatments: Sequence[Treatment], which: Sequence[bool]
) -> Grads:
    """`values` with the rows of every treatment for which `which` holds projected off its basis, or
    with as much removed elsewhere."""
    todo = [t for t, wanted in zip(treatments, which, strict=True) if wanted and t.removed]
    if not todo:
        return values
    out = {name: value.clone() for name, value in values.items()}
    for t in todo:
        before = t.of(values)
        after = project(before, t.removed, t.projection)
        for name, rows in turn(before, after, t.turn_axes).items():
            out[name][t.runs] = rows
    return out


def optimize(
    adapter: Adapter,
    optimizer: torch.optim.Optimizer,
    treatments: Sequence[Treatment],
    gradients: Grads,
    *,
    lr: Sequence[float],
    grad_clip: float,
    quarantine: Quarantine | None = None,
) -> dict[str, list[Value]]:
    """Take one step of every run; returns what was measured on the way, a list over runs each.

    What is removed trains the `quarantine` where there is one, in those runs that route.

    lr (N) is every run's own. Raises RuntimeError where a gradient is not finite,
    or a run with a gradient did not move.
    """
    norm_pre = squared_norm(gradients).sqrt()
    if not torch.isfinite(norm_pre).all():
        raise RuntimeError("a gradient is not finite")
    projected = apply_projections(gradients, treatments, [t.on_grad for t in treatments])
    norm = squared_norm(projected).sqrt()  # (N,)
    before, stepped = adamw_step(optimizer, adapter.trained, projected, lr, grad_clip)
    taken = apply_projections(stepped, treatments, [t.on_update for t in treatments])
    if taken is not stepped or min(lr) != max(lr):
        with torch.no_grad():
            for name, p in adapter.trained.items():
                p.copy_(before[name] - taken[name])
    moved, trusted = _shrink_inside(adapter, treatments, taken)
    if quarantine is not None:
        quarantine.step(
            {name: g - projected[name] for name, g in gradients.items()},
            {name: step - taken[name] for name, step in stepped.items()},
            lr=lr,
            grad_clip=grad_clip,
        )
    adapter.fold()
    still = (squared_norm(taken) == 0) & (norm > 0)
    if still.any():
        raise RuntimeError(
            f"the gradient's norm is {float(norm[still][0]):.3g}, yet the adapter did not move"
        )
    now = {name: p.detach() for name, p in adapter.trained.items()}
    stages = (gradients, projected, stepped, taken, moved, now)
    return {
        "grad_norm_pre": norm_pre.tolist(),
        "grad_norm": norm.tolist(),
        "learning_rate": list(lr),
        "trust_frac": trusted,
        **columns_by_run(treatments, len(norm), lambda t: measure(t, *map(t.of, stages))),
    }


def _shrink_inside(
    adapter: Adapter, treatments: Sequence[Treatment], taken: Grads
) -> tuple[Grads, list[Value]]:
    """Take its share (`trust`) of every run's delta_S in the span of what the run removes; returns
    the step with that in it, and |that| / |delta_S|, None where nothing is to be taken.

    Matters where delta_S has something in that span: from before V was refreshed or grew, from a
    gate or an overshoot that lets steps into it.
    """
    fractions: list[Value] = [None] * adapter.n_runs
    todo = [t for t in treatments if t.trust and t.removed]
    moved = {name: step.clone() for name, step in taken.items()} if todo else taken
    for t in todo:
        now = t.of({name: p.detach() for name, p in adapter.trained.items()})
        after = project(now, t.removed, Projection("no_gate", t.trust))
        with torch.no_grad():
            for name, p in adapter.trained.items():
                p[t.runs] = after[name]
                moved[name][t.runs] += now[name] - after[name]
        shares = removed_fraction(now, after).tolist()
        for n, removes, share in zip(t.runs.tolist(), t.removes(), shares, strict=True):
            fractions[n] = share if removes else None
    return moved, fractions


def measure(
    t: Treatment,
    gradients: Grads,
    projected: Grads,
    stepped: Grads,
    taken: Grads,
    moved: Grads,
    delta_S: Grads,
) -> dict[str, list[Value]]:
    """How a step of the treatment's runs lies to V, a list over these runs each; all (n, r).

    gradients -> projected: before and after `on_grad`; stepped -> taken: AdamW's step before and
    after `on_update`; moved: taken, and what `trust` took; delta_S: where all steps have led.
    """
    nothing: list[Value] = [None] * len(t.runs)
    removed: dict[str, list[Value]] = {
        "removed_frac": removed_fraction(gradients, projected).tolist() if t.on_grad else nothing,
        "removed_frac_update": (
            removed_fraction(stepped, taken).tolist() if t.on_update else nothing
        ),
    }
    if not t.V:
        return {**removed, **dict.fromkeys(MEASURED_ALONG_V, nothing)}
    null = statistics.mean(null_cosine(*V.shape) for V in t.V.values())
    return {
        **removed,
        "cos_pre": alignment(gradients, t.V),
        "cos_post": alignment(projected, t.V),
        "cos_update": alignment(moved, t.V),
        "cos_null": [null] * len(t.runs),
        "hackward_frac": hackward_fraction(gradients, t.V).tolist(),
        "inside_frac": inside_fraction(gradients, t.V).tolist(),
        "inside_null": inside_fraction_by_chance(gradients, t.V).tolist(),
        "inside_frac_update": inside_fraction(moved, t.V).tolist(),
        "inside_frac_delta": inside_fraction(delta_S, t.V).tolist(),
        "covered_energy": covered_energy(gradients, t.V).tolist(),
    }
