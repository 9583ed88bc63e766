"""The adapter against independent formulas, in float64 where exactness is claimed."""

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_qwen
from torch import nn

from projected_grpo.antipasto import Adapter, SVDLinear, wrap
from projected_grpo.env.errors import InputError
from projected_grpo.model.rounding import _hash_draws
from projected_grpo.proj import cosine, mean_axes, random_orthonormal

IDS = torch.randint(0, 97, (3, 12), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 9:] = 0
MASK[2, 5:] = 0


def nll_per_row(model: nn.Module) -> torch.Tensor:
    """Summed NLL of each row's unpadded tokens, (B,)."""
    logits = model(input_ids=IDS, attention_mask=MASK).logits[:, :-1]
    logp = torch.log_softmax(logits, -1).gather(-1, IDS[:, 1:, None])[..., 0]
    return -(logp * MASK[:, 1:]).sum(1)


def factored_logits(adapter: Adapter, ids: torch.Tensor) -> torch.Tensor:
    with adapter.rows(torch.zeros(len(ids), dtype=torch.long)):  # with gradient: hence factored
        return adapter.model(input_ids=ids).logits.detach()


def randomise(adapter, scale: float = 0.3, seed: int = 7) -> None:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for delta in adapter.delta_S.values():
            delta.copy_(torch.randn(delta.shape, generator=g, dtype=delta.dtype) * scale)
    adapter.fold()


def test_a_folded_adapter_at_zero_is_the_base_bit_for_bit() -> None:
    plain, model = tiny_qwen(), tiny_qwen()
    expected = plain(input_ids=IDS, attention_mask=MASK).logits
    adapter = wrap(model)
    adapter.fold()
    with adapter.rows(torch.zeros(3, dtype=torch.long)):
        with torch.no_grad():
            assert torch.equal(model(input_ids=IDS, attention_mask=MASK).logits, expected)
        differentiated = model(input_ids=IDS, attention_mask=MASK).logits
    assert differentiated.requires_grad and torch.allclose(differentiated, expected, atol=2e-5)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_a_factored_adapter_at_zero_is_the_base_to_rounding(
    dtype: torch.dtype, tolerance: float
) -> None:
    expected = tiny_qwen(dtype)(input_ids=IDS).logits
    adapter = wrap(tiny_qwen(dtype), n_runs=3)
    got = factored_logits(adapter, IDS)
    with adapter.disable():
        assert torch.equal(adapter.model(input_ids=IDS).logits, got)  # the KL's reference
    assert float((got - expected).norm() / expected.norm()) < tolerance


def test_a_bfloat16_adapter_at_zero_is_about_as_exact_as_the_base() -> None:
    """U, Vh and the r activations between them are rounded once more."""
    ids = torch.randint(0, 97, (16, 48), generator=torch.Generator().manual_seed(1))
    exact = tiny_qwen(torch.bfloat16).float()(input_ids=ids).logits
    base = tiny_qwen(torch.bfloat16)(input_ids=ids).logits.float()
    got = factored_logits(wrap(tiny_qwen(torch.bfloat16)), ids).float()
    assert float((got - exact).norm()) < 2 * float((base - exact).norm())


def test_all_seven_projections_of_every_layer_are_wrapped_and_nothing_else_trains() -> None:
    model = tiny_qwen()
    adapter = wrap(model)
    assert len(adapter.modules) == 2 * 7
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"{name}.delta_S" for name in adapter.modules
    }
    assert all(d.dtype == torch.float32 and d.shape[0] == 1 for d in adapter.delta_S.values())
    assert isinstance(model.lm_head, nn.Linear)


def test_linears_left_unadapted_are_warned_about() -> None:
    from loguru import logger

    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), level="WARNING")
    wrap(tiny_qwen(), targets=("q_proj", "k_proj", "v_proj", "o_proj"))
    logger.remove(sink)
    assert "60.0% of the weights inside the layers get no vector" in lines[0]
    assert "6 tensors, model.layers.0.mlp.gate_proj.weight the largest" in lines[0]


