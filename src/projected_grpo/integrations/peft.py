"""AntiPaSTO as a PEFT method. Import this module once, and PEFT knows "ANTIPASTO".

    from projected_grpo.integrations.peft import AntiPaSTOConfig
    model = PeftModel.from_pretrained(base, "runs/<run>/adapter")   # what a run has trained
    model = get_peft_model(base, AntiPaSTOConfig())  # or one to be trained

The map, its gradient and its rounding are those of antipasto.py, which train.py uses; here is only
what PEFT asks of a method: config, layer, model, registration. Like the trainer with a gradient,
the layer computes U ((S + delta_S) * (Vh x)); switched off it is the base layer itself, and merged
it is one dense weight, rounded as the trainer's is. Adapters that are active together add up: they
lie on the same axes.

An adapter holds delta_S (r,) of each module and a sketch of the axes that it is written in; the
axes are those of the base model's weights, found when the adapter is put on it, through the SVD
cache. A base model whose axes are others is refused.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils import register_peft_method
from torch import Tensor, nn

from projected_grpo.antipasto import (
    PEFT_AXES,
    PEFT_DELTA_S,
    AntiPaSTO,
    delta_weight,
    factored_linear,
    fingerprint_of,
)
from projected_grpo.env.errors import InputError
from projected_grpo.model.adapter import TARGET_MODULES, SeesTokens, require_untied
from projected_grpo.model.progress import progress_bar
from projected_grpo.model.rounding import round_by_dither
from projected_grpo.model.svd import (
    Factors,
    axes_agree,
    cached_decompose,
    default_cache_dir,
    sketch,
)

METHOD = "ANTIPASTO"


def _known_to_peft() -> PeftType:
    """PEFT's list of methods is an Enum, closed to other packages: put one more member into it, as
    its class statement would have."""
    member = str.__new__(PeftType, METHOD)
    member._name_ = member._value_ = METHOD
    setattr(PeftType, METHOD, member)
    PeftType._member_names_.append(METHOD)
    PeftType._member_map_[METHOD] = member
    PeftType._value2member_map_[METHOD] = member
    return member


PEFT_TYPE = _known_to_peft()


@dataclass
class AntiPaSTOConfig(PeftConfig):
    """Which modules get a delta_S; there is nothing else to choose: r is that of the weight."""

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={"help": "Last parts of module names, or a regular expression; default: all "
                  "projections of attention and MLP."},
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE


def _axes_of(weight: Tensor) -> Factors:
    """From the cache that training has; what it lacks is decomposed on a GPU where there is one,
    wherever the model is: 4B's modules take 10 s there."""
    elsewhere = weight.device.type == "cpu" and torch.cuda.is_available()
    found = cached_decompose(weight.cuda() if elsewhere else weight, default_cache_dir())
    return Factors(*(part.to(weight.device) for part in (found.U, found.S, found.Vh)))


