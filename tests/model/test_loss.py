"""The loss: by hand, against finite differences, against TRL, and its invariances."""

import math

import pytest
import torch
from conftest import tiny_qwen
from torch import Tensor

from projected_grpo.model.loss import (
    TokenBatch,
    collate,
    completion_logprobs,
    group_advantages,
    policy_loss,
)

PROMPTS = [[5, 6, 7], [8, 9], [5, 6, 7], [1, 2, 3, 4, 5]]
COMPLETIONS = [[10, 11, 12, 13], [20], [30, 31], [40, 41, 42]]


def attended(batch: TokenBatch) -> Tensor:
    """(B, T), 1 where a row has a token: what a mask would say."""
    lens = batch.prompt_lens + batch.completion_lens
    return (torch.arange(batch.input_ids.shape[1]) < lens[:, None]).long()


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[3.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [3.5, 0.0, 0.5, 9.0]])
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[2, 3] = False  # infra_error: out of the mean and out of the loss
    A, learns = group_advantages(rewards, valid)
    assert learns.tolist() == [[True] * 4, [False] * 4, [True, True, True, False]]
    assert A[0].tolist() == [2.25, -0.75, -0.75, -0.75]  # mean 1.25, no division by the deviation
    assert A[1].tolist() == [0, 0, 0, 0]
    assert torch.allclose(A[2], torch.tensor([3.5 - 4 / 3, -4 / 3, 0.5 - 4 / 3, 0.0]))


def test_equal_rewards_are_decided_exactly_not_by_the_rounding_of_a_mean() -> None:
    rewards = torch.full((1, 3), 0.1)
    A, learns = group_advantages(rewards, torch.ones(1, 3, dtype=torch.bool))
    assert A.tolist() == [[0, 0, 0]] and not learns.any()


def test_a_row_at_the_groups_mean_still_takes_part() -> None:
    A, learns = group_advantages(torch.tensor([[1.0, 0.0, 2.0]]), torch.ones(1, 3).bool())
    assert A.tolist() == [[0, -1, 1]] and learns.all()


@pytest.mark.parametrize("valid", [[False] * 3, [True, False, False]])
def test_a_group_with_less_than_two_valid_rows_teaches_nothing(valid) -> None:
    A, learns = group_advantages(torch.tensor([[3.5, 0.5, 0.0]]), torch.tensor([valid]))
    assert A.tolist() == [[0, 0, 0]] and not learns.any()


def test_masks_come_from_lengths_not_from_values() -> None:
    """Pad and eos are the same id and stand inside the completion as well."""
    batch = collate([[2, 3], [3]], [[2, 7, 2], [2]], pad_id=2)
    assert batch.completion_mask.tolist() == [[True, True, True], [True, False, False]]
    assert attended(batch).tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]


@pytest.mark.parametrize("prompts,completions", [([[]], [[1]]), ([[1]], [[]])])
def test_empty_sides_are_refused(prompts, completions) -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate(prompts, completions, 0)


def test_logprobs_equal_a_log_softmax_of_each_row_alone() -> None:
    model = tiny_qwen(torch.float64)
    logp = completion_logprobs(model, collate(PROMPTS, COMPLETIONS, 0), temperature=0.7)
    for b, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0] / 0.7
        for i, token in enumerate(completion):
            expected = torch.log_softmax(logits[len(prompt) + i - 1], -1)[token]
            assert torch.allclose(logp[b, i], expected, rtol=1e-9, atol=1e-12)
        assert (logp[b, len(completion) :] == 0).all()


