"""Sample a step's groups: each prompt is prefilled once, its G rows decode together with all the
others.

Reproducibility: every prompt of every step owns a random stream, seeded by (seed, step, problem
id) and drawn on the CPU, so what a row gets does not depend on the other prompts of the batch, on
their order, on the device, or on what was sampled before (which is why a resumed run repeats
itself).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Self

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from projected_grpo.config import Config
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.checks import require_positions
from projected_grpo.model.decode import Decoder, make_decoder, next_logits
from projected_grpo.model.load import LanguageModel
from projected_grpo.model.loss import micro_batches

CHECK_EVERY = 4
"""Tokens between two looks at which rows have finished."""
CHUNK = 64
"""Tokens of a vocabulary that are compared by their best one first."""
LEAVING_SHARE = {"cuda": 0.25, "cpu": 0.02}
"""Share of finished rows at which they leave the batch. A GPU captures its launches anew then, and
fewer rows take it hardly less time; a CPU only moves a few rows into the places of others."""
SIDE_BY_SIDE = 2
"""Batches that a CPU samples at the same time: the threads of more would wait for Python's lock."""
FEWEST_ROWS = 32
"""Rows for which a batch of their own is worth it on a CPU: with the organism the first row of a
token costs what 16 more do."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. top_k = 0 and top_p = 1 leave the softmax whole."""

    max_new: int
    temperature: float
    top_p: float
    top_k: int
    eos_ids: frozenset[int]
    pad_id: int
    columns: int
    """Key-value cache in use at once, rows x (prompt + max_new)."""

    @classmethod
    def from_config(cls, cfg: Config, lm: LanguageModel) -> Self:
        """As a run samples from its model."""
        return cls(
            cfg.max_new, cfg.temperature, cfg.top_p, cfg.top_k, lm.eos_ids, lm.pad_id,
            cfg.sampling_tokens,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled completion."""

    ids: list[int]
    """Token ids, the eos included where one was drawn."""
    logps: list[float]
    """log p of each token at the sampling temperature under the whole softmax, as sampled."""
    terminated: bool
    """Ended by an eos, not by max_new."""


OnFinished = Callable[[int, int, Sample], None]
"""Called with the place of a prompt, the number of a row of it, and that row, which has ended while
others may still grow."""


def draw(logits: Tensor, uniform: Tensor, sampling: SamplingParams) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution, in token order, at `uniform`.

    logits (B, vocabulary), uniform (B,) in [0, 1). Returns ids (B,) and their log-probs (B,).
    In token order, because in the order of probability two nearly equal tokens would change places
    by rounding, and a run in a pack, or on another device, would soon not be the same run.
    """
    logps = torch.log_softmax(logits.float() / sampling.temperature, -1)
    if sampling.top_p < 1 or sampling.top_k > 0:
        among, p = _truncate(logps, sampling)
    else:
        among, p = None, logps.double().exp()
    cumulative = p.cumsum(-1)
    # Above 0, so that a token without probability is never the first to reach it.
    target = (uniform.to(p)[:, None] * cumulative[:, -1:]).clamp_min(torch.finfo(p.dtype).tiny)
    ids = torch.searchsorted(cumulative, target).clamp_max(p.shape[-1] - 1)
    if among is not None:
        ids = among.gather(-1, ids)
    return ids[:, 0], logps.gather(-1, ids)[:, 0]


def _truncate(logps: Tensor, sampling: SamplingParams) -> tuple[Tensor, Tensor]:
    """The top_k most probable tokens, in token order, and their probabilities, 0 where top_p leaves
    them out; both (B, top_k), float64. Of equal tokens those with lower ids stay."""
    vocabulary = logps.shape[-1]
    ids = _most_probable(logps, min(sampling.top_k or vocabulary, vocabulary))
    falling = logps.gather(-1, ids).double().exp()
    kept = falling.cumsum(-1) - falling < sampling.top_p  # the one that crosses top_p stays
    kept[:, 0] = True
    ids, order = ids.sort(-1)
    return ids, torch.where(kept, falling, 0.0).gather(-1, order)


def _most_probable(logps: Tensor, most: int) -> Tensor:
    """Ids (B, most) of the most probable tokens, falling, of equal ones the lower id first.

    Those of a large vocabulary lie in the `most` chunks of it whose best tokens are the most
    probable. So only one pass, for the chunks' maxima, sees it whole: a search for the tokens
    themselves took a tenth of a step.
    """
    chunks = logps.shape[-1] // CHUNK
    if most >= chunks:
        return _first_by_surprise(logps, most)
    whole, rest = logps[:, : chunks * CHUNK], logps[:, chunks * CHUNK :]
    best = _first_by_surprise(whole.unflatten(-1, (chunks, CHUNK)).amax(-1), most).sort(-1).values
    inside = torch.arange(CHUNK, device=logps.device)
    ids = (best[..., None] * CHUNK + inside).flatten(1)
    last = torch.arange(chunks * CHUNK, logps.shape[-1], device=logps.device).expand(len(ids), -1)
    ids = torch.cat([ids, last], 1)  # rising, so that a lower place is a lower id
    found = torch.cat([whole.gather(-1, ids[:, : most * CHUNK]), rest], 1)
    return ids.gather(-1, _first_by_surprise(found, most))


def _first_by_surprise(logps: Tensor, most: int) -> Tensor:
    """Places (B, most) of the largest, falling, of equal ones the first place first."""
    # A float that is not negative grows with its bits: least surprise first, then the lower place.
    surprise = logps.neg().clamp_min(0).view(torch.int32).long()
    keys = (surprise << 32) + torch.arange(logps.shape[-1], device=logps.device)
    return keys.topk(most, largest=False).values & (2**32 - 1)


def sample_groups(
    model: PreTrainedModel,
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    group: int,
    seeds: Sequence[int],
    sampling: SamplingParams,
    runs: Sequence[int] | None = None,
    on_finished: OnFinished | None = None,
) -> list[list[Sample]]:
    """`group` completions of each prompt, in the order of `prompts`.

    prompts: P lists of token ids; seeds: one random stream a prompt; runs: the run of the packed
    axis that each prompt belongs to (default: all run 0). At most `sampling.columns` of cache are
    in use at once, but one group always is. `on_finished` hears of every row once. Raises
    InputError where rows would cross the model's `position_limit`.
    """
    require_positions(model, max(map(len, prompts)), sampling.max_new)
    of_run = runs if runs is not None else [0] * len(prompts)
    lengths = [group * (len(prompt) + sampling.max_new) for prompt in prompts]
    samples: list[list[Sample]] = [[] for _ in prompts]
    telling = Lock()

    def sample_part(some: Sequence[int]) -> None:
        def tell(place: int, row: int, sample: Sample) -> None:
            if on_finished is not None:
                with telling:
                    on_finished(some[place], row, sample)

        mine = [prompts[i] for i in some], [seeds[i] for i in some], [of_run[i] for i in some]
        sampled = _sample(model, adapter, *mine, group, sampling, tell)
        for i, rows in zip(some, sampled, strict=True):
            samples[i] = rows

    on_cpu = model.device.type == "cpu"
    for some in micro_batches(lengths, sampling.columns):
        parts = _parts(some, of_run, group) if on_cpu else [some]
        _do_side_by_side([partial(sample_part, part) for part in parts])
    return samples


def _parts(some: Sequence[int], runs: Sequence[int], group: int) -> list[list[int]]:
    """These prompts as a CPU samples them: those of each run by themselves, from its own folded
    weights, and those of a run that has no neighbour in two parts.

    For a CPU more rows in one product are no gain. Its threads meet after each of the hundred
    operations of a token, and one alone does what lies between; those of two batches never meet.
    """
    by_run = [[i for i in some if runs[i] == run] for run in sorted({runs[i] for i in some})]
    threads = min(SIDE_BY_SIDE, torch.get_num_threads())
    lonely = len(by_run) % threads > 0 and len(by_run[0]) * group >= threads * FEWEST_ROWS
    pieces = threads if lonely else 1
    return [part[at::pieces] for part in by_run for at in range(pieces)]


def _do_side_by_side(jobs: Sequence[Callable[[], None]]) -> None:
    """These jobs, one after another or in threads that share those of torch."""
    threads = torch.get_num_threads()
    workers = min(SIDE_BY_SIDE, threads, len(jobs))
    if workers == 1:
        for job in jobs:
            job()
        return
    share = threads // workers
    try:
        with ThreadPoolExecutor(workers, "sample", torch.set_num_threads, (share,)) as pool:
            for done in [pool.submit(job) for job in jobs]:
                done.result()
    finally:
        torch.set_num_threads(threads)  # torch's threads begin with what was said last


@torch.no_grad()
def _sample(
    model: PreTrainedModel,
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    runs: Sequence[int],
    group: int,
    sampling: SamplingParams,
    on_finished: OnFinished,
) -> list[list[Sample]]:
    device = model.device
    P, width = len(prompts), max(map(len, prompts))
    ids = torch.full((P, width), sampling.pad_id, device=device)
    mask = torch.zeros((P, width), dtype=torch.long, device=device)
    for row, prompt in enumerate(
        prompts
    ):  # padding on the left: every row's next token is in one column
        ids[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, width - len(prompt) :] = 1
    uniforms = (
        torch.stack(  # (max_new, P * group), drawn up front so that early stops shift nothing
            [
                torch.rand(sampling.max_new, group, generator=torch.Generator().manual_seed(seed))
                for seed in seeds
            ],
            1,
        ).flatten(1)
    )
    run_of_prompt = torch.tensor(runs, device=device)

    if device.type == "cuda":
        torch.cuda.empty_cache()
    cache = DynamicCache(config=model.config)
    with adapter.rows(run_of_prompt):
        logits = next_logits(model, ids, mask, mask.cumsum(1).sub(1).clamp_min(0), cache)
    decoder = make_decoder(model, cache, mask, group, sampling.max_new)
    del cache  # copied, row by row
    leaving = _decode(
        decoder,
        adapter,
        logits.repeat_interleave(group, 0),
        run_of_prompt.repeat_interleave(group),
        uniforms.to(device),
        sampling,
    )
    found: dict[int, Sample] = {}
    for row, drawn, logps in leaving:
        found[row] = _cut(drawn, logps, sampling.eos_ids)
        on_finished(*divmod(row, group), found[row])
    if device.type == "cuda":  # a capture cannot reclaim what training and older graphs hold
        torch.cuda.empty_cache()
    return [[found[i * group + g] for g in range(group)] for i in range(P)]


def _decode(
    decoder: Decoder,
    adapter: Adapter,
    logits: Tensor,
    runs: Tensor,
    uniforms: Tensor,
    sampling: SamplingParams,
) -> Iterator[tuple[int, list[int], list[float]]]:
    """Row, token ids and log-probs (max_new each), row by row as they leave; what stands behind a
    row's eos means nothing.

    logits (rows, vocabulary) of the first token, runs (rows,), uniforms (max_new, rows). Finished
    rows leave the batch in bulk, since leaving means copying the cache of those who stay.
    """
    device = uniforms.device
    eos = torch.tensor(sorted(sampling.eos_ids), device=device)
    rows = torch.arange(len(runs), device=device)  # place in the output of those who are growing
    tokens = torch.full((len(rows), sampling.max_new), sampling.pad_id, device=device)
    logps = torch.zeros(tokens.shape, device=device)
    finished = torch.zeros(len(rows), dtype=torch.bool, device=device)
    with ExitStack() as stack:
        stack.enter_context(adapter.rows(runs))
        for step in range(sampling.max_new):
            token, logp = draw(logits, uniforms[step, rows], sampling)
            tokens[rows, step], logps[rows, step] = token, logp
            finished |= torch.isin(token, eos)
            if step + 1 == sampling.max_new:
                break
            # Looking at a result waits for the GPU: not at every token.
            if step % CHECK_EVERY == 0 and finished.float().mean() >= LEAVING_SHARE[device.type]:
                yield from _leave(finished.nonzero()[:, 0], rows, tokens, logps)
                staying = _moved_up(finished)
                if not len(staying):
                    return
                decoder.keep(staying)
                rows, runs, finished = rows[staying], runs[staying], finished[staying]
                token = token[staying]
                stack.close()
                stack.enter_context(adapter.rows(runs))
            logits = decoder.step(token)
    yield from _leave(torch.arange(len(rows), device=device), rows, tokens, logps)


def _moved_up(finished: Tensor) -> Tensor:
    """Those who are not finished (indices): in their old places, or in those of finished ones where
    there are fewer places now."""
    staying = (~finished).nonzero()[:, 0]
    places = torch.arange(len(staying), device=finished.device)
    places[finished[: len(staying)]] = staying[staying >= len(staying)]
    return places


def _leave(
    who: Tensor, rows: Tensor, tokens: Tensor, logps: Tensor
) -> Iterator[tuple[int, list[int], list[float]]]:
    places = rows[who]
    yield from zip(places.tolist(), tokens[places].tolist(), logps[places].tolist(), strict=True)


def _cut(ids: list[int], logps: list[float], eos_ids: frozenset[int]) -> Sample:
    """A row up to and with its first eos; what a finished row went on to draw is dropped."""
    end = next((i + 1 for i, token in enumerate(ids) if token in eos_ids), None)
    return Sample(ids[:end], logps[:end], end is not None)