def test_delta_is_float32_on_a_bfloat16_base() -> None:
    adapter = wrap(tiny_qwen(torch.bfloat16))
    assert all(d.dtype == torch.float32 for d in adapter.delta_S.values())
    assert {m.folded.dtype for m in adapter.modules.values() if m.folded is not None} == {
        torch.bfloat16
    }


def test_a_model_without_targets_is_refused() -> None:
    with pytest.raises(InputError, match="q_proj"):
        wrap(nn.Sequential(nn.Linear(2, 2)))


def plain_hook_gradients(model: nn.Module, adapter) -> dict[str, torch.Tensor]:
    """One autograd backward a row through y + U (delta * Vh x), by a plain forward hook."""
    deltas, handles = {}, []
    for name, module in adapter.modules.items():
        deltas[name] = module.delta_S[0].detach().clone().requires_grad_()

        def hook(m: SVDLinear, args, y, delta=deltas[name]):
            return F.linear(args[0], m.weight, m.bias) + F.linear(
                F.linear(args[0], m.Vh) * delta, m.U
            )

        handles.append(module.register_forward_hook(hook))
    gradients = {name: [] for name in deltas}
    for b in range(len(IDS)):
        with adapter.rows(torch.zeros(3, dtype=torch.long)):
            got = torch.autograd.grad(nll_per_row(model)[b], list(deltas.values()))
        for name, g in zip(deltas, got, strict=True):
            gradients[name].append(g)
    for handle in handles:
        handle.remove()
    return {name: torch.stack(g) for name, g in gradients.items()}


@pytest.mark.parametrize("n_runs", [1, 2])
def test_row_gradients_equal_one_autograd_pass_a_row_in_float64(n_runs: int) -> None:
    model = tiny_qwen(torch.float64)
    adapter = wrap(model, n_runs=n_runs)
    randomise(adapter)
    expected = plain_hook_gradients(model, adapter)
    with adapter.rows(torch.zeros(3, dtype=torch.long)) as leaves:
        got = torch.autograd.grad(nll_per_row(model).sum(), list(leaves.values()))
    for (name, e), g in zip(expected.items(), got, strict=True):
        assert e.norm() > 1e-3
        assert float((g - e).norm() / e.norm()) < 1e-11, name


@pytest.mark.parametrize("n_runs", [1, 2])
def test_row_gradients_equal_finite_differences_in_float64(n_runs: int) -> None:
    model = tiny_qwen(torch.float64)
    adapter = wrap(model, n_runs=n_runs)
    randomise(adapter)
    rows = torch.zeros(3, dtype=torch.long)
    with adapter.rows(rows) as leaves:
        torch.autograd.backward(nll_per_row(model).sum())
        gradients = {name: leaf.grad for name, leaf in leaves.items()}
    step = 1e-5
    for name, delta in list(adapter.delta_S.items())[::3]:
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                delta[0, 2] += sign * step
                adapter.fold()
                with adapter.rows(rows):
                    losses.append(nll_per_row(model))
                delta[0, 2] -= sign * step
        slope = (losses[0] - losses[1]) / (2 * step)
        assert torch.allclose(gradients[name][:, 2], slope, rtol=1e-6, atol=1e-8), name


def test_an_ordinary_backward_reaches_delta_s_where_it_is_asked_for() -> None:
    """The sum of the rows' gradients; sampling still reads the folded weight."""
    model = tiny_qwen(torch.float64)
    adapter = wrap(model)
    randomise(adapter)
    with adapter.rows(torch.zeros(3, dtype=torch.long)) as leaves:
        rows = torch.autograd.grad(nll_per_row(model).sum(), list(leaves.values()))
    assert not nll_per_row(model).requires_grad
    adapter.train_directly()
    nll_per_row(model).sum().backward()
    for p, g in zip(adapter.delta_S.values(), rows, strict=True):
        assert p.grad is not None and torch.allclose(p.grad, g.sum(0, keepdim=True), rtol=1e-11)
    with torch.no_grad():
        next(iter(adapter.delta_S.values())).add_(1.0)
        with pytest.raises(RuntimeError, match="was not folded"):
            nll_per_row(model)


