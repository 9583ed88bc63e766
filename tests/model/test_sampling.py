"""Sampling: reproducible, independent of its batch, and exactly the policy that is trained."""

from collections.abc import Iterator

import pytest
import torch
from conftest import tiny_qwen

from projected_grpo.antipasto import wrap
from projected_grpo.config import stream_seed
from projected_grpo.model.loss import collate, completion_logprobs
from projected_grpo.model.sampling import (
    LEAVING_SHARE,
    Sample,
    SamplingParams,
    _truncate,
    draw,
    sample_groups,
)

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15]]
SEEDS = [101, 102, 103]


def sampling(**overrides) -> SamplingParams:
    defaults = dict(
        max_new=12,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        eos_ids=frozenset({1, 2, 3}),
        pad_id=1,
        columns=10**6,
    )
    return SamplingParams(**{**defaults, **overrides})


@pytest.fixture(scope="module")
def adapter():
    adapter = wrap(tiny_qwen())
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for delta in adapter.delta_S.values():
            delta.copy_(torch.randn(delta.shape, generator=g) * 0.2)
    adapter.fold()
    return adapter


def ids(groups) -> list[list[list[int]]]:
    return [[sample.ids for sample in group] for group in groups]


def test_the_same_seeds_give_the_same_rows_in_any_company_and_order(adapter) -> None:
    together = ids(sample_groups(adapter.model, adapter, PROMPTS, 4, SEEDS, sampling()))
    swapped = ids(sample_groups(adapter.model, adapter, PROMPTS[::-1], 4, SEEDS[::-1], sampling()))
    alone = [
        ids(sample_groups(adapter.model, adapter, [p], 4, [s], sampling()))[0]
        for p, s in zip(PROMPTS, SEEDS, strict=True)
    ]
    in_parts = ids(sample_groups(adapter.model, adapter, PROMPTS, 4, SEEDS, sampling(columns=150)))
    assert together == swapped[::-1] == alone == in_parts
    assert len({tuple(row) for row in together[0]}) > 1  # the rows of a group differ


def test_every_row_is_told_once_as_soon_as_it_leaves(adapter) -> None:
    told: dict[tuple[int, int], Sample] = {}

    def tell(place: int, row: int, sample: Sample) -> None:
        assert (place, row) not in told
        told[place, row] = sample

    s = sampling(max_new=40, columns=4000)
    groups = sample_groups(adapter.model, adapter, PROMPTS, 16, SEEDS, s, on_finished=tell)
    assert {(p, r): x for p, group in enumerate(groups) for r, x in enumerate(group)} == told
    lengths = [len(sample.ids) for sample in told.values()]
    assert lengths != sorted(lengths, reverse=True) and lengths[0] < lengths[-1]  # not at the end


def test_the_sampler_is_the_policy_that_is_trained(adapter) -> None:
    """Cached, left-padded decoding and the right-padded loss forward give the same log-probs."""
    s = sampling(temperature=0.7, top_p=0.9, top_k=20)
    groups = sample_groups(adapter.model, adapter, PROMPTS, 4, SEEDS, s)
    samples = [sample for group in groups for sample in group]
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    batch = collate(prompts, [sample.ids for sample in samples], 0)
    with adapter.rows(torch.zeros(len(samples), dtype=torch.long)), torch.no_grad():
        logp = completion_logprobs(adapter.model, batch, 0.7)
    for row, sample in zip(logp, samples, strict=True):
        recomputed = row[: len(sample.ids)]
        assert torch.allclose(recomputed, torch.tensor(sample.logps), atol=2e-5)


def test_every_eos_id_ends_a_row_and_nothing_follows_it(adapter) -> None:
    groups = sample_groups(adapter.model, adapter, PROMPTS, 64, SEEDS, sampling(max_new=40))
    samples = [sample for group in groups for sample in group]
    ends = set()
    for sample in samples:
        assert len(sample.ids) == len(sample.logps) <= 40
        assert not {1, 2, 3} & set(sample.ids[:-1])
        assert sample.terminated == (sample.ids[-1] in {1, 2, 3})
        if sample.terminated:
            ends.add(sample.ids[-1])
    assert len(ends) > 1


def test_packed_runs_sample_what_each_would_alone(adapter) -> None:
    packed = wrap(tiny_qwen(), n_runs=2)
    with torch.no_grad():
        for one, two in zip(adapter.delta_S.values(), packed.delta_S.values(), strict=True):
            two[1] = one[0]
    packed.fold()
    base = wrap(tiny_qwen())
    got = sample_groups(packed.model, packed, PROMPTS[:2], 3, SEEDS[:2], sampling(), runs=[0, 1])
    assert (
        ids(got)[0]
        == ids(sample_groups(base.model, base, PROMPTS[:1], 3, SEEDS[:1], sampling()))[0]
    )
    alone = sample_groups(adapter.model, adapter, PROMPTS[1:2], 3, SEEDS[1:2], sampling())
    assert ids(got)[1] == ids(alone)[0]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_two_threads_sample_the_rows_of_one(adapter, two_threads) -> None:
    """Runs of a pack side by side, also where they are three, and a run alone in two parts."""
    packed = wrap(tiny_qwen(), n_runs=3)
    with torch.no_grad():
        for one, all_runs in zip(adapter.delta_S.values(), packed.delta_S.values(), strict=True):
            all_runs[1] = one[0]
            all_runs[2] = -one[0]
    packed.fold()
    prompts, seeds = PROMPTS * 3, range(9)
    runs = [n % 3 for n in range(9)]
    told: list[tuple[int, int]] = []

    def sampled(group: int) -> list[object]:
        told.clear()
        rows = sample_groups(
            packed.model, packed, prompts, group, seeds, sampling(), runs,
            lambda place, row, _: told.append((place, row)),
        )  # fmt: skip
        assert sorted(told) == [(place, row) for place in range(9) for row in range(group)]
        alone = sample_groups(adapter.model, adapter, prompts, group, seeds, sampling())
        assert ids(rows)[1::3] == ids(alone)[1::3] != ids(rows)[::3]
        return [ids(rows), ids(alone)]

    both = [sampled(4), sampled(24)]
    torch.set_num_threads(1)
    assert both == [sampled(4), sampled(24)]
    torch.set_num_threads(2)


