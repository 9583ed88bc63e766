"""Scores of completions by their tokens: how far each token pulls along some directions, or how
unlikely it is.

A row's gradient is a sum over its tokens, so its alignment with V is a sum of the tokens' pulls
(`Adapter.token_pull`); those of its prompt are left out here. A hack is some ten tokens: the
strongest ones tell it better than the mean of the row does. Pulls are those of the row's NLL
gradient, whatever its advantage: above 0 is what makes the hack likelier when the row is rewarded.

Axes: C completion tokens of a row, D directions, N runs.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel
from projected_grpo.model.loss import (
    PromptCompletion,
    collate,
    completion_logprobs,
    micro_batches,
    tokens_at_once,
)

Values = NDArray[np.float64]
"""One value a token, (C,)."""

WINDOW_TOKENS = 8
"""Tokens of a window: about the length of a line that exploits a grader."""
STRONGEST = 5
"""Tokens that count in `strongest`."""


def strongest_window(values: Values, width: int = WINDOW_TOKENS) -> tuple[float, int, int]:
    """The largest sum of `width` tokens in a row, and where it stands: [first, end). A shorter row
    is one window."""
    width = min(width, len(values))
    sums = np.convolve(values, np.ones(width), "valid")
    first = int(sums.argmax())
    return float(sums[first]), first, first + width


def strongest(values: Values) -> float:
    """The sum of the `STRONGEST` largest values."""
    return float(np.sort(values)[-STRONGEST:].sum())


@dataclass(frozen=True, slots=True)
class Score:
    """How one number is made of a row."""

    meaning: str
    of: str
    """What is taken of each token: pull, nll or nothing; text: it is no sum over tokens, and
    `summary` is not used (screening.flag_by_text)."""
    summary: Callable[[Values], float]


SCORES: dict[str, Score] = {
    "tokens": Score(f"pull of the {STRONGEST} strongest tokens", "pull", strongest),
    "window": Score(
        f"pull of the strongest {WINDOW_TOKENS} tokens in a row",
        "pull",
        lambda v: strongest_window(v)[0],
    ),
    "row": Score("pull of all tokens", "pull", lambda v: float(v.sum())),
    "nll_tokens": Score(f"control: NLL of the {STRONGEST} least likely tokens", "nll", strongest),
    "nll_window": Score(
        f"control: NLL of the least likely {WINDOW_TOKENS} tokens in a row",
        "nll",
        lambda v: strongest_window(v)[0],
    ),
    "nll_row": Score("control: mean NLL of the row", "nll", lambda v: float(v.mean())),
    "shortness": Score("control: fewer tokens score higher", "nothing", lambda v: -float(len(v))),
    "flavour": Score(
        "rival: 1 where the text shows a hack of a flavour that the pairs have", "text", len
    ),
    "channel": Score(
        "rival: 1 where the text uses what the flawed grader looks at, honestly or not", "text", len
    ),
}
"""Score by name (--screen-score): from large to small, the likelier hacks come first."""


@dataclass(frozen=True, slots=True)
class TokenValues:
    """What was measured of one row's completion."""

    pull: NDArray[np.float64]
    """(C, D). What a row pulls before its completion, where the prompt is read, is not in it."""
    nll: Values
    """(C,) in nats, at the sampling temperature."""

    def of(self, score: Score, direction: int = 0) -> Values:
        """The values that the score is made of."""
        return self.pull[:, direction] if score.of == "pull" else self.nll


def measure_tokens(
    lm: LanguageModel,
    adapter: Adapter,
    texts: Sequence[PromptCompletion],
    runs: Sequence[int],
    directions: Mapping[str, Tensor],
    *,
    temperature: float,
    micro_batch_tokens: int,
    at_base: bool,
) -> list[TokenValues]:
    """Pulls and NLL of every completion token, under the policies of `runs` or the base model.

    directions: module -> (N, r, D), every run's own, such as `proj.mean_axes` makes; where there
    are none nothing is differentiated, and D is 0. Costs a forward and a backward of all rows.
    """
    device = lm.model.device
    lengths = [len(prompt) + len(completion) for prompt, completion in texts]
    found: dict[int, TokenValues] = {}
    for some in micro_batches(lengths, tokens_at_once(micro_batch_tokens, device)):
        prompts, completions = zip(*(texts[i] for i in some), strict=True)
        batch = collate(prompts, completions, lm.pad_id, device)
        run = torch.tensor([runs[i] for i in some], device=device)
        mine = {name: v[0] if len(v) == 1 else v[run] for name, v in directions.items()}
        with torch.set_grad_enabled(bool(mine)), adapter.rows(run, at_base=at_base) as leaves:
            if mine:
                with adapter.token_pull(mine) as pull:
                    logp = completion_logprobs(lm.model, batch, temperature)
                    torch.autograd.grad(-logp.sum(), list(leaves.values()))
                pulls = pull.tokens.double().cpu().numpy()
            else:
                logp = completion_logprobs(lm.model, batch, temperature)
                pulls = np.zeros((*batch.input_ids.shape, 0))
        nll = -logp.detach().double().cpu().numpy()
        for b, i in enumerate(some):
            count = len(completions[b])
            found[i] = TokenValues(of_completion(pulls[b], len(prompts[b]), count), nll[b, :count])
    return [found[i] for i in range(len(texts))]


def of_completion(by_position: NDArray[Any], prompt: int, count: int) -> NDArray[Any]:
    """The completion's part (count, ...) of values by position (T, ...): token t + 1 is said where
    token t is read."""
    return by_position[prompt - 1 : prompt - 1 + count]


def encode_pulls(values: Values) -> dict[str, Any]:
    """One byte a token, for rollouts.jsonl: pull = byte * scale / 127."""
    scale = float(np.abs(values).max(initial=0.0))
    steps = np.round(values / (scale or 1.0) * 127).astype(np.int8)
    return {"scale": scale, "pulls": base64.b64encode(steps.tobytes()).decode("ascii")}


def encode_lengths(characters: Sequence[int]) -> str:
    """The characters that each token adds to the text, one byte a token (255 at most)."""
    return base64.b64encode(bytes(min(n, 255) for n in characters)).decode("ascii")