def test_padding_cannot_matter() -> None:
    """Another pad token in the masked places: the same row gradients."""
    model = tiny_qwen(torch.float64)
    adapter = wrap(model)
    randomise(adapter)
    results = []
    for pad in (0, 5):
        ids = torch.where(MASK.bool(), IDS, pad)
        with adapter.rows(torch.zeros(3, dtype=torch.long)) as leaves:
            logits = model(input_ids=ids, attention_mask=MASK).logits[:, :-1]
            logp = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]
            loss = (logp * MASK[:, 1:]).sum()
            results.append(torch.autograd.grad(loss, list(leaves.values())))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


def test_folded_and_factored_are_the_same_policy() -> None:
    one, two = wrap(tiny_qwen(torch.float64)), wrap(tiny_qwen(torch.float64), n_runs=2)
    randomise(one)
    with torch.no_grad():
        for a, b in zip(one.delta_S.values(), two.delta_S.values(), strict=True):
            b[1] = a[0]
    base = tiny_qwen(torch.float64)(input_ids=IDS, attention_mask=MASK).logits
    with two.rows(torch.tensor([1, 0, 1])):
        mixed = two.model(input_ids=IDS, attention_mask=MASK).logits
    folded = one.model(input_ids=IDS, attention_mask=MASK).logits
    assert torch.allclose(mixed[[0, 2]], folded[[0, 2]], rtol=1e-10, atol=1e-10)
    assert torch.allclose(mixed[1], base[1], rtol=1e-12, atol=1e-12)
    assert float((folded - base).abs().max()) > 0.1


