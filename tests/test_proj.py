"""The claim of the project in one function: property tests."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from projected_grpo.proj import (
    GATES,
    Projection,
    cosine,
    covered_energy,
    hackward_fraction,
    inside_fraction,
    inside_fraction_by_chance,
    null_cosine,
    project,
    random_orthonormal,
    removed_fraction,
    subspace_overlap,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def problems(draw) -> tuple[torch.Tensor, torch.Tensor]:
    """g (N, r) and V (k, r) with orthonormal rows, float64."""
    r = draw(st.integers(1, 24))
    k = draw(st.integers(1, r))
    N = draw(st.integers(1, 3))
    g = generator(draw(st.integers(0, 2**31)))
    scale = 10.0 ** draw(st.integers(-8, 8))
    V = random_orthonormal(k, r, g).double()
    return torch.randn(N, r, generator=g, dtype=torch.float64) * scale, V


def size(g: torch.Tensor) -> float:
    return float(g.norm())


@given(problems())
def test_what_is_inside_is_what_no_gate_removes(problem) -> None:
    g, V = problem
    grads, basis = {"m": g}, {"m": V}
    inside = inside_fraction(grads, basis)
    after = project(grads, basis, Projection(gate="no_gate"))
    assert torch.allclose(inside, removed_fraction(grads, after), atol=1e-6)
    left = inside_fraction(after, basis) * after["m"].norm(dim=-1)
    assert (left <= 1e-6 * g.norm(dim=-1)).all()
    assert (hackward_fraction(grads, basis) <= inside + 1e-6).all()


def test_chance_is_what_random_axes_have_inside_on_average() -> None:
    g = generator(0)
    grads = {"large": 3 * torch.randn(2, 8, generator=g), "small": torch.randn(2, 20, generator=g)}
    ranks = {"large": 2, "small": 5}

    def drawn(n: int) -> dict[str, torch.Tensor]:
        """Random axes, those of one module filled up with zeros as in a pack."""
        some = {name: random_orthonormal(k, grads[name].shape[1], g) for name, k in ranks.items()}
        return {name: torch.cat([V, torch.zeros(n, V.shape[1])]) for name, V in some.items()}

    found = torch.stack([inside_fraction(grads, drawn(1)).square() for _ in range(2000)]).mean(0)
    chance = inside_fraction_by_chance(grads, drawn(3))
    assert torch.allclose(found.sqrt(), chance, rtol=0.03)


@given(problems())
def test_no_gate_leaves_nothing_along_v_and_is_idempotent(problem) -> None:
    g, V = problem
    left = Projection("no_gate")(g, V)
    assert float((left @ V.T).abs().max()) <= 1e-6 * size(g)
    assert torch.allclose(Projection("no_gate")(left, V), left, rtol=0, atol=1e-6 * size(g))


@given(problems())
def test_one_sided_removes_hackward_and_keeps_antihack(problem) -> None:
    g, V = problem
    left = Projection("one_sided")(g, V)
    tolerance = 1e-6 * size(g)
    assert float((left @ V.T).max()) <= tolerance
    assert torch.allclose(left @ V.T, (g @ V.T).clamp_max(0), rtol=0, atol=tolerance)
    assert (left.norm(dim=-1) <= g.norm(dim=-1) * (1 + 1e-6)).all()
    assert torch.allclose(Projection("one_sided")(left, V), left, rtol=0, atol=tolerance)


@given(problems())
def test_reverse_is_a_reflection(problem) -> None:
    g, V = problem
    twice = Projection("reverse")(Projection("reverse")(g, V), V)
    assert torch.allclose(twice, g, rtol=0, atol=2e-6 * size(g))
    assert torch.allclose(Projection("reverse")(g, V).norm(dim=-1), g.norm(dim=-1), rtol=1e-6)


@given(problems(), problems())
def test_whole_removes_the_component_of_all_modules_or_nothing(first, second) -> None:
    """The sum of all coefficients decides: it is removed as by no_gate where that is hack-ward."""
    N = min(len(first[0]), len(second[0]))
    grads = {"a": first[0][:N], "b": second[0][:N]}
    basis = {"a": first[1], "b": second[1]}
    after = project(grads, basis, Projection("whole"))
    none, every = grads, project(grads, basis, Projection("no_gate"))
    total = sum((g @ basis[name].T).sum(-1) for name, g in grads.items())
    for n in range(N):
        wanted = every if total[n] > 0 else none
        assert all(torch.equal(after[name][n], wanted[name][n]) for name in grads)
    left = sum((g @ basis[name].T).sum(-1) for name, g in after.items())
    assert (left <= 1e-6 * sum(g.norm(dim=-1) for g in grads.values())).all()


def test_whole_does_not_let_the_minoritys_flavour_through() -> None:
    """Two axes, a gradient that is hack-ward on the first and goes against the vote on the second:
    one_sided keeps the second, whole takes both; where anti-hack outweighs, whole keeps all."""
    V = torch.eye(2, 3)
    g = torch.tensor([[3.0, -1.0, 5.0], [1.0, -2.0, 5.0]])
    assert Projection("one_sided")(g, V).tolist() == [[0.0, -1.0, 5.0], [0.0, -2.0, 5.0]]
    assert Projection("whole")(g, V).tolist() == [[0.0, 0.0, 5.0], [1.0, -2.0, 5.0]]


@given(problems(), st.floats(-3, 3))
def test_no_gate_is_linear_and_one_sided_is_positively_homogeneous(problem, factor: float) -> None:
    g, V = problem
    tolerance = 1e-6 * size(g) * max(1.0, abs(factor))
    linear = Projection("no_gate")
    assert torch.allclose(linear(factor * g, V), factor * linear(g, V), rtol=0, atol=tolerance)
    gated, positive = Projection("one_sided"), abs(factor)
    assert torch.allclose(gated(positive * g, V), positive * gated(g, V), rtol=0, atol=tolerance)


@given(problems(), st.integers(0, 2**31))
def test_no_gate_does_not_depend_on_the_choice_of_basis(problem, seed: int) -> None:
    g, V = problem
    rotation = random_orthonormal(len(V), len(V), generator(seed)).double()
    a, b = Projection("no_gate")(g, V), Projection("no_gate")(g, rotation @ V)
    assert torch.allclose(a, b, rtol=0, atol=2e-6 * size(g))


@given(problems(), st.sampled_from(sorted(GATES)), st.booleans(), st.floats(0, 2))
def test_zero_v_is_the_identity_bit_for_bit(problem, gate, preserve, overshoot) -> None:
    g, V = problem
    g = g.float()
    g[0, 0] = -0.0
    left = Projection(gate, overshoot, preserve)(g, torch.zeros_like(V).float())
    assert torch.equal(left.view(torch.int32), g.view(torch.int32))


@given(problems(), st.sampled_from(sorted(GATES)))
def test_preserve_magnitude_keeps_length_and_direction(problem, gate) -> None:
    g, V = problem
    plain, kept = Projection(gate)(g, V), Projection(gate, preserve_magnitude=True)(g, V)
    for n in range(len(g)):
        if plain[n].norm() > 1e-5 * g[n].norm():
            assert torch.allclose(kept[n].norm(), g[n].norm(), rtol=1e-6)
            cos = (kept[n] / kept[n].norm()) @ (plain[n] / plain[n].norm())
            assert float(cos) == pytest.approx(1, abs=1e-6)


def test_preserve_magnitude_does_not_divide_by_zero() -> None:
    V = torch.eye(2)
    assert torch.equal(
        Projection("no_gate", preserve_magnitude=True)(torch.ones(1, 2), V), torch.zeros(1, 2)
    )


def test_overshoot_scales_what_is_removed() -> None:
    V = torch.tensor([[1.0, 0.0, 0.0]])
    g = torch.tensor([[2.0, 5.0, -1.0]])
    for overshoot, left in ((0.0, 2.0), (0.5, 1.0), (1.0, 0.0), (1.5, -1.0)):
        assert Projection("one_sided", overshoot)(g, V)[0].tolist() == [left, 5.0, -1.0]


def test_cosine_is_signed_by_hand() -> None:
    basis = {"a": torch.eye(2, 4), "b": torch.eye(1, 3)}
    grads = {
        "a": torch.tensor([[3.0, 0.0, 4.0, 0.0]]),  # sum(c)/|g| = 3/5
        "b": torch.tensor([[-1.0, 0.0, 0.0]]),  # -1
        "uncovered": torch.tensor([[7.0]]),
    }
    assert float(cosine(grads, basis)) == pytest.approx((0.6 - 1.0) / 2)
    after = project(grads, basis, Projection("one_sided"))
    assert float(cosine(after, basis)) == pytest.approx((0.0 - 1.0) / 2)
    assert after["uncovered"] is grads["uncovered"]
    assert float(hackward_fraction(grads, basis)) == pytest.approx(math.sqrt(9 / (25 + 1 + 49)))
    assert float(removed_fraction(grads, after)) == pytest.approx(math.sqrt(9 / (25 + 1 + 49)))
    assert float(covered_energy(grads, basis)) == pytest.approx(26 / 75)


def test_a_module_without_gradient_has_cosine_zero() -> None:
    assert float(cosine({"a": torch.zeros(1, 4)}, {"a": torch.eye(2, 4)})) == 0


def test_a_basis_that_covers_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="covers none"):
        cosine({"a": torch.zeros(1, 4)}, {"b": torch.eye(2, 4)})


def test_the_null_of_the_cosine() -> None:
    """Root mean square of sum(V g)/|g| and of |V g|/|g| over random V: sqrt(k/r), within 5 %."""
    k, r, draws, g = 4, 60, 4000, generator(5)
    grad = torch.randn(1, r, generator=g)
    sums, norms = [], []
    for _ in range(draws):
        c = grad @ random_orthonormal(k, r, g).T / grad.norm()
        sums.append(float(c.sum()) ** 2)
        norms.append(float(c.norm()) ** 2)
    assert math.sqrt(sum(sums) / draws) == pytest.approx(null_cosine(k, r), rel=0.05)
    assert math.sqrt(sum(norms) / draws) == pytest.approx(null_cosine(k, r), rel=0.05)


@given(problems(), st.integers(0, 2**31))
def test_the_overlap_is_that_of_spans_not_of_axes(problem, seed: int) -> None:
    """1 for one span in any rotated basis and for a part of it, 0 for orthogonal spans, the same
    from both sides, in [0, 1]."""
    _, V = problem
    k, r = V.shape
    rotated = random_orthonormal(k, k, generator(seed)).double() @ V
    assert subspace_overlap({"m": V}, {"m": rotated}) == pytest.approx(1, abs=1e-6)
    assert subspace_overlap({"m": V}, {"m": rotated[:1]}) == pytest.approx(1, abs=1e-6)
    if k > 1:
        overlap = subspace_overlap({"m": rotated[:1]}, {"m": rotated[1:]})
        assert overlap == pytest.approx(0, abs=1e-6)
    other = random_orthonormal(int(seed % r) + 1, r, generator(seed)).double()
    there, back = subspace_overlap({"m": V}, {"m": other}), subspace_overlap({"m": other}, {"m": V})
    assert there == pytest.approx(back, abs=1e-9) and -1e-9 <= there <= 1 + 1e-6


def test_the_overlap_of_random_spans_is_k_over_r() -> None:
    g, r, draws = generator(7), 60, 400
    for k_a, k_b in ((4, 4), (2, 6)):
        found = [
            subspace_overlap(
                {"m": random_orthonormal(k_a, r, g)}, {"m": random_orthonormal(k_b, r, g)}
            )
            for _ in range(draws)
        ]
        assert sum(found) / draws == pytest.approx(max(k_a, k_b) / r, rel=0.1)


def test_the_overlap_weighs_modules_by_rank_and_leaves_out_those_of_one_basis_only() -> None:
    a = {"same": torch.eye(3, 8), "apart": torch.eye(1, 8), "gone": torch.eye(2, 8)}
    b = {"same": torch.eye(3, 8), "apart": torch.eye(2, 8)[1:], "new": torch.eye(2, 8)}
    assert subspace_overlap(a, b) == pytest.approx(3 / 4)
    assert subspace_overlap({"gone": a["gone"]}, b) is None


def test_random_orthonormal_repeats_and_is_orthonormal() -> None:
    V = random_orthonormal(5, 17, generator(3))
    assert torch.equal(V, random_orthonormal(5, 17, generator(3)))
    assert torch.allclose(V @ V.T, torch.eye(5), atol=1e-6)


def test_every_run_may_have_a_v_of_its_own() -> None:
    """V (N, k, r), as packed arms and seeds need it, equals each run with its V alone."""
    V = torch.stack([random_orthonormal(3, 10, generator(seed)) for seed in range(4)])
    g = torch.randn(4, 10, generator=generator(9))
    together = Projection("one_sided", 1.2, True)(g, V)
    alone = torch.cat([Projection("one_sided", 1.2, True)(g[n : n + 1], V[n]) for n in range(4)])
    assert torch.allclose(together, alone, atol=1e-6)
    cosines = torch.cat([cosine({"m": g[n : n + 1]}, {"m": V[n]}) for n in range(4)])
    assert torch.allclose(cosine({"m": g}, {"m": V}), cosines, atol=1e-6)


def test_runs_are_projected_apart() -> None:
    """The run axis: (N, r) at once equals each row alone."""
    V = random_orthonormal(3, 10, generator(1))
    g = torch.randn(4, 10, generator=generator(2))
    together = Projection("one_sided", 1.2, True)(g, V)
    alone = torch.cat([Projection("one_sided", 1.2, True)(row[None], V) for row in g])
    assert torch.allclose(together, alone, atol=1e-6)
