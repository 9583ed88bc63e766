"""Scores of rows by their tokens, and how they are kept."""

import base64
from dataclasses import replace
from itertools import accumulate, pairwise, takewhile

import numpy as np
import pytest
import torch
from conftest import tiny_qwen
from hypothesis import given
from hypothesis import strategies as st

from projected_grpo.antipasto import wrap
from projected_grpo.arms.token_scores import (
    SCORES,
    encode_lengths,
    encode_pulls,
    measure_tokens,
    of_completion,
    strongest,
    strongest_window,
)
from projected_grpo.model.load import LanguageModel, load
from projected_grpo.model.loss import collate, completion_logprobs
from projected_grpo.proj import cosine, mean_axes, random_orthonormal

VALUES = st.lists(st.floats(-10, 10), min_size=1, max_size=60).map(np.array)


@given(VALUES)
def test_the_strongest_window_is_where_it_says_and_none_is_stronger(values: np.ndarray) -> None:
    best, first, end = strongest_window(values, 4)
    assert end - first == min(4, len(values))
    sums = [values[i : i + end - first].sum() for i in range(len(values) - (end - first) + 1)]
    assert best == pytest.approx(max(sums)) and values[first:end].sum() == pytest.approx(best)


@given(VALUES)
def test_the_strongest_tokens_count_whatever_their_place(values: np.ndarray) -> None:
    assert strongest(values) == pytest.approx(sum(sorted(values)[-5:]))
    assert strongest(values[::-1]) == pytest.approx(strongest(values))


@given(VALUES)
def test_a_pull_is_kept_in_a_byte_to_a_127th_of_the_largest(values: np.ndarray) -> None:
    kept = encode_pulls(values)
    steps = np.frombuffer(base64.b64decode(kept["pulls"]), np.int8)
    off = np.abs(steps * kept["scale"] / 127 - values).max()
    assert off <= np.abs(values).max() / 127 + 1e-12


def test_lengths_are_kept_in_a_byte() -> None:
    assert base64.b64decode(encode_lengths([3, 0, 300])) == bytes([3, 0, 255])


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load("tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("text", ["def f():\n    return 1", "naïve — 日本語 🙂 ok", ""])
def test_the_characters_of_all_tokens_make_up_the_text(lm: LanguageModel, text: str) -> None:
    ids = lm.completion_ids(text)
    lengths = lm.characters(ids)
    assert len(lengths) == len(ids) and sum(lengths) == len(lm.decode(ids))
    assert lengths[-1] == 0  # the end of the turn


@given(st.lists(st.integers(0, 300), max_size=30))
def test_a_token_adds_what_the_text_until_it_has_in_common_with_the_whole(
    lm: LanguageModel, ids: list[int]
) -> None:
    """Of bytes in any order too, most of which are no UTF-8."""
    text = lm.decode(ids)
    assert lm._byte_level_ends(ids, text) is not None
    alike = [
        sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(begun, text, strict=False)))
        for begun in (lm.decode(ids[:n]) for n in range(len(ids) + 1))
    ]
    furthest = list(accumulate(alike, max))
    assert lm.characters(ids) == [b - a for a, b in pairwise(furthest)]


@pytest.mark.parametrize("at_base", [True, False])
def test_rows_are_measured_where_they_are_asked_to_be(lm: LanguageModel, at_base: bool) -> None:
    lm = replace(lm, model=tiny_qwen())
    adapter = wrap(lm.model, n_runs=2)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for delta in adapter.delta_S.values():
            delta.copy_(0.1 * torch.randn(delta.shape, generator=g))
    adapter.fold()
    bases = [
        {n: random_orthonormal(2, d.shape[1], g) for n, d in adapter.delta_S.items()}
        for _ in range(2)
    ]
    directions = {name: v.T[..., None] for name, v in mean_axes(bases).items()}
    texts = [([5, 6, 7], [8, 9, 10, 11]), ([5, 6], [12, 13]), ([9], [3, 4, 5, 6, 7])]
    runs = [0, 1, 1]
    how = {"temperature": 0.7, "micro_batch_tokens": 16}
    found = measure_tokens(lm, adapter, texts, runs, directions, at_base=at_base, **how)
    plain = measure_tokens(lm, adapter, texts, runs, {}, at_base=at_base, **how)
    if at_base:
        with torch.no_grad():
            for delta in adapter.delta_S.values():
                delta.zero_()
        adapter.fold()
    for value, bare, text, run in zip(found, plain, texts, runs, strict=True):
        batch = collate([text[0]], [text[1]], lm.pad_id)
        mine = mean_axes([bases[run]])
        with adapter.rows(torch.tensor([run])) as leaves, adapter.token_pull(mine) as pull:
            logp = completion_logprobs(lm.model, batch, 0.7)
            gradients = torch.autograd.grad(-logp.sum(), list(leaves.values()))
        rows = dict(zip(leaves, gradients, strict=True))
        every = pull.tokens[0, :, 0].numpy()
        assert every.sum() == pytest.approx(float(cosine(rows, bases[run])), abs=1e-4)
        expected = of_completion(every, len(text[0]), len(text[1]))
        np.testing.assert_allclose(value.pull[:, 0], expected, atol=1e-4)
        assert SCORES["row"].summary(value.of(SCORES["row"])) == pytest.approx(
            expected.sum(), abs=1e-4
        )
        np.testing.assert_allclose(bare.nll, value.nll, atol=1e-4)
