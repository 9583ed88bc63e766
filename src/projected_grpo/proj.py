"""Projection of gradients and updates off the hack directions: pure functions on tensors.

Signs. V comes from loss gradients (hack minus clean), so c = V g > 0 means that the step which
descends along g moves hack-ward. A *basis* maps module name -> V (k, r) with orthonormal rows; a
module that is not in it is left alone. Gradients map module name -> g (N, r), one row a run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Basis = Mapping[str, Tensor]
Grads = Mapping[str, Tensor]
"""module -> (N, r)."""

Coefficients = dict[str, Tensor]
"""module -> c = V g, (N, k)."""


def _one_sided(c: Coefficients) -> Coefficients:
    """Only what moves hack-ward is removed, axis by axis."""
    return {name: torch.relu(values) for name, values in c.items()}


def _no_gate(c: Coefficients) -> Coefficients:
    """The whole component: the gradient ends orthogonal to V."""
    return c


def _reverse(c: Coefficients) -> Coefficients:
    """The component changes sign."""
    return {name: 2 * values for name, values in c.items()}


def _whole(c: Coefficients) -> Coefficients:
    """The whole component in all modules, or nothing: a run's coefficients are summed over axes and
    modules, and the component goes where that sum is hack-ward.

    The axes of an SVD mix the flavours of the hack, each with its own sign, so that one_sided lets
    a flavour through where its sign is the minority's. Here one decision holds for all axes.
    """
    hackward = torch.stack([values.sum(-1) for values in c.values()]).sum(0) > 0  # (N,)
    return {name: torch.where(hackward[..., None], values, 0.0) for name, values in c.items()}


GATES: dict[str, Callable[[Coefficients], Coefficients]] = {
    "one_sided": _one_sided,
    "no_gate": _no_gate,
    "reverse": _reverse,
    "whole": _whole,
}
"""gate -> how much of each coefficient is taken away."""


@dataclass(frozen=True, slots=True)
class Projection:
    """How much of a gradient is removed along V, and what becomes of its length."""

    gate: str = "one_sided"
    overshoot: float = 1.0
    """Factor on what is removed; 0 is the identity, above 1 pushes past the orthogonal
    complement."""
    preserve_magnitude: bool = False
    """Rescale to the length before the projection ("erase, then boost")."""

    def __call__(self, g: Tensor, V: Tensor) -> Tensor:
        """g (..., r) of a single module with its part along the rows of V (k, r) removed."""
        return project({"": g}, {"": V}, self)[""]


def coefficients(g: Tensor, V: Tensor) -> Tensor:
    """c = V g: g (..., r) with V (k, r), or g (N, r) with every run's own V (N, k, r) -> (...,
    k)."""
    return (g.unsqueeze(-2) @ V.mT).squeeze(-2)


def _combine(c: Tensor, V: Tensor) -> Tensor:
    """c V: (..., k) -> (..., r)."""
    return (c.unsqueeze(-2) @ V).squeeze(-2)


def project(grads: Grads, basis: Basis, projection: Projection) -> dict[str, Tensor]:
    """Every gradient that has a V in `basis` projected off it; the others as they are. A zero V
    returns its gradient bit for bit."""
    inside = {name: coefficients(g, basis[name]) for name, g in grads.items() if name in basis}
    taken = GATES[projection.gate](inside) if inside else {}
    return {
        name: _without(g, projection.overshoot * _combine(taken[name], basis[name]), projection)
        if name in taken
        else g
        for name, g in grads.items()
    }


def _without(g: Tensor, removed: Tensor, projection: Projection) -> Tensor:
    """g less `removed`, both (..., r), at the length of g where that is to be preserved."""
    left = g - removed
    if not projection.preserve_magnitude:
        return left
    before, after = g.norm(dim=-1, keepdim=True), left.norm(dim=-1, keepdim=True)
    return left * torch.where(after > 0, before / after, 1.0)


def turn(before: Grads, after: Grads, about: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`after` with what was removed from `before` turned about `before`: the same norm, the same
    angle to `before`, and so the same norm left, but in a random direction.

    about: module -> random unit vectors (N, r), zeros for a run that is to stay as it is. What is
    removed lies in the plane of `before` and that vector h, on the side on which h's own component
    is: where that component has the norm of what was removed, it is what is removed. Module by
    module; a module in which nothing was removed comes back bit for bit.
    """
    return {
        name: _turn_module(g, after[name], about[name]) if name in about else after[name]
        for name, g in before.items()
    }


