"""The one backward of a step: every row's own gradient, summed by run and source."""

from contextlib import ExitStack

import torch
from torch import Tensor

from projected_grpo.arms.rows import Row, RowGradients, StepSums
from projected_grpo.arms.screening import left_out_positions
from projected_grpo.arms.token_scores import of_completion
from projected_grpo.model.adapter import TokenPull
from projected_grpo.model.loss import (
    collate,
    completion_logprobs,
    micro_batches,
    policy_loss,
    tokens_at_once,
)
from projected_grpo.runs.distributed import add_up_gradients
from projected_grpo.runs.session import Session

LOGP_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest mean |log p| difference between sampler and trainer at the first inner step, by dtype.

In bf16 only a gross error shows: correct runs have 0.0005 (organism) to 0.06 (random weights of
Qwen3-4B's dimensions), by the rounding of two ways of computing. A fold that was forgotten is told
by `SVDLinear` itself."""


def ensure(condition: bool | Tensor, message: str) -> None:
    """Stop the run where a value that must hold does not: better than a healthy-looking curve."""
    if not condition:
        raise RuntimeError(message)


def accumulate_gradients(
    s: Session, rows: list[Row], per_row: RowGradients | None = None
) -> StepSums:
    """One backward a micro-batch over the rows that carry an advantage; fills in their hack scores,
    and every row's own gradient that `per_row` wants. The sums are those of all processes."""
    per_row = per_row or RowGradients(frozenset())
    total = StepSums(s.adapter.trained)
    learning = [row for row in rows if row.learns]
    lengths = [len(row.prompt) + len(row.ids) for row in learning]
    for some in micro_batches(lengths, tokens_at_once(s.cfg.micro_batch_tokens, s.device)):
        _accumulate(s, [learning[i] for i in some], total, per_row)
    per_row.close()
    expected = [0] * len(s.cfgs)
    for row in learning:
        expected[row.run] += len(row.ids)
    expected = add_up_gradients(s.world, total, expected)
    ensure(
        total.tokens.tolist() == expected and max(expected) <= s.cfg.denominator,
        f"the loss saw {total.tokens.tolist()} tokens of the rows' {expected} "
        f"(denominator {s.cfg.denominator})",
    )
    limit = LOGP_TOLERANCE[s.lm.model.dtype]
    off = float((total.logp_difference / total.student_tokens.clamp_min(1)).max())
    ensure(
        off <= limit,
        "the sampler is not the policy that is trained, so the ratio is not 1 at the first "
        f"inner step: log-probs differ by {off:.2g} a token on average, more than {limit:.2g}",
    )
    return total


def _accumulate(s: Session, rows: list[Row], total: StepSums, per_row: RowGradients) -> None:
    cfg, device = s.cfg, s.device
    batch = collate([row.prompt for row in rows], [row.ids for row in rows], s.lm.pad_id, device)
    mask = batch.completion_mask
    student = torch.tensor([row.source == "student" for row in rows], device=device)
    run_of_row = torch.tensor([row.run for row in rows], device=device)
    ref_logp = None
    if cfg.beta > 0:
        with torch.no_grad(), s.adapter.disable():
            ref_logp = completion_logprobs(s.lm.model, batch, cfg.temperature)
    sampled_logp = torch.zeros(mask.shape)
    for b, row in enumerate(rows):
        if row.logps is not None:
            sampled_logp[b, : len(row.logps)] = torch.tensor(row.logps)
    with ExitStack() as stack:
        leaves = stack.enter_context(s.adapter.rows(run_of_row))
        pull = stack.enter_context(s.adapter.token_pull(_directions(s, run_of_row)))
        if any(row.flagged_tokens for row in rows):
            places = left_out_positions(rows, batch.input_ids.shape, device)
            stack.enter_context(s.adapter.leave_out(places))
        logp = completion_logprobs(s.lm.model, batch, cfg.temperature)
        # One optimizer step a batch: the policy that sampled is the policy at hand, the ratio is 1.
        # That it really was is checked apart (`add_differences`), which keeps the bf16 noise of
        # sampled log-probs out of the gradient. For teacher rows ratio 1 means weighted imitation;
        # as they are no samples of the policy, they estimate no KL.
        old_logp = logp.detach()
        if ref_logp is not None:
            ref_logp = torch.where(student[:, None], ref_logp, old_logp)
        loss, sums = policy_loss(
            logp,
            old_logp,
            torch.tensor([row.advantage for row in rows], device=device),
            mask,
            denominator=cfg.denominator,
            clip_eps=cfg.clip_eps,
            beta=cfg.beta,
            ref_logp=ref_logp,
        )
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    total.add_gradients(gradients, run_of_row, student)
    per_row.add(rows, gradients)
    total.add_sums(sums, run_of_row)
    difference = sampled_logp.to(device) - old_logp
    total.add_differences(difference, mask & student[:, None], run_of_row)
    if s.along_v:
        _keep_pulls(s, rows, pull)


def _directions(s: Session, run_of_row: Tensor) -> dict[str, Tensor]:
    """module -> what each row's tokens are measured along, (B, r, 1) or (r, 1)."""
    return {name: v[0] if len(v) == 1 else v[run_of_row] for name, v in s.along_v.items()}


def _keep_pulls(s: Session, rows: list[Row], pull: TokenPull) -> None:
    """Every token's pull along the hack directions that its run measures, and every row's hack
    score, their sum: its alignment with V. Both are of the text itself, whatever its advantage; at
    its group's mean a row pulls nowhere."""
    values = pull.tokens[..., 0]
    scores, by_token = values.sum(1).tolist(), values.cpu().numpy()
    measuring = {n for t in s.treatments if t.V for n in t.runs.tolist()}
    for b, row in enumerate(rows):
        if row.advantage != 0:
            sign = 1.0 if row.advantage > 0 else -1.0
            row.pull = sign * of_completion(by_token[b], len(row.prompt), len(row.ids))
            if row.run in measuring:
                row.hack_score = sign * scores[b]
