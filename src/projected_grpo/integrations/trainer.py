"""The projection in a Trainer that is not ours: TRL's GRPOTrainer, or any transformers Trainer.

    adapter = wrap(model, cache_dir=default_cache_dir())
    trainer = GRPOTrainer(model, ..., callbacks=[HackProjection(adapter, "v_hack.safetensors")])
    trainer.train(); adapter.save(Path("adapter.safetensors"))

PEFT's own form of the adapter does as well: `HackProjection(peft_model, ...)`, of
`get_peft_model(model, AntiPaSTOConfig())` or of a Trainer's `peft_config`.

The formulas are those of our own loop (update.py, proj.py). What differs is the order. We project,
then clip; a Trainer accumulates, clips, and only then calls `on_pre_optimizer_step`. What is
removed is proportional to the gradient, so the direction that AdamW gets is the same and only its
length may differ: there min(1, c / |g|) is taken of it with the norm before the projection, here
with the norm after it. Where `max_grad_norm` does not bind both are the same. `project_on=update`
takes AdamW's step as the difference of the parameters before and after it, as our loop does.

A Trainer sees summed gradients only: what needs every rollout's own (weights, learned axes, hack
scores), an arm's reward, or V again while it runs, is refused here. Screens look at rows and tokens
in a pass of their own (screens.py).
"""

from dataclasses import fields
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from projected_grpo.antipasto import AntiPaSTO
from projected_grpo.arms.arms import ARMS, require_arms
from projected_grpo.arms.directions import require_axes
from projected_grpo.arms.treatment import Treatment, make_treatments
from projected_grpo.arms.update import apply_projections, measure
from projected_grpo.config import Config, ConfigError
from projected_grpo.env.errors import InputError
from projected_grpo.extract_vhack_grad import load_vhack
from projected_grpo.integrations.peft import PeftLayers
from projected_grpo.integrations.screens import (
    SCREEN_SETTINGS,
    RewardFunction,
    ScreenedReward,
    TrlScreen,
)
from projected_grpo.model.adapter import Adapter
from projected_grpo.proj import Grads, squared_norm
from projected_grpo.step_logger import Value, mean_over_runs

HEEDED = (
    *("arm", "seed", "v_hack_k", "v_hack_drop_bottom_frac"),
    *("gate", "overshoot", "preserve_magnitude", "project_on"),
    *SCREEN_SETTINGS,
)
"""The settings that a Trainer takes from a Config; all others are its own to set, or not there."""
REPLICATED = ("NO", "MULTI_CPU", "MULTI_GPU")
"""accelerate's names of set-ups in which every process has the whole of delta_S and its
gradient, and the optimizer steps between the two events."""
PRECISIONS = {torch.float32: ("no",), torch.bfloat16: ("no", "bf16")}
"""dtype of a model -> accelerate's names of the mixed precisions that leave its products as they
are. A folded float16 weight would be rounded to the nearest, which loses small deltas."""


def _require_heeded(cfg: Config) -> None:
    """Raises ConfigError for a setting that a Trainer would ignore, or an arm it cannot have."""
    require_arms(cfg)
    able = [name for name, arm in ARMS.items() if not arm.needs_rows]
    if cfg.arm not in able:
        raise ConfigError(
            f"arm {cfg.arm} does more than a Trainer's summed gradient allows: "
            f"take {', '.join(able)}, or run it with `train`"
        )
    default = type(cfg)()
    for f in fields(cfg):
        had = vars(cfg)[f.name]
        if f.name not in HEEDED and had != vars(default)[f.name]:
            raise ConfigError(
                f"{f.name} = {had} would be ignored: HackProjection heeds {', '.join(HEEDED)}; "
                "all else is set in the Trainer's own arguments, or needs `train`"
            )