def test_packed_runs_get_the_gradients_they_would_get_alone() -> None:
    alone = wrap(tiny_qwen(torch.float64))
    packed = wrap(tiny_qwen(torch.float64), n_runs=2)
    expected = []
    for run in range(2):
        randomise(alone, seed=run)
        with torch.no_grad():
            for a, b in zip(alone.delta_S.values(), packed.delta_S.values(), strict=True):
                b[run] = a[0]
        with alone.rows(torch.zeros(3, dtype=torch.long)) as leaves:
            g = torch.autograd.grad(nll_per_row(alone.model).sum(), list(leaves.values()))
        expected.append(g)
    with packed.rows(torch.tensor([1, 0, 1])) as leaves:
        got = torch.autograd.grad(nll_per_row(packed.model).sum(), list(leaves.values()))
    for run0, run1, g in zip(*expected, got, strict=True):
        assert torch.allclose(g, torch.stack([run1[0], run0[1], run1[2]]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size,tolerance", [(1e-3, 0.25), (3e-3, 0.12), (1e-2, 0.03)])
def test_a_small_delta_moves_a_bfloat16_base_as_it_moves_the_exact_one(
    size: float, tolerance: float
) -> None:
    """Rounding is noise on every logit, so the move is read along the exact move, over 4,096
    tokens: with a gradient, and as sampled. A weight folded to the nearest loses part of it: most
    of W + delta rounds back to W."""
    ids = torch.randint(0, 97, (64, 64), generator=torch.Generator().manual_seed(0))
    bf16 = wrap(tiny_qwen(torch.bfloat16))
    exact = wrap(tiny_qwen(torch.bfloat16).float(), n_runs=2)
    folded = tiny_qwen(torch.bfloat16)
    base = folded(input_ids=ids).logits.float()
    moves = []
    for adapter in (bf16, exact):
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for delta in adapter.delta_S.values():
                delta.copy_(size * torch.randn(delta[0].shape, generator=generator).sign())
        with adapter.disable():
            before = adapter.model(input_ids=ids).logits.float()
        moves.append(factored_logits(adapter, ids).float() - before)
    bf16.fold()
    with torch.no_grad():
        sampled = bf16.model(input_ids=ids).logits.float() - base
    for name, module in exact.modules.items():
        merged = module.weight + module.get_delta_weight(0)
        folded.get_submodule(name).weight.data = merged.bfloat16()
    moves.append(folded(input_ids=ids).logits.float() - base)
    along = [float((m * moves[1]).sum() / moves[1].square().sum()) for m in moves]
    assert along[0] == pytest.approx(1, abs=tolerance)
    assert float((sampled * moves[1]).sum() / moves[1].square().sum()) == pytest.approx(
        1, abs=tolerance
    )
    if size == 1e-3:
        assert along[2] < 0.6


def test_a_folded_bfloat16_weight_is_right_on_average_and_the_same_every_time() -> None:
    adapter = wrap(tiny_qwen(torch.bfloat16))
    base = tiny_qwen(torch.bfloat16)
    adapter.fold()
    for name, module in adapter.modules.items():
        assert module.folded is not None
        assert torch.equal(module.folded[0], base.get_submodule(name).weight)  # delta_S = 0
    for delta in adapter.delta_S.values():
        delta.data.fill_(3e-4)
    adapter.fold()
    first = {n: m.folded[0].clone() for n, m in adapter.modules.items() if m.folded is not None}
    moved = exact = 0.0
    for name, module in adapter.modules.items():
        whole = module.get_delta_weight(0)
        ulp = torch.exp2(module.weight.float().abs().log2().floor() - 7)
        step = first[name].float() - module.weight.float()
        assert ((step.abs() <= 1.01 * ulp) | (step.abs() < 2 * whole.abs())).all()
        moved, exact = moved + float((step * whole).sum()), exact + float(whole.square().sum())
    assert moved / exact == pytest.approx(1, abs=0.1)
    for delta in adapter.delta_S.values():
        delta.data.zero_()
    adapter.fold()  # what was folded before leaves no trace
    for delta in adapter.delta_S.values():
        delta.data.fill_(3e-4)
    adapter.fold()
    assert all(torch.equal(first[name], m.folded[0]) for name, m in adapter.modules.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_one_run_of_a_pack_read_on_a_cpu_what_the_run_alone_reads(
    dtype: torch.dtype,
) -> None:
    packed, alone = wrap(tiny_qwen(dtype), n_runs=2), wrap(tiny_qwen(dtype))
    randomise(alone, scale=1e-2)
    with torch.no_grad():
        for a, b in zip(alone.delta_S.values(), packed.delta_S.values(), strict=True):
            b[1] = a[0]
    one, base = torch.ones(3, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    with torch.no_grad(), packed.rows(one):
        with pytest.raises(RuntimeError, match="not folded"):
            packed.model(input_ids=IDS)
        packed.fold()
        got = packed.model(input_ids=IDS).logits
        assert torch.equal(got, alone.model(input_ids=IDS).logits)
    with torch.no_grad(), packed.rows(base):
        assert torch.equal(packed.model(input_ids=IDS).logits, tiny_qwen(dtype)(IDS).logits)
    with torch.no_grad(), packed.rows(torch.tensor([1, 0, 1])):  # of both: factored
        mixed = packed.model(input_ids=IDS).logits
    assert torch.allclose(mixed[[0, 2]].float(), got[[0, 2]].float(), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_delta_that_was_not_folded_is_never_sampled_from(dtype: torch.dtype) -> None:
    adapter = wrap(tiny_qwen(dtype))
    delta = next(iter(adapter.delta_S.values()))
    with torch.no_grad():
        adapter.model(input_ids=IDS)
        delta.add_(1e-3)
        with pytest.raises(RuntimeError, match="not folded"):
            adapter.model(input_ids=IDS)
        adapter.fold()
        adapter.model(input_ids=IDS)


def test_a_quarantine_that_was_not_folded_is_never_sampled_from() -> None:
    adapter = wrap(tiny_qwen(torch.float32))
    first = next(iter(adapter.modules.values()))
    value = next(iter(adapter.add_quarantine().values()))
    with torch.no_grad():
        adapter.model(input_ids=IDS)
        value.add_(1e-3)  # delta_S is as it was
        with pytest.raises(RuntimeError, match="not folded"):
            adapter.model(input_ids=IDS)
        adapter.fold()
        adapter.model(input_ids=IDS)
        first.ablated = True  # not by `Adapter.ablated`, which folds
        with pytest.raises(RuntimeError, match="not folded"):
            adapter.model(input_ids=IDS)
        first.ablated = False
        with adapter.ablate():
            adapter.model(input_ids=IDS)
            value.add_(1e-3)  # does not act here, and is folded at the end
            adapter.model(input_ids=IDS)
        adapter.model(input_ids=IDS)


def test_the_draws_of_rounding_are_uniform_and_differ_between_modules() -> None:
    n = 2**18
    first, second = (_hash_draws(n, seed, torch.device("cpu")) for seed in (1, 2**28 - 1))
    assert first.min() >= 0 and first.max() < 2**16
    counts = torch.bincount(first >> 8, minlength=256).double()
    assert float(((counts - n / 256) ** 2 / (n / 256)).sum()) < 350  # chi-squared, 255 degrees
    for other in (second, first.roll(1)):
        assert abs(float(torch.corrcoef(torch.stack([first, other]).double())[0, 1])) < 0.01


def test_disabled_is_the_base_and_comes_back() -> None:
    plain, adapter = tiny_qwen(), wrap(tiny_qwen())
    randomise(adapter)
    moved = adapter.model(input_ids=IDS).logits
    with adapter.disable():
        assert torch.equal(adapter.model(input_ids=IDS).logits, plain(input_ids=IDS).logits)
    assert torch.equal(adapter.model(input_ids=IDS).logits, moved)


def test_save_load_round_trip(tmp_path) -> None:
    first, second = wrap(tiny_qwen()), wrap(tiny_qwen())
    randomise(first)
    first.save(tmp_path / "a.safetensors")
    second.load(tmp_path / "a.safetensors")
    for name, delta in first.delta_S.items():
        assert torch.equal(delta, second.delta_S[name])
    assert torch.equal(first.model(input_ids=IDS).logits, second.model(input_ids=IDS).logits)


def test_an_adapter_of_another_model_is_refused(tmp_path) -> None:
    wrap(tiny_qwen()).save(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="another model"):
        wrap(tiny_qwen(seed=1)).load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("n_runs", [1, 2])
def test_merge_gives_a_plain_model_with_the_same_logits(n_runs: int) -> None:
    adapter = wrap(tiny_qwen(torch.float64), n_runs=n_runs)
    randomise(adapter)
    with adapter.rows(torch.full((3,), n_runs - 1)):
        expected = adapter.model(input_ids=IDS, attention_mask=MASK).logits
    merged = adapter.merge(run=n_runs - 1)
    assert not any(isinstance(m, SVDLinear) for m in merged.modules())
    assert {n for n, _ in merged.named_parameters()} == {
        n for n, _ in tiny_qwen().named_parameters()
    }
    got = merged(input_ids=IDS, attention_mask=MASK).logits
    assert torch.allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_merging_a_bfloat16_base_keeps_a_small_delta() -> None:
    """In float32, since on the base's own grid most of it would round away."""
    exact = wrap(tiny_qwen(torch.bfloat16).float())
    adapter = wrap(tiny_qwen(torch.bfloat16))
    for a in (exact, adapter):
        with torch.no_grad():
            for delta in a.delta_S.values():
                delta.fill_(1e-3)
        a.fold()
    base = tiny_qwen(torch.bfloat16).float()(input_ids=IDS).logits
    merged = adapter.merge()
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    move = (merged(input_ids=IDS).logits - base).flatten().detach()
    expected = (exact.model(input_ids=IDS).logits - base).flatten().detach()
    assert float((move - expected).norm() / expected.norm()) < 0.05


def test_merge_refuses_a_weight_that_is_not_finite() -> None:
    adapter = wrap(tiny_qwen())
    with torch.no_grad():
        next(iter(adapter.delta_S.values()))[0, 0] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        adapter.merge()


@pytest.mark.parametrize("n_runs", [1, 2])
def test_the_pulls_of_all_tokens_add_up_to_the_alignment_of_their_row(n_runs: int) -> None:
    adapter = wrap(tiny_qwen(torch.float64), n_runs=n_runs)
    randomise(adapter)
    g = torch.Generator().manual_seed(1)
    basis = {
        name: random_orthonormal(3, delta.shape[1], g).double()
        for name, delta in list(adapter.delta_S.items())[::2]
    }
    other = {name: random_orthonormal(1, V.shape[1], g).double() for name, V in basis.items()}
    directions = mean_axes([basis, other])
    run = torch.tensor([0, n_runs - 1, 0])
    with adapter.rows(run) as leaves, adapter.token_pull(directions) as pull:
        loss = nll_per_row(adapter.model).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
    rows = dict(zip(leaves, gradients, strict=True))
    for d, V in enumerate((basis, other)):
        torch.testing.assert_close(pull.tokens[..., d].sum(1), cosine(rows, V))
    assert not pull.tokens[1, 9:].any() and not pull.tokens[2, 5:].any()  # padding pulls nowhere
    with adapter.rows(run) as leaves:  # measuring changes nothing, and ends with its block
        again = torch.autograd.grad(nll_per_row(adapter.model).sum(), list(leaves.values()))
    for a, b in zip(gradients, again, strict=True):
        assert torch.equal(a, b)


def test_a_token_pulls_as_the_gradient_that_flows_in_at_its_place() -> None:
    """Against an independent formula: scale the output of one place, differentiate by that."""
    adapter = wrap(tiny_qwen(torch.float64))
    name, module = next(iter(adapter.modules.items()))
    v = torch.randn(module.S.shape, generator=torch.Generator().manual_seed(3)).double()
    run = torch.zeros(3, dtype=torch.long)
    with adapter.rows(run) as leaves, adapter.token_pull({name: v[:, None]}) as pull:
        (g,) = torch.autograd.grad(nll_per_row(adapter.model).sum(), [leaves[name]])
    eps = torch.zeros(3, 12, 1, dtype=torch.float64, requires_grad=True)
    hook = module.register_forward_hook(
        lambda _, x, y: y + eps * F.linear(x[0] @ module.Vh.T * v, module.U)
    )
    with adapter.rows(torch.zeros(3, dtype=torch.long)):
        (expected,) = torch.autograd.grad(nll_per_row(adapter.model).sum(), [eps])
    hook.remove()
    torch.testing.assert_close(pull.tokens, expected / g.norm(dim=1)[:, None, None])


def test_a_left_out_token_takes_what_it_adds_out_of_the_gradient() -> None:
    adapter = wrap(tiny_qwen(torch.float64))
    randomise(adapter)
    run = torch.zeros(3, dtype=torch.long)
    some = torch.rand(3, 12, generator=torch.Generator().manual_seed(5)) < 0.5

    def gradients(left_out: torch.Tensor) -> list[torch.Tensor]:
        with adapter.rows(run) as leaves, adapter.leave_out(left_out):
            return list(torch.autograd.grad(nll_per_row(adapter.model).sum(), [*leaves.values()]))

    whole = gradients(torch.zeros_like(some))
    for a, b, total in zip(gradients(some), gradients(~some), whole, strict=True):
        torch.testing.assert_close(a + b, total)
        assert not torch.allclose(a, total)
    assert not any(g.any() for g in gradients(torch.ones_like(some)))


def test_rows_at_the_base_have_the_gradient_of_the_model_before_it_moved() -> None:
    adapter = wrap(tiny_qwen(torch.float64), n_runs=2)
    run = torch.tensor([0, 1, 0])

    def gradients(at_base: bool) -> list[torch.Tensor]:
        with adapter.rows(run, at_base=at_base) as leaves:
            return list(torch.autograd.grad(nll_per_row(adapter.model).sum(), [*leaves.values()]))

    start = gradients(at_base=False)
    randomise(adapter)
    for a, b, moved in zip(gradients(True), start, gradients(False), strict=True):
        assert torch.equal(a, b) and not torch.allclose(moved, b)


@pytest.mark.parametrize("n_runs", [1, 2])
def test_rows_at_the_base_are_so_without_a_gradient_too(n_runs: int) -> None:
    """The folded weights are the policy's."""
    adapter, run = wrap(tiny_qwen(), n_runs=n_runs), torch.zeros(3, dtype=torch.long)

    @torch.no_grad()
    def logits(at_base: bool) -> torch.Tensor:
        with adapter.rows(run, at_base=at_base):
            return adapter.model(input_ids=IDS).logits

    start = logits(at_base=False)
    randomise(adapter)
    torch.testing.assert_close(logits(at_base=True), start, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(logits(at_base=False), start, atol=1e-2)
