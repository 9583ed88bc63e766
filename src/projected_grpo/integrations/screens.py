"""Screens in TRL's GRPOTrainer (arms/screening.py says what they are).

A row that is flagged is out of its group's mean and of the gradient when its reward is None, as TRL
has it; one that is penalised is paid less. So both act through the reward function, which is
wrapped. Flagged tokens are left out where the layers make their rows' gradients; which row of a
micro-batch is which is told by its ids.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from projected_grpo.arms.screening import (
    SCREENS,
    flags_of,
    measure_rows,
    scores_of,
    screen_directions,
    threshold_of_share,
)
from projected_grpo.arms.token_scores import SCORES
from projected_grpo.arms.treatment import Treatment
from projected_grpo.config import SCORES_BY_TEXT, Config, ConfigError
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.checks import require_plain_head
from projected_grpo.model.load import LanguageModel

RewardFunction = Callable[..., Sequence[float | None]]
SCREEN_SETTINGS = ("screen", "screen_score", "screen_at", "screen_share", "screen_penalty")
"""The settings of a screen that a Trainer takes."""


class TrlScreen:
    """The screen of one Trainer. `begin` before it scores."""

    def __init__(self, cfg: Config, threshold: float | None) -> None:
        """threshold: scores above it are flagged; None where `screen_share` is set.

        Raises ConfigError unless one of the two is given, and for a detector by text, which needs
        to know the problem.
        """
        if cfg.screen_score in SCORES_BY_TEXT:
            raise ConfigError(
                f"screen_score {cfg.screen_score} reads problems that a Trainer does not have: "
                "take another, or put a row's flag into the reward function"
            )
        if cfg.screen_yoked:
            raise ConfigError("screen_yoked follows a run of a pack, which a Trainer has not")
        if (threshold is None) != bool(cfg.screen_share):
            raise ConfigError(
                f"screen {cfg.screen} needs a threshold or a screen_share, one of them: a run of "
                "`train` with the same V, score and model has calibrated thresholds in its "
                "steps.jsonl (screen_threshold)"
            )
        self.cfg = cfg
        self.what = SCREENS[cfg.screen]
        self.reward: ScreenedReward | None = None
        self._threshold = threshold
        self._flagged: dict[tuple[int, ...], list[int]] = {}

    def begin(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        adapter: Adapter,
        treatment: Treatment,
        temperature: float,
        template: dict[str, Any],
    ) -> None:
        """Take the model that is trained, and V. `template`: what its chat template is told.

        Raises ConfigError where no reward is screened, InputError for a head that no log-prob of a
        token can be taken of.
        """
        if self.reward is None:
            raise ConfigError(
                f"screen {self.cfg.screen} acts through the reward: give the Trainer "
                "reward_funcs=projection.screened(reward)"
            )
        require_plain_head(model, "the Trainer's model")
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._lm = LanguageModel(model, tokenizer, frozenset(), pad, None, None)
        self._template = template
        self._adapter = adapter
        self._directions = screen_directions([treatment], 1)
        self.cfg = replace(self.cfg, temperature=temperature)
        if self.what.tokens:
            model.register_forward_pre_hook(self._mark, with_kwargs=True)

    def judge(self, prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]]) -> list[bool]:
        """Whether each row is flagged, itself or a token of it. Costs a forward and a backward."""
        texts = [
            (self._prompt_ids(p), list(ids)) for p, ids in zip(prompts, completion_ids, strict=True)
        ]
        zeros, cfg = [0] * len(texts), self.cfg
        values = measure_rows(self._lm, self._adapter, texts, zeros, [cfg], self._directions)
        threshold = self._threshold
        if threshold is None:
            scores = scores_of(values, SCORES[cfg.screen_score], tokens=self.what.tokens)
            threshold = threshold_of_share(scores, cfg.screen_share)
        found = [flags_of(value, cfg, threshold) for value in values]
        self._flagged = {
            (*prompt, *ids): [len(prompt) - 1 + t for t in one.tokens]
            for (prompt, ids), one in zip(texts, found, strict=True)
        }
        return [one.flagged for one in found]

    def _prompt_ids(self, prompt: Any) -> list[int]:
        tokenizer = self._lm.tokenizer
        if isinstance(prompt, str):
            return tokenizer(prompt)["input_ids"]
        text = tokenizer.apply_chat_template(
            list(prompt), tokenize=False, add_generation_prompt=True, **self._template
        )
        return tokenizer.encode(text, add_special_tokens=False)

    def _mark(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a forward that is differentiated: tell the layers which tokens do not count. They
        are told until the next one, as activations may be computed again in the backward."""
        if not torch.is_grad_enabled():
            return
        ids, mask = cast(Tensor, kwargs["input_ids"]), cast(Tensor, kwargs["attention_mask"])
        kept = torch.ones(ids.shape, dtype=torch.float32)
        for b, (row, real) in enumerate(zip(ids.tolist(), mask.bool().cpu(), strict=True)):
            places = real.nonzero()[:, 0].tolist()
            flagged = self._flagged.get(tuple(row[t] for t in places))
            if flagged is None:
                raise RuntimeError(
                    "a row is trained on that was not screened: its prompt has other tokens than "
                    "the reward's, so that flagged tokens cannot be found in it"
                )
            kept[b, [places[t] for t in flagged]] = 0.0
        for layer in self._adapter.layers.values():
            layer.kept = kept.to(ids.device)


class ScreenedReward:
    """A reward function of TRL, and what a screen makes of its rewards."""

    def __init__(self, reward: RewardFunction, screen: TrlScreen) -> None:
        self.__name__ = getattr(reward, "__name__", type(reward).__name__)
        self._reward, self._screen = reward, screen
        screen.reward = self

    def __call__(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        log_metric: Callable[[str, float], None] | None = None,
        **others: Any,
    ) -> list[float | None]:
        """Rewards in the order of `completions`, None for a row that is left out."""
        paid = self._reward(
            prompts=prompts, completions=completions, completion_ids=completion_ids,
            log_metric=log_metric, **others,
        )  # fmt: skip
        flagged = self._screen.judge(prompts, completion_ids)
        if log_metric is not None:
            log_metric("screened", sum(flagged) / len(flagged))
        what, penalty = self._screen.what, self._screen.cfg.screen_penalty
        if what.leaves_out:
            return [None if out else reward for reward, out in zip(paid, flagged, strict=True)]
        if what.penalises:
            return [
                None if reward is None else reward - penalty * out
                for reward, out in zip(paid, flagged, strict=True)
            ]
        return list(paid)