def _turn_module(before: Tensor, after: Tensor, h: Tensor) -> Tensor:
    removed = before - after

    def along(x: Tensor) -> Tensor:  # the part of x in the direction of `before`
        length = before.square().sum(-1, keepdim=True).clamp_min(1e-38)
        return (x * before).sum(-1, keepdim=True) / length * before

    parallel = along(removed)
    across = h - along(h)
    side = torch.where((h * before).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    unit = side * across / across.norm(dim=-1, keepdim=True).clamp_min(1e-38)
    other = parallel + (removed - parallel).norm(dim=-1, keepdim=True) * unit
    acts = h.any(-1, keepdim=True) & removed.any(-1, keepdim=True)
    return torch.where(acts, before - other, after)


def cosine(grads: Grads, basis: Basis) -> Tensor:
    """Signed alignment (N,): the mean over modules of sum(V g) / |g|, 0 for a module without
    gradient.

    One module's value lies in [-sqrt(k), sqrt(k)]; against a random basis it has mean 0 and
    standard deviation `null_cosine`. After a one-sided projection no module's value is above 0.
    """
    return torch.stack(
        [_over_norm(coefficients(g, V).sum(-1), g) for g, V in _covered(grads, basis)]
    ).mean(0)


def mean_axes(bases: Sequence[Basis]) -> dict[str, Tensor]:
    """module -> v (r, D), one column a basis, so that the sum of v g / |g| over modules is `cosine`
    with that basis: the sum of its axes over the number of its modules, 0 in a module that it does
    not have."""
    names = sorted({name for basis in bases for name in basis})
    like = {name: rows for basis in bases for name, rows in basis.items()}
    return {
        name: torch.stack(
            [
                basis[name].sum(0) / len(basis) if name in basis else like[name][0] * 0
                for basis in bases
            ],
            1,
        )
        for name in names
    }


def hackward_fraction(grads: Grads, basis: Basis) -> Tensor:
    """|relu(V g)| / |g| over all modules together, (N,) in [0, 1]: what a one-sided gate would
    remove.

    The relu comes before the sum over axes and modules, so that anti-hack axes cannot cancel it.
    """
    hackward = [torch.relu(coefficients(g, V)).square().sum(-1) for g, V in _covered(grads, basis)]
    return (torch.stack(hackward).sum(0) / squared_norm(grads).clamp_min(1e-38)).sqrt()


def inside_fraction(grads: Grads, basis: Basis) -> Tensor:
    """|V g| / |g| over all modules together, (N,) in [0, 1]: the part inside the span of V, of
    either sign."""
    inside = [coefficients(g, V).square().sum(-1) for g, V in _covered(grads, basis)]
    return (torch.stack(inside).sum(0) / squared_norm(grads).clamp_min(1e-38)).sqrt()


def inside_fraction_by_chance(grads: Grads, basis: Basis) -> Tensor:
    """`inside_fraction` of random axes, as many in each module as V has, (N,): the root of the mean
    over the modules' energies of k / r. Gradients with much energy where V has many axes have much
    inside any axes."""
    inside = [
        g.square().sum(-1) * (V.any(-1).sum(-1) / V.shape[-1]) for g, V in _covered(grads, basis)
    ]
    return (torch.stack(inside).sum(0) / squared_norm(grads).clamp_min(1e-38)).sqrt()


def covered_energy(grads: Grads, basis: Basis) -> Tensor:
    """Share of |g|^2 that lies in modules which have a V, (N,)."""
    covered = torch.stack([g.square().sum(-1) for g, _ in _covered(grads, basis)]).sum(0)
    return covered / squared_norm(grads).clamp_min(1e-38)


def removed_fraction(before: Grads, after: Grads) -> Tensor:
    """|before - after| / |before| over all modules, (N,)."""
    difference = {name: before[name] - after[name] for name in before}
    return (squared_norm(difference) / squared_norm(before).clamp_min(1e-38)).sqrt()


def null_cosine(k: int, r: int) -> float:
    """sqrt(k / r): standard deviation of sum(V g)/|g|, and root mean square of |V g|/|g|, for
    random V."""
    return math.sqrt(k / r)


def subspace_overlap(a: Basis, b: Basis) -> float | None:
    """Mean squared cosine of the principal angles between two bases, over the modules that both
    have: |V_a V_b^T|^2 / min(k_a, k_b), a module weighted by its min(k_a, k_b).

    In [0, 1]: 1 where in every module one span holds the other, about max(k_a, k_b) / r for random
    ones. None where they have no module in common.
    """
    common = [(V, b[name]) for name, V in a.items() if name in b]
    if not common:
        return None
    squared = torch.stack([(V @ W.mT).square().sum() for V, W in common]).sum()
    return float(squared) / sum(min(len(V), len(W)) for V, W in common)


def squared_norm(grads: Grads) -> Tensor:
    """|g|^2 over all modules, (N,)."""
    return torch.stack([g.square().sum(-1) for g in grads.values()]).sum(0)


def random_orthonormal(k: int, r: int, generator: torch.Generator) -> Tensor:
    """k orthonormal rows in R^r, uniformly distributed (k, r), float32 on the generator's
    device."""
    gaussian = torch.randn(r, k, generator=generator, dtype=torch.float64, device=generator.device)
    Q, R = torch.linalg.qr(gaussian)
    return (Q * R.diagonal().sign()).T.float().contiguous()


def _covered(grads: Grads, basis: Basis) -> list[tuple[Tensor, Tensor]]:
    pairs = [(g, basis[name]) for name, g in grads.items() if name in basis]
    if not pairs:
        raise ValueError("the basis covers none of the gradient's modules")
    return pairs


def _over_norm(value: Tensor, g: Tensor) -> Tensor:
    norm = g.norm(dim=-1)
    return torch.where(norm > 0, value / norm, 0.0)