def _layers_of(adapter: AntiPaSTO | nn.Module) -> AntiPaSTO | PeftLayers:
    """The layers that a Trainer trains. Raises InputError for what is of neither kind."""
    if isinstance(adapter, AntiPaSTO):
        return adapter
    if isinstance(adapter, PeftModel):
        return PeftLayers(adapter)
    raise InputError(
        f"a {type(adapter).__name__} has no delta_S to project: give HackProjection what "
        "`wrap(model)` returned, or a PeftModel of AntiPaSTOConfig"
    )


def _row(delta: Tensor) -> Tensor:
    """delta_S, its gradient or step, (1, r) or PEFT's (r,), as (1, r) of the same memory."""
    return delta.view(1, -1)


class HackProjection(TrainerCallback):
    """Takes the hack directions out of every optimizer step on a wrapped model.

    With arm vanilla it changes nothing, and is needed all the same: it lets the Trainer reach
    delta_S, folds it after each step for sampling, and measures. What it measures is put into the
    Trainer's logs under the names of docs/metrics.md; the Trainer's own `grad_norm` is our
    `grad_norm_pre`.
    """

    def __init__(
        self,
        adapter: AntiPaSTO | nn.Module,
        v_hack: Path | str,
        settings: Config | None = None,
        *,
        threshold: float | None = None,
    ):
        """adapter: of `wrap(model)`, the model that the Trainer is given; or that model itself, if
        it is a PeftModel of AntiPaSTOConfig. v_hack: a file that `extract-vhack` wrote. settings:
        of its fields those in HEEDED; default Config's, arm projected. MiniConfig(arm="projected")
        is what `train mini` does. threshold: of a screen, where settings have one without a
        screen_share; then the reward goes through `screened`.

        Raises ConfigError for settings that a Trainer would ignore, InputError for an adapter of
        another kind. What does not fit the model
        raises when training begins, before anything is sampled.
        """
        self._cfg = settings if settings is not None else Config(arm="projected")
        _require_heeded(self._cfg)
        if self._cfg.screen == "none" and threshold is not None:
            raise ConfigError("a threshold does nothing while screen is none: leave it out")
        self._screen = TrlScreen(self._cfg, threshold) if self._cfg.screen != "none" else None
        self._adapter = _layers_of(adapter)
        self._source = Path(v_hack)
        self._treatment: Treatment
        self._before: Grads = {}
        self._gradients: Grads = {}
        self._projected: Grads = {}
        self._rows: list[dict[str, Value]] = []  # of the steps since the last log

    def screened(self, reward: RewardFunction) -> ScreenedReward:
        """A reward function of TRL as the screen of the settings has it: GRPOTrainer's
        `reward_funcs`. Raises ConfigError where the settings have no screen."""
        if self._screen is None:
            raise ConfigError("the settings have no screen: set screen, or give the reward itself")
        return ScreenedReward(reward, self._screen)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        """Check that V, model and Trainer belong together, and let the Trainer reach delta_S.

        Raises InputError where V is of another model, temperature or enable_thinking, or the
        Trainer trains anything but delta_S or does not step it; ConfigError for a precision or a
        set-up that would not work.
        """
        self._require_setup(args)
        self._require_parameters(kwargs["model"], kwargs["optimizer"])
        device = next(iter(self._adapter.trained.values())).device
        v_hack = load_vhack(self._source, device)
        # A loss without a temperature (supervised training) has that of the plain softmax.
        temperature = float(vars(args).get("temperature", 1.0))
        # Of GRPOConfig; what the template does when it is told nothing is not known here.
        template = vars(args).get("chat_template_kwargs") or {}
        told = template.get("enable_thinking")
        v_hack.require(self._adapter, temperature, self._source, told)
        require_axes([self._cfg], v_hack)
        (self._treatment,) = make_treatments([self._cfg], [v_hack], {}, device)
        self._adapter.train_directly()
        self._adapter.fold()  # of a checkpoint that was loaded
        if self._screen is not None:
            model = kwargs["model"]
            base = model.get_base_model() if hasattr(model, "get_base_model") else model
            self._screen.begin(
                base, kwargs["processing_class"], cast(Adapter, self._adapter), self._treatment,
                temperature, template,
            )  # fmt: skip

    def _require_parameters(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        mine = {id(p) for p in self._adapter.trained.values()}
        if trained != mine:
            raise InputError(
                f"the Trainer's model trains {len(trained - mine)} tensors that are not this "
                f"adapter's and lacks {len(mine - trained)} that are: give it the model that was "
                "wrapped, without another adapter on it"
            )
        left = mine - {id(p) for group in optimizer.param_groups for p in group["params"]}
        if left:
            raise InputError(
                f"the optimizer steps {len(mine) - len(left)} of this adapter's {len(mine)} "
                "tensors: make it after `wrap`, of the model's parameters"
            )

    def _require_setup(self, args: TrainingArguments) -> None:
        from accelerate.state import AcceleratorState  # no Trainer exists without it

        kind = AcceleratorState().distributed_type.value
        if kind not in REPLICATED:
            raise ConfigError(
                f"under {kind} no process holds a whole gradient when it could be projected: "
                "run on one device or with plain data parallelism"
            )
        if vars(args).get("use_vllm", False):
            raise ConfigError(
                "vLLM would be sent the base weights without delta_S and sample from the base "
                "model: set use_vllm=False"
            )
        dtype = next(iter(self._adapter.modules.values())).U.dtype
        # Not of args: `accelerate launch --mixed_precision` sets it as well.
        precision = AcceleratorState().mixed_precision
        if precision not in PRECISIONS.get(dtype, ()):
            raise ConfigError(
                f"a model in {dtype} under mixed precision {precision!r} is not what was measured: "
                "load it in float32 and set bf16=False (TRL's default is True) and fp16=False, in "
                "accelerate's own settings too, or load it in bfloat16"
            )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        """Project the accumulated, clipped gradient; remember where the parameters are.

        Raises RuntimeError where no gradient has arrived or one is not finite.
        """
        delta_S, t = self._adapter.trained, self._treatment
        # A module that took no part in the step (an expert) has no gradient; it does not step.
        live = {name: _row(p.grad) for name, p in delta_S.items() if p.grad is not None}
        if not live:
            raise RuntimeError("no gradient has reached delta_S, so nothing could be projected")
        self._gradients = {name: g.clone() for name, g in live.items()}
        if not torch.isfinite(squared_norm(self._gradients)).all():
            raise RuntimeError("a gradient is not finite")
        self._projected = apply_projections(self._gradients, [t], [t.on_grad])
        if self._projected is not self._gradients:
            for name, g in live.items():
                g.copy_(self._projected[name])
        self._before = {name: _row(p.detach()).clone() for name, p in delta_S.items()}

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        """Project the step that was taken where the settings ask for it; fold; measure."""
        t = self._treatment
        delta_S = {name: _row(p.detach()) for name, p in self._adapter.trained.items()}
        stepped = {name: self._before[name] - now for name, now in delta_S.items()}
        taken = apply_projections(stepped, [t], [t.on_update])
        if taken is not stepped:
            for name, now in delta_S.items():
                now.copy_(self._before[name] - taken[name])
        self._adapter.fold()
        found = measure(t, self._gradients, self._projected, stepped, taken, taken, delta_S)
        self._rows.append({key: values[0] for key, values in found.items()})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        """Fold what `load_best_model_at_end` may have loaded."""
        self._adapter.fold()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        """Put the mean over the steps since the last log into the Trainer's: its history, and what
        the callbacks after this one get."""
        logs = kwargs["logs"]
        if not self._rows or "loss" not in logs:  # an evaluation's
            return
        means = {key: mean_over_runs([row[key] for row in self._rows]) for key in self._rows[0]}
        measured = {key: v for key, v in means.items() if isinstance(v, float)}
        logs.update(measured)
        state.log_history[-1].update(measured)
        self._rows = []
