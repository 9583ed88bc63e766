"""The direction: its identity, its sign, and what it does to completions it was not made from."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_qwen

from projected_grpo.antipasto import wrap
from projected_grpo.env.errors import InputError
from projected_grpo.extract_vhack_grad import (
    VHack,
    extract,
    hack_minus_clean,
    load_all,
    load_vhack,
    mean_axis,
    nll_gradients,
    side_gradients,
    top_axes,
    unit_pairs,
)
from projected_grpo.model.load import load
from projected_grpo.model.loss import collate, completion_logprobs, policy_loss
from projected_grpo.pairs.load import holdout_split, load_pairs

TRAIN, HELD_OUT = holdout_split(load_pairs())
SETTINGS = {"temperature": 0.7, "micro_batch_tokens": 4096}


@pytest.fixture(scope="module")
def lm():
    return load("tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def adapter(lm):
    return wrap(lm.model)


@pytest.fixture(scope="module")
def v_hack(lm, adapter):
    return extract(lm, adapter, TRAIN, model_name="tiny-random", **SETTINGS)


def rows_of(lm, pairs, side: str):
    return [(lm.prompt_ids(p.messages), lm.completion_ids(vars_of(p)[side])) for p in pairs]


def vars_of(pair) -> dict[str, str]:
    return {"hack": pair.hack, "clean": pair.clean}


def logprob(lm, adapter, rows) -> torch.Tensor:
    with torch.no_grad(), adapter.rows(torch.zeros(len(rows), dtype=torch.long)):
        return completion_logprobs(lm.model, collate(*zip(*rows, strict=True), lm.pad_id), 0.7).sum(
            1
        )


def test_the_grpo_gradient_of_a_labelled_pair_is_the_nll_difference(lm, adapter) -> None:
    """Through policy_loss itself: advantages +1 and -1, ratio 1, the live denominator."""
    pairs, denominator = TRAIN[:3], 64
    D = hack_minus_clean(side_gradients(lm, adapter, pairs, **SETTINGS))
    for i, pair in enumerate(pairs):
        prompts, completions = zip(
            *(rows_of(lm, [pair], s)[0] for s in ("hack", "clean")), strict=True
        )
        batch = collate(prompts, completions, lm.pad_id)
        with adapter.rows(torch.zeros(2, dtype=torch.long)) as leaves:
            logp = completion_logprobs(lm.model, batch, SETTINGS["temperature"])
            loss, _ = policy_loss(
                logp, logp.detach(), torch.tensor([1.0, -1.0]), batch.completion_mask,
                denominator=denominator, clip_eps=0.2,
            )  # fmt: skip
            gradients = torch.autograd.grad(loss, list(leaves.values()))
        for name, g in zip(leaves, gradients, strict=True):
            expected = D[name][i] / denominator
            assert torch.allclose(g.sum(0), expected, rtol=1e-4, atol=1e-6 * float(expected.norm()))


def test_a_step_along_v_favours_and_one_against_it_disfavours_held_out_hacks(
    lm, adapter, v_hack
) -> None:
    """V is a loss gradient, so "along" is the descent step -eta V. Neither task nor text was in V.

    What counts is hack against clean: on random weights the level that both share moves as well.
    """
    basis = v_hack.select(5, 0.25)
    hack, clean = rows_of(lm, HELD_OUT, "hack"), rows_of(lm, HELD_OUT, "clean")
    hack_0, clean_0 = logprob(lm, adapter, hack), logprob(lm, adapter, clean)
    change = {}
    for eta in (0.02, -0.02):
        with torch.no_grad():
            for name, V in basis.items():
                adapter.delta_S[name][0] = -eta * V.sum(0)
        adapter.fold()
        moved = (
            (logprob(lm, adapter, hack) - hack_0).mean(),
            (logprob(lm, adapter, clean) - clean_0).mean(),
        )
        change[eta] = moved
        with torch.no_grad():
            for name in basis:
                adapter.delta_S[name].zero_()
        adapter.fold()
    (up_hack, up_clean), (down_hack, down_clean) = change[0.02], change[-0.02]
    assert up_hack > up_clean and down_hack < down_clean


def test_extraction_leaves_no_gradient_and_no_state_behind(lm, adapter, v_hack) -> None:
    assert all(p.grad is None for p in lm.model.parameters())
    assert all(not p.any() for p in adapter.delta_S.values())
    assert all(module.row_delta is None for module in adapter.modules.values())


def test_extraction_does_not_depend_on_the_micro_batch(lm, adapter) -> None:
    rows = rows_of(lm, TRAIN[:4], "hack")
    one, four = (
        nll_gradients(lm, adapter, rows, temperature=0.7, micro_batch_tokens=b) for b in (1, 4096)
    )
    for name in one:
        assert torch.allclose(one[name], four[name], rtol=1e-3, atol=1e-5 * float(one[name].norm()))


def test_a_planted_direction_is_found_and_points_hackward() -> None:
    g = torch.Generator().manual_seed(0)
    planted = torch.nn.functional.normalize(torch.randn(40, generator=g), dim=0)
    for side in (1, -1):
        coefficients = side * (3 + torch.rand(12, 1, generator=g))
        axes, singular = top_axes(coefficients * planted + 0.1 * torch.randn(12, 40, generator=g))
        assert float(axes[0] @ planted) * side > 0.99
        assert singular[0] > 5 * singular[1]
        assert torch.allclose(axes @ axes.T, torch.eye(12), atol=1e-5)


def test_unit_pairs_have_one_length_over_all_modules() -> None:
    g = torch.Generator().manual_seed(0)
    D = {name: torch.randn(5, r, generator=g) * 10 for name, r in (("a", 7), ("b", 3))}
    unit = unit_pairs(D)
    length = sum(d.square().sum(-1) for d in unit.values())
    assert torch.allclose(length, torch.ones(5))
    assert torch.allclose(unit["a"] / unit["a"].norm(dim=1, keepdim=True),
                          D["a"] / D["a"].norm(dim=1, keepdim=True))  # fmt: skip
    assert unit_pairs({"a": torch.zeros(2, 3)})["a"].tolist() == [[0] * 3] * 2


def test_orientation_is_a_majority_vote_not_a_sum() -> None:
    """Two small differences outvote a large one that points the other way."""
    e = torch.eye(1, 6)
    axes, _ = top_axes(torch.cat([-5 * e, e, e]))
    assert float(axes[0, 0]) == pytest.approx(1.0)
    tied, _ = top_axes(torch.cat([-e, e]))
    assert float(tied[0, 0]) == pytest.approx(-1.0)  # a tie keeps the first pair's side


def test_select_slices_k_and_drops_what_lies_under_the_noise_floor() -> None:
    axes = {"a": torch.eye(3, 8), "b": torch.eye(3, 8), "c": torch.eye(3, 8)}
    singular = {
        "a": torch.tensor([9.0, 8.0, 7.0]),
        "b": torch.tensor([6.0, 0.2, 0.1]),
        "c": torch.tensor([0.3, 0.2, 0.1]),
    }
    v = VHack(axes, singular)
    assert {name: len(V) for name, V in v.select(3, 0.0).items()} == {"a": 3, "b": 3, "c": 3}
    assert {name: len(V) for name, V in v.select(2, 0.5).items()} == {"a": 2, "b": 1}  # c left out
    assert {name: len(V) for name, V in v.select(1, 0.0).items()} == {"a": 1, "b": 1, "c": 1}


def test_file_round_trip_and_what_is_refused(lm, adapter, v_hack, tmp_path) -> None:
    path = tmp_path / "v.safetensors"
    v_hack.save(path)
    again = load_vhack(path)
    again.require(adapter, 0.7, path)
    assert again.metadata == v_hack.metadata and again.metadata["n_pairs"] == "54"
    assert again.metadata["adapter"] == "antipasto"
    assert all(torch.equal(again.axes[n], v_hack.axes[n]) for n in v_hack.axes)
    with torch.no_grad():
        other = load(
            "tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu")
        )
        other.model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(InputError, match="extracted from another model"):
        again.require(wrap(other.model), 0.7, path)
    with pytest.raises(InputError, match=r"at temperature 0\.7, the run samples at 1\.0"):
        again.require(adapter, 1.0, path)
    with pytest.raises(InputError, match="no file"):
        load_vhack(tmp_path / "missing.safetensors")
    (tmp_path / "junk.safetensors").write_text("junk")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_vhack(tmp_path / "junk.safetensors")
    adapter.save(tmp_path / "adapter.safetensors")
    with pytest.raises(InputError, match="not a file of hack directions"):
        load_vhack(tmp_path / "adapter.safetensors")


def test_directions_fit_the_same_weights_decomposed_elsewhere_only(adapter, v_hack) -> None:
    elsewhere = replace(v_hack, metadata={**v_hack.metadata, "fingerprint": "f" * 64})
    assert elsewhere.fits(adapter) and v_hack.fits(adapter)
    assert not replace(elsewhere, sketches={}).fits(adapter)  # a file of an earlier version
    name = next(iter(v_hack.axes))
    for one in (v_hack.sketches[name].roll(1), v_hack.sketches[name] * torch.nan):
        assert not replace(elsewhere, sketches={**v_hack.sketches, name: one}).fits(adapter)
    assert not elsewhere.fits(wrap(tiny_qwen(seed=5)))


def test_files_of_the_same_directions_are_one_in_memory(v_hack, tmp_path) -> None:
    changed = replace(v_hack, metadata={**v_hack.metadata, "n_pairs": "53"})
    paths = [tmp_path / f"{n}.safetensors" for n in range(4)]
    for path, directions in zip(paths, [v_hack, v_hack, v_hack.top(2), changed], strict=True):
        directions.save(path)
    assert paths[0].read_bytes() != paths[1].read_bytes()  # the header's order is drawn
    first, same, shorter, other = load_all(paths)
    assert first is same and first.equals(v_hack)
    assert shorter.k_max == 2 and other.metadata["n_pairs"] == "53"


def test_too_few_pairs_are_refused(lm, adapter) -> None:
    with pytest.raises(InputError, match="at least 2"):
        extract(lm, adapter, TRAIN[:1], model_name="", **SETTINGS)


def test_the_mean_axis_points_where_the_differences_do_on_average() -> None:
    D = torch.tensor([[3.0, 1.0, 0.0], [3.0, -1.0, 0.0], [3.0, 0.0, 12.0]])
    axes, strength = mean_axis(D)
    assert axes.tolist() == [pytest.approx([0.6, 0.0, 0.8])] and strength.tolist() == [5.0]


def test_axes_are_made_as_asked(lm, adapter, v_hack) -> None:
    mean = extract(lm, adapter, TRAIN, model_name="tiny-random", v_axes="mean", **SETTINGS)
    D = hack_minus_clean(side_gradients(lm, adapter, TRAIN, **SETTINGS))
    assert mean.metadata["v_axes"] == "mean" and v_hack.metadata["v_axes"] == "svd"
    assert mean.k_max == 1
    for name, (axis,) in mean.axes.items():
        assert torch.allclose(axis, D[name].mean(0) / D[name].mean(0).norm(), atol=1e-5)