@pytest.mark.parametrize("chunk", [1, 97 * 3, 10**9])
def test_logprobs_and_their_gradient_do_not_need_all_logits(chunk: int) -> None:
    """Against log_softmax and gather, for every size of a chunk, in float64."""
    model, batch = tiny_qwen(torch.float64), collate(PROMPTS, COMPLETIONS, 0)
    embed = model.get_input_embeddings().weight
    outer = torch.randn(batch.completion_mask.shape, dtype=torch.float64)
    gradients = []
    for fused in (True, False):
        shift = torch.zeros(embed.shape[1], dtype=torch.float64, requires_grad=True)
        handle = model.get_input_embeddings().register_forward_hook(
            lambda module, args, out, shift=shift: out + shift
        )
        if fused:
            logp = completion_logprobs(model, batch, 0.7, chunk)
        else:
            logits = model(batch.input_ids, attention_mask=attended(batch)).logits / 0.7
            every = torch.log_softmax(logits, -1)
            logp = torch.zeros(batch.completion_mask.shape, dtype=torch.float64)
            for b, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
                for i, token in enumerate(completion):
                    logp[b, i] = every[b, len(prompt) + i - 1, token]
        handle.remove()
        gradients.append((logp.detach(), *torch.autograd.grad((logp * outer).sum(), shift)))
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_loss_by_hand() -> None:
    ratio = torch.tensor([[1.5, 0.5, 1.0], [1.5, 0.5, 99.0]])
    logp, old = ratio.log(), torch.zeros(2, 3)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    loss, m = policy_loss(logp, old, torch.tensor([2.0, -1.0]), mask, denominator=10, clip_eps=0.2)
    # A = 2: min(3, 2.4), min(1, 1.6), 2 = 5.4;  A = -1: min(-1.5, -1.2), min(-0.5, -0.8) = -2.3
    assert float(loss) == pytest.approx(-(5.4 - 2.3) / 10)
    assert m["clipped"].tolist() == [1, 1] and m["tokens"].tolist() == [3, 2]
    assert m["loss"].tolist() == pytest.approx([-0.54, 0.23])


def test_k3_kl_by_hand() -> None:
    logp, ref = torch.log(torch.tensor([[0.5]])), torch.log(torch.tensor([[0.25]]))
    loss, m = policy_loss(
        logp, logp, torch.tensor([0.0]), torch.tensor([[True]]),
        denominator=2, clip_eps=0.2, beta=0.1, ref_logp=ref,
    )  # fmt: skip
    k3 = 0.5 - math.log(0.5) - 1
    assert float(m["kl"]) == pytest.approx(k3)
    assert float(loss) == pytest.approx(0.1 * k3 / 2)
    with pytest.raises(ValueError, match="reference"):
        policy_loss(
            logp, logp, torch.zeros(1), torch.ones(1, 1).bool(), denominator=1, clip_eps=0.2, beta=1
        )


def test_the_kl_gradient_is_the_reverse_kls() -> None:
    """Summed over all tokens weighted by p, ratio * k3 has exactly the gradient of KL(p || ref)."""
    logits = torch.tensor([0.3, -0.5, 1.0, 0.1], dtype=torch.float64, requires_grad=True)
    ref = torch.log_softmax(torch.tensor([0.0, 0.7, -0.2, 0.4], dtype=torch.float64), -1)
    logp = torch.log_softmax(logits, -1)
    (exact,) = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits, retain_graph=True)
    expected = torch.zeros_like(exact)
    for token in range(4):  # the expectation over samples, each with old = logp
        one = logp[token].reshape(1, 1)
        loss, _ = policy_loss(
            one, one.detach(), torch.zeros(1, dtype=torch.float64), torch.ones(1, 1).bool(),
            denominator=1, clip_eps=0.2, beta=1.0, ref_logp=ref[token].reshape(1, 1),
        )  # fmt: skip
        (g,) = torch.autograd.grad(loss, logits, retain_graph=True)
        expected += logp[token].exp().detach() * g
    assert torch.allclose(expected, exact, rtol=1e-10)