class AntiPaSTOLinear(nn.Module, BaseTunerLayer):
    """A Linear and the delta_S (r,) of each adapter on it, float32 or better."""

    adapter_layer_names = (PEFT_DELTA_S,)

    def __init__(self, base_layer: nn.Linear, adapter_name: str) -> None:
        """Raises ValueError for a weight that is quantized or not finite."""
        super().__init__()
        weight = base_layer.weight.detach()
        if not weight.is_floating_point():
            raise ValueError(
                f"a quantized weight ({weight.dtype}) has no singular axes to train on"
            )
        self.base_layer = base_layer
        self._active_adapter = adapter_name
        factors = _axes_of(weight)
        self.digest = factors.digest()
        self.seed = factors.seed()
        self.U = nn.Buffer(factors.U, persistent=False)
        self.S = nn.Buffer(factors.S, persistent=False)
        self.Vh = nn.Buffer(factors.Vh, persistent=False)
        self.antipasto_axes = nn.Buffer(sketch(factors.U, factors.Vh))
        self.antipasto_delta_S = nn.ParameterDict()
        self.merged_adapters: list[str] = []
        self.unmerged: Tensor | None = None  # W, while the base layer has W'
        self.row_delta: Tensor | None = None  # (B, r), set by PeftLayers.rows
        self.measure: Callable[..., None] | None = None  # set by SeesTokens.token_pull
        self.kept: Tensor | None = None  # (B, T), set by SeesTokens.leave_out

    def update_layer(self, adapter_name: str, inference_mode: bool) -> None:
        """Add an adapter, zero at the start."""
        self.antipasto_delta_S[adapter_name] = nn.Parameter(torch.zeros_like(self.S))
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _total(self, names: Sequence[str]) -> Tensor:
        """The sum of these adapters' delta_S, (r,); zero where none of them is here."""
        here = [self.antipasto_delta_S[name] for name in names if name in self.antipasto_delta_S]
        return torch.stack(here).sum(0) if here else torch.zeros_like(self.S)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """U diag(delta_S) Vh of one adapter, (d_out, d_in), float32 or better."""
        return delta_weight(self.U, self.antipasto_delta_S[adapter], self.Vh)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        names = [name for name in self.active_adapters if name in self.antipasto_delta_S]
        if self.disable_adapters:
            self.unmerge()
        if self.disable_adapters or self.merged or not names:
            return self.base_layer(x, *args, **kwargs)
        # One sequence of all tokens: delta_S is the same for all, and its gradient their sum; but
        # for `PeftLayers.rows`, where each has its own. What is rounded where is decided in
        # antipasto.py, so autocast does not get a say.
        delta = self._total(names)[None] if self.row_delta is None else self.row_delta
        kept = None if self.kept is None else self.kept.reshape(len(delta), -1)
        with torch.autocast(x.device.type, enabled=False):
            rows = self._cast_input_dtype(x, self.U.dtype).reshape(len(delta), -1, x.shape[-1])
            bias = self.base_layer.bias
            y = factored_linear(rows, delta, self.S, bias, self.U, self.Vh, self.measure, kept)
        return y.view(*x.shape[:-1], -1).to(x.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put W' = W + U diag(delta_S) Vh into the base layer, in its own dtype. Raises ValueError
        where `safe_merge` finds that W' is not finite, with the layer as it was."""
        asked = check_adapters_to_merge(self, adapter_names)  # not those that are in it already
        names = [*self.merged_adapters, *(n for n in asked if n in self.antipasto_delta_S)]
        if names == self.merged_adapters:
            return
        weight = self.base_layer.weight
        W = weight.detach() if self.unmerged is None else self.unmerged
        with torch.no_grad():
            delta = delta_weight(self.U, self._total(names), self.Vh)
            merged = round_by_dither(W.to(delta.dtype) + delta, W.dtype, self.seed)
        if safe_merge and not torch.isfinite(merged).all():
            raise ValueError(f"merging {', '.join(names)} gives a weight that is not finite")
        weight.data, self.unmerged, self.merged_adapters = merged, W, names

    def unmerge(self) -> None:
        """Put W back, bit for bit."""
        if self.unmerged is not None:
            self.base_layer.weight.data = self.unmerged.to(self.base_layer.weight)
            self.unmerged, self.merged_adapters = None, []

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """It is W plus a delta: PEFT can make a LoRA of it, as engines want them."""
        return True

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        # PEFT would also cast delta_S to the base's dtype: in bf16 most of a small one is lost.
        # In place: a Parameter made anew would train again where this one is frozen.
        delta_S = self.antipasto_delta_S[adapter_name]
        delta_S.data = delta_S.data.to(device or self.U.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Raises InputError where delta_S was trained on other axes than these."""
        theirs, mine = state_dict.get(f"{prefix}{PEFT_AXES}"), self.antipasto_axes.clone()
        for name in self.antipasto_delta_S:
            delta_S = state_dict.get(f"{prefix}{PEFT_DELTA_S}.{name}")
            if delta_S is None:
                continue
            if theirs is None:
                raise InputError(
                    f"the adapter does not say which axes {prefix[:-1]} was trained on"
                )
            if theirs.shape != mine.shape or not axes_agree(
                theirs.to(mine), mine, delta_S.to(mine)
            ):
                raise InputError(
                    f"the adapter was trained on another base model: the singular axes of "
                    f"{prefix[:-1]} are others"
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.antipasto_axes = mine


class AntiPaSTOModel(BaseTuner):
    """The base model with an AntiPaSTOLinear in the place of every target Linear."""

    prefix = "antipasto_"
    tuner_layer_cls = AntiPaSTOLinear
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (as BaseTuner declares it)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        assert isinstance(peft_config, AntiPaSTOConfig)
        if peft_config.target_modules is None:
            peft_config.target_modules = list(TARGET_MODULES)
        return peft_config

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **how: Any) -> None:
        """As PEFT does it, with a bar: axes that are in no cache take their time."""
        linears = sum(isinstance(module, nn.Linear) for module in model.modules())
        with progress_bar("singular axes", linears, "module") as self.bar:
            super().inject_adapter(model, adapter_name, *args, **how)
        del self.bar  # a model with a bar could not be copied

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, AntiPaSTOLinear):
            target.update_layer(adapter_name, peft_config.inference_mode)
            return
        if not isinstance(target, nn.Linear):
            raise ValueError(f"{current_key} is a {type(target).__name__}, not a Linear")
        require_untied(self.model, [current_key])
        layer = AntiPaSTOLinear(target, adapter_name)
        layer.update_layer(adapter_name, peft_config.inference_mode)
        self.bar.update()
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


class PeftLayers(SeesTokens):
    """The active adapter of a PeftModel, as trainer.py asks for one: names and axes are those that
    `wrap` gives the same base model, so V is the same file."""

    def __init__(self, model: PeftModel) -> None:
        """Raises InputError unless the model's one active adapter is of AntiPaSTOConfig."""
        if not isinstance(model.base_model, AntiPaSTOModel):
            raise InputError(
                f"the PeftModel has adapters of a {type(model.base_model).__name__}: make it with "
                "AntiPaSTOConfig, or train a LoRA with `train --adapter=lora`"
            )
        if len(model.active_adapters) != 1:
            raise InputError(
                f"of the active adapters {', '.join(model.active_adapters)} one alone can be "
                "trained: choose it with set_adapter"
            )
        (self.name,) = model.active_adapters
        self.model = model
        every = model.get_base_model().named_modules()
        layers = {name: layer for name, layer in every if isinstance(layer, AntiPaSTOLinear)}
        self.modules = {
            n: layer for n, layer in layers.items() if self.name in layer.antipasto_delta_S
        }

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Module name -> delta_S (r,)."""
        return {name: layer.antipasto_delta_S[self.name] for name, layer in self.modules.items()}

    def fingerprint(self) -> str:
        """See AntiPaSTO."""
        return fingerprint_of({name: layer.digest for name, layer in self.modules.items()})

    def sketches(self) -> dict[str, Tensor]:
        """See HasFingerprint."""
        return {name: layer.antipasto_axes for name, layer in self.modules.items()}

    @property
    def layers(self) -> dict[str, AntiPaSTOLinear]:
        """See SeesTokens."""
        return self.modules

    @staticmethod
    def part_along(v: Tensor, *factors: Tensor) -> Tensor:
        """See SeesTokens."""
        return AntiPaSTO.part_along(v, *factors)

    @contextmanager
    def rows(self, run_of_row: Tensor, *, at_base: bool = False) -> Iterator[dict[str, Tensor]]:
        """See Adapter; there is one run."""
        leaves: dict[str, Tensor] = {}
        for name, layer in self.modules.items():
            total = self.trained[name].detach().expand(len(run_of_row), -1).clone()
            leaves[name] = (torch.zeros_like(total) if at_base else total).requires_grad_()
            layer.row_delta = leaves[name]
        try:
            yield leaves
        finally:
            for layer in self.modules.values():
                layer.row_delta = None

    def disable(self) -> AbstractContextManager[None]:
        """See Adapter."""
        return self.model.disable_adapter()

    def fold(self) -> None:
        """Nothing to do: sampling reads delta_S itself."""

    def train_directly(self) -> None:
        """Nothing to do: an ordinary backward reaches delta_S."""


register_peft_method(name=METHOD.lower(), config_cls=AntiPaSTOConfig, model_cls=AntiPaSTOModel)