def test_what_goes_wrong_in_one_thread_is_raised(adapter, two_threads) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        sample_groups(adapter.model, adapter, PROMPTS, 32, SEEDS, sampling(), on_finished=fail)


def test_draw_follows_the_softmax() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]])).repeat(20000, 1)
    u = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    tokens, logp = draw(logits, u, sampling())
    shares = torch.bincount(tokens, minlength=4) / 20000
    assert torch.allclose(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.015)
    assert torch.allclose(logp, logits.gather(1, tokens[:, None])[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    "overrides,allowed",
    [
        ({"top_k": 2}, {2, 3}),
        ({"top_k": 1}, {3}),
        ({"top_p": 0.39}, {3}),
        ({"top_p": 0.41}, {2, 3}),
        ({"top_p": 0.95, "top_k": 3}, {1, 2, 3}),
    ],
)
def test_draw_truncates(overrides: dict, allowed: set[int]) -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]])).repeat(4001, 1)
    u = torch.linspace(0, 1 - 1e-7, 4001)
    tokens, logp = draw(logits, u, sampling(**overrides))
    assert set(tokens.tolist()) == allowed
    assert torch.allclose(logp, logits.gather(1, tokens[:, None])[:, 0], atol=1e-6)  # whole softmax


@pytest.mark.parametrize("chunk", [2, 3, 64])
def test_truncation_is_that_of_a_stable_sort(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projected_grpo.model.sampling.CHUNK", chunk)
    g = torch.Generator().manual_seed(0)
    for case in range(300):
        top_k, top_p = (0, 1, 3, 7, 50)[case % 5], (1.0, 0.9, 0.5, 0.01)[case % 4]
        # Few distinct values: ties at every edge.
        p = torch.randint(0, 4, (3, 11), generator=g).double()
        p = (p + (p.sum(-1, keepdim=True) == 0)) / (p.sum(-1, keepdim=True)).clamp_min(1)
        logps = torch.log(p).float()
        p = logps.double().exp()  # as it is summed
        falling, order = torch.sort(p, dim=-1, descending=True, stable=True)
        keep = falling.cumsum(-1) - falling < top_p
        keep[:, (top_k or 11) :] = False
        keep[:, 0] = True
        expected = torch.zeros_like(keep).scatter(-1, order, keep)
        ids, left = _truncate(logps, sampling(top_k=top_k, top_p=top_p))
        got = torch.zeros_like(p).scatter(-1, ids, left)
        assert torch.equal(got > 0, expected & (p > 0)), (top_k, top_p)
        assert torch.allclose(got, torch.where(expected, p, 0.0)) and (ids.diff() > 0).all()


def test_temperature_sharpens() -> None:
    logits = torch.log(torch.tensor([[0.4, 0.6]])).repeat(4000, 1)
    u = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    tokens, _ = draw(logits, u, sampling(temperature=0.25))
    assert float(tokens.float().mean()) == pytest.approx(0.6**4 / (0.6**4 + 0.4**4), abs=0.03)


def test_stream_seeds_are_stable_and_distinct() -> None:
    assert stream_seed("sample", 41, 1, 7) == stream_seed("sample", 41, 1, 7)
    assert (
        len({stream_seed("sample", s, t, p) for s in (1, 11) for t in (1, 11) for p in (1, 11)})
        == 8
    )
    assert stream_seed("a") == 0x654BC089650DDEE5  # the same in every Python


def test_finished_rows_leave_the_batch_and_nobody_notices(adapter, monkeypatch) -> None:
    s = sampling(max_new=40)
    together = sample_groups(adapter.model, adapter, PROMPTS, 16, SEEDS, s)
    assert len({len(sample.ids) for group in together for sample in group}) > 5
    monkeypatch.setitem(LEAVING_SHARE, "cpu", 2.0)  # nobody ever leaves
    staying = sample_groups(adapter.model, adapter, PROMPTS, 16, SEEDS, s)
    assert ids(together) == ids(staying)
    for a, b in zip(together, staying, strict=True):
        for one, two in zip(a, b, strict=True):
            assert one.logps == pytest.approx(two.logps, abs=2e-5)


def test_rounding_noise_at_near_ties_does_not_change_the_draw() -> None:
    """A pack and a run alone differ by rounding; the same uniform must give the same token."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 64, generator=g)
    logits[:, 1::2] = logits[:, ::2]  # every token has a twin of the same probability
    noisy = logits + 1e-6 * torch.randn(logits.shape, generator=g)
    uniform = torch.rand(4000, generator=g)
    for s in (sampling(), sampling(top_p=0.95), sampling(top_k=20)):
        same = draw(logits, uniform, s)[0] == draw(noisy, uniform, s)[0]
        assert float(same.float().mean()) > (0.9995 if s.top_k == 0 and s.top_p == 1 else 0.98)