def test_gradient_equals_finite_differences() -> None:
    g = torch.Generator().manual_seed(0)
    logp = torch.randn(2, 4, generator=g, dtype=torch.float64).mul(0.1).requires_grad_()
    old = torch.randn(2, 4, generator=g, dtype=torch.float64) * 0.1
    ref = torch.randn(2, 4, generator=g, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])

    def loss(x: torch.Tensor) -> torch.Tensor:
        return policy_loss(
            x, old, torch.tensor([1.5, -0.5], dtype=torch.float64), mask,
            denominator=32, clip_eps=0.2, beta=0.3, ref_logp=ref,
        )[0]  # fmt: skip

    assert torch.autograd.gradcheck(loss, (logp,), eps=1e-7, atol=1e-6)


def test_batch_of_four_equals_four_batches_of_one() -> None:
    """The denominator is a constant, so micro-batching cannot matter; lengths are uneven."""
    model = tiny_qwen(torch.float64)
    model.model.layers.requires_grad_(True)  # the head stays frozen
    advantages = torch.tensor([1.0, -0.5, 2.0, -2.5], dtype=torch.float64)

    def gradient(slices: list[slice]) -> torch.Tensor:
        model.zero_grad()
        for rows in slices:
            batch = collate(PROMPTS[rows], COMPLETIONS[rows], 0)
            logp = completion_logprobs(model, batch, 1.0)
            loss, _ = policy_loss(
                logp, logp.detach(), advantages[rows], batch.completion_mask,
                denominator=64, clip_eps=0.2,
            )  # fmt: skip
            loss.backward()
        trained = model.model.layers.parameters()
        return torch.cat([p.grad.flatten() for p in trained])

    whole = gradient([slice(0, 4)])
    pieces = gradient([slice(i, i + 1) for i in range(4)])
    assert torch.allclose(whole, pieces, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_the_loss_equals_trls_dr_grpo(beta: float, tmp_path) -> None:
    """TRL's own GRPOTrainer._compute_loss on the same tensors, ratios away from 1 so that the clip
    acts."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    from projected_grpo.model.load import _make_tiny_random

    _, tokenizer = _make_tiny_random(torch.float32)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    max_new, G = 6, 4
    tiny_qwen().save_pretrained(tmp_path / "model")  # TRL loads its reference model by path
    trainer = GRPOTrainer(
        model=str(tmp_path / "model"),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(tmp_path), loss_type="dr_grpo", scale_rewards="none",
            beta=beta, epsilon=0.2,
            num_generations=G, per_device_train_batch_size=G, max_completion_length=max_new,
            temperature=0.7, report_to=[], use_cpu=True, bf16=False,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["x"] * 8}),
        processing_class=tokenizer,
    )  # fmt: skip
    model = trainer.model.eval()
    prompts = [[5, 6, 7]] * G  # one group: TRL pads prompts on the left, we do not
    completions = [[10, 11, 12, 13], [20], [30, 31], [40, 41, 42]]
    batch = collate(prompts, completions, 0)
    mask = batch.completion_mask
    logp = completion_logprobs(model, batch, 0.7)
    g = torch.Generator().manual_seed(1)
    old = torch.where(mask, logp.detach() + 0.3 * torch.randn(logp.shape, generator=g), 0.0)
    ref = torch.where(mask, logp.detach() + 0.3 * torch.randn(logp.shape, generator=g), 0.0)
    advantages = torch.tensor([2.25, -0.75, -0.75, -0.75])
    ours, _ = policy_loss(
        logp, old, advantages, mask,
        denominator=G * max_new, clip_eps=0.2, beta=beta, ref_logp=ref if beta else None,
    )  # fmt: skip
    inputs = {
        "prompt_ids": batch.input_ids[:, :3],
        "prompt_mask": attended(batch)[:, :3],
        "completion_ids": batch.input_ids[:, 3:],
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }
    trainer.current_gradient_accumulation_steps = 1
    theirs = trainer._compute_loss(model, inputs)
    ours, theirs = ours.detach(), theirs.detach()
    assert abs(float(ours)) > 1e-2
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)
