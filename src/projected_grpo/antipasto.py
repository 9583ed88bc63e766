"""AntiPaSTO's adapter: every target Linear on its own singular axes, one trained vector each.

    W' = W + U diag(delta_S) Vh,    U, Vh frozen,  delta_S in R^r trained in float32, zero at the
    start.

State carries a leading run axis N: delta_S is (N, r), so that N runs can share one frozen model.
The same map is computed in two ways; which of them a module has is chosen when it is wrapped:

- factored: y = U ((S + delta_S[run]) * (Vh x)); W itself is not needed. Every forward whose
  gradient is wanted, and sampling too where rows of several runs share a batch. Cheaper than the
  dense W with a delta beside it, in time and memory. U and Vh have the base's dtype, so at delta_S
  = 0 it is the base model to one more rounding of that dtype; S + delta_S is float32, and rounding
  its product with the activations is no threshold: it averages out over tokens.
- folded (without a gradient, where N = 1, or for rows of one run on a CPU): one dense W' per module
  and run, rebuilt after each optimizer step. Sampling then reads what the base model reads. W of a
  bf16 model lies on the bf16 grid, where rounding W' to the nearest would lose every delta below
  half an ulp; so a bf16 W' is rounded up or down by a fixed random draw of each weight
  (model/rounding.py), which is exact on average and leaves W alone at delta_S = 0. How far the two
  ways are apart is measured at every step by the loop.

Gradients: with P = dY U and Q = X Vh^T the gradient of sequence b is the sum over its tokens of P
* Q. It comes out of one ordinary backward as the gradient of `row_delta` (B, r), the rows of
delta_S given to the sequences of a batch. That is the student/teacher split and every rollout's
hack score for one backward.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projected_grpo.env.errors import InputError
from projected_grpo.model.adapter import (
    TARGET_MODULES,
    Adapter,
    RowShape,
    target_linears,
)
from projected_grpo.model.progress import progress_bar
from projected_grpo.model.rounding import round_by_dither
from projected_grpo.model.svd import Factors, decompose_all, sketch
from projected_grpo.model.tensor_file import write_tensors

PEFT_DELTA_S = "antipasto_delta_S"
"""What PEFT's state dicts call a module's delta_S (r,)."""
PEFT_AXES = "antipasto_axes"
"""And the sketch (r,) of the axes that it is written in."""


class _FactoredLinear(torch.autograd.Function):
    """y = U (scale * (Vh x)) + bias with scale = S + row_delta, which may differ from sequence to
    sequence; the gradient to row_delta is every sequence's own."""

    @staticmethod
    def forward(ctx, x, row_delta, S, bias, U, Vh, measure, kept):
        scale = (S + row_delta)[:, None]  # (B, 1, r) float32 or better
        h = x @ Vh.T
        ctx.save_for_backward(h, scale, U, Vh)
        ctx.measure, ctx.kept = measure, kept
        return F.linear(_times(h, scale), U, bias)

    @staticmethod
    def backward(ctx, *grads):
        (dy,) = grads
        h, scale, U, Vh = ctx.saved_tensors
        P = dy @ U  # (B, T, r)
        dx = _times(P, scale) @ Vh if ctx.needs_input_grad[0] else None
        by_token = _token_gradient(P, h)
        gradient = by_token.sum(1)
        if ctx.measure is not None:
            ctx.measure(by_token, gradient=gradient)
        if ctx.kept is not None:
            gradient = (by_token * ctx.kept[..., None]).sum(1)
        return dx, gradient, None, None, None, None, None, None


def _times(h: Tensor, scale: Tensor) -> Tensor:
    """h * scale rounded once to h's dtype, without the exact product in memory."""
    return torch.mul(h, scale, out=torch.empty_like(h))


def factored_linear(
    x: Tensor,
    row_delta: Tensor,
    S: Tensor,
    bias: Tensor | None,
    U: Tensor,
    Vh: Tensor,
    measure: Callable[..., None] | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """y = U ((S + row_delta) * (Vh x)) + bias, (B, T, d_in) -> (B, T, d_out), every sequence with
    its own row_delta (B, r), whose gradient is that of the sequence.

    measure: called in the backward with what every token adds to that gradient (B, T, r), and with
    `gradient`. kept (B, T): a factor on what every token adds to the gradient that is returned.
    """
    return cast(Tensor, _FactoredLinear.apply(x, row_delta, S, bias, U, Vh, measure, kept))


def delta_weight(U: Tensor, delta: Tensor, Vh: Tensor) -> Tensor:
    """U diag(delta) Vh, (d_out, d_in), float32 or better, even of a delta (r,) that was cast with
    its whole model."""
    exact = torch.promote_types(delta.dtype, torch.float32)
    return (U.to(exact) * delta) @ Vh.to(exact)


def _token_gradient(P: Tensor, Q: Tensor) -> Tensor:
    """P * Q, (B, T, r), in float32 or better: what each token adds to its sequence's gradient."""
    return P.to(torch.promote_types(P.dtype, torch.float32)) * Q


def fingerprint_of(digests: Mapping[str, str]) -> str:
    """sha256 over the digests of modules' axes by name."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


class SVDLinear(nn.Module):
    """A frozen Linear with a delta_S (N, r). `form` is "folded" or "factored" (module docstring):
    what it is without a gradient where nothing is said of the rows."""

    def __init__(
        self, base: nn.Linear, factors: Factors, n_runs: int, form: str, shape: RowShape
    ) -> None:
        super().__init__()
        self.digest = factors.digest()
        self.seed = factors.seed()
        self.form = form
        self.shape = shape
        # Of a factored module only `merge` needs W: no parameter, and not in the GPU's memory.
        weight = base.weight.detach()
        self.weight: Tensor
        if form == "folded":
            self.weight = nn.Parameter(weight, requires_grad=False)
        else:
            self.weight = weight.cpu()
        self.bias = None
        if base.bias is not None:
            self.bias = nn.Parameter(base.bias.detach(), requires_grad=False)
        self.U = nn.Buffer(factors.U, persistent=False)
        self.S = nn.Buffer(factors.S, persistent=False)
        self.Vh = nn.Buffer(factors.Vh, persistent=False)
        self.delta_S = nn.Parameter(factors.S.new_zeros(n_runs, len(factors.S)))
        self.quarantine: nn.Parameter | None = None  # (N, r), of Adapter.add_quarantine
        self.ablated = False
        self.folded: Tensor | None  # (N, d_out, d_in)
        # On a CPU W' is W itself as long as nothing is added; a GPU's graphs read it in one place.
        # On a CPU a pack has one a run: there multiplications take the time, and the two products
        # of the factored form are 1.5 times those of W'. A GPU samples all runs' rows at once.
        on_cpu = weight.device.type == "cpu"
        first = weight if on_cpu else weight.clone()
        every = first.expand(n_runs, -1, -1) if form == "folded" or on_cpu else None
        self.register_buffer("folded", every, False)
        self.folded_from = self.state  # what `folded` was made of
        self.enabled = True
        self.row_delta: Tensor | None = None  # (B, r), set by Adapter.rows
        self.row_scale: Tensor | None = None  # S + row_delta (B, 1, r), kept for many tokens
        self.measure: Callable[..., None] | None = None  # set by Adapter.token_pull
        self.kept: Tensor | None = None  # (B, T), set by Adapter.leave_out
        self.direct = False  # set by Adapter.train_directly

    def extra_repr(self) -> str:
        d_out, d_in = len(self.U), self.Vh.shape[1]
        return f"{d_in}, {d_out}, runs={self.delta_S.shape[0]}, form={self.form}"

    @property
    def total(self) -> Tensor:
        """What the forward pass uses: delta_S, and the quarantine unless it is ablated (N, r)."""
        if self.quarantine is None or self.ablated:
            return self.delta_S.detach()
        return (self.delta_S + self.quarantine).detach()

    @property
    def state(self) -> tuple[int, int | None]:
        """What `total` is made of: the version of delta_S and that of the quarantine, None where no
        quarantine counts."""
        if self.quarantine is None or self.ablated:
            return self.delta_S._version, None
        return self.delta_S._version, self.quarantine._version

    def get_delta_weight(self, run: int) -> Tensor:
        """U diag(delta_S[run]) Vh, (d_out, d_in), in delta_S's dtype (float32 or better); without
        the quarantine."""
        return delta_weight(self.U, self.delta_S[run].detach(), self.Vh)

    def fold(self) -> None:
        """Rebuild W' from `total`. Must follow every change of `state`."""
        if self.folded is None:
            return
        if self.is_base and self.total.any():
            self.folded = self.weight.new_empty(self.folded.shape)
        if not self.is_base:
            for run, delta in enumerate(self.total):
                self.folded[run].copy_(self._folded_weight(delta))
        self.folded_from = self.state

    @property
    def is_base(self) -> bool:
        """Whether W' is W itself, in the same memory."""
        return self.folded is not None and self.folded.data_ptr() == self.weight.data_ptr()

    def _folded_weight(self, delta: Tensor) -> Tensor:
        # Their product is all that is rounded before the sum, and to its own ulp: fast on a GPU in
        # bf16.
        product = (self.U * delta).to(self.U.dtype) @ self.Vh
        exact = self.weight.to(self.delta_S.dtype) + product
        return round_by_dither(exact, self.weight.dtype, self.seed)

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        row_delta = self.row_delta
        if self.direct and row_delta is None:
            row_delta = self.delta_S.expand(len(x) if x.dim() == 3 else 1, -1)
        if not self.enabled:
            if self.form == "folded" and self.U.dtype == self.S.dtype:
                return F.linear(x, self.weight, self.bias)
            # of bf16 the same rounding as with a delta, for the KL between them
            return F.linear((x @ self.Vh.T * self.S).to(x.dtype), self.U, self.bias)
        run = 0 if self.form == "folded" else self.shape.run
        if run is not None and (row_delta is None or not torch.is_grad_enabled()):
            assert self.folded is not None
            if self.folded_from != self.state:
                raise RuntimeError(
                    "delta_S or its quarantine changed and was not folded: call Adapter.fold"
                )
            return F.linear(x, self.folded[run], self.bias)
        if row_delta is None:
            raise RuntimeError("the factored form needs Adapter.rows(...) around every forward")
        rows = self.shape.rows_of(x, len(row_delta))  # (B, T, d_in)
        if not torch.is_grad_enabled():
            scale = self.row_scale
            if scale is None or row_delta is not self.row_delta:
                scale = self.row_scale = (self.S + row_delta)[:, None]
            h = (rows @ self.Vh.T).mul_(scale)  # in place: one kernel, rounded once
            return F.linear(h, self.U, self.bias).reshape(*x.shape[:-1], -1)
        y = factored_linear(
            rows, row_delta, self.S, self.bias, self.U, self.Vh, self.measure, self.kept
        )
        return y.reshape(*x.shape[:-1], -1)


class AntiPaSTO(Adapter):
    """The adapted modules of one model, by name, and what is done to all of them at once."""

    format = "antipasto-1"

    def __init__(self, model: nn.Module, modules: dict[str, SVDLinear]) -> None:
        self.model = model
        self.modules = modules

    @property
    def delta_S(self) -> dict[str, nn.Parameter]:
        """Module name -> trained parameter (N, r)."""
        return {name: module.delta_S for name, module in self.modules.items()}

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """delta_S."""
        return self.delta_S

    @property
    def aside(self) -> list[Tensor]:
        """Of factored modules the dense W, for merging."""
        return [module.weight for module in self.modules.values() if module.form == "factored"]

    def fingerprint(self) -> str:
        """sha256 over the module names and their singular axes: what a direction or adapter
        belongs to."""
        return fingerprint_of({name: module.digest for name, module in self.modules.items()})

    def sketches(self) -> dict[str, Tensor]:
        """See HasFingerprint; `svd.sketch`."""
        return {name: sketch(module.U, module.Vh) for name, module in self.modules.items()}

    @property
    def to_come(self) -> int:
        """See Adapter."""
        return sum(m.weight.nbytes * self.n_runs for m in self.modules.values() if m.is_base)

    @property
    def fingerprinted(self) -> list[Tensor]:
        """See Adapter."""
        parts = [
            (m.weight, m.U, m.S, m.Vh, m.delta_S, m.quarantine, m.folded)
            for m in self.modules.values()
        ]
        return [tensor for some in parts for tensor in some if tensor is not None]

    def fold(self) -> None:
        """Rebuild every folded weight; call after each optimizer step and after loading."""
        with torch.no_grad():
            for module in self.modules.values():
                module.fold()

    @contextmanager
    def rows(self, run_of_row: Tensor, *, at_base: bool = False) -> Iterator[dict[str, Tensor]]:
        """See Adapter. Rows of one run read its folded weights where there are any."""
        if at_base and not torch.is_grad_enabled():  # what is folded is the policy
            with self.disable():
                yield {}
            return
        run = None if torch.is_grad_enabled() else self._folded_run(run_of_row)
        if run is not None:  # nothing is written into the modules: other threads read them
            shape = next(iter(self.modules.values())).shape
            shape.run = run
            try:
                yield {}
            finally:
                shape.run = None
            return
        leaves: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            total = module.total[run_of_row]
            leaves[name] = (torch.zeros_like(total) if at_base else total).requires_grad_()
            module.row_delta, module.row_scale = leaves[name], None
        try:
            yield leaves
        finally:
            for module in self.modules.values():
                module.row_delta = module.row_scale = None

    def _folded_run(self, run_of_row: Tensor) -> int | None:
        """The run of all these rows, if it has folded weights."""
        if any(module.folded is None for module in self.modules.values()):
            return None
        if self.n_runs == 1:
            return 0
        first = run_of_row[:1]
        return int(first) if (run_of_row == first).all() else None

    @property
    def layers(self) -> dict[str, SVDLinear]:
        """See Adapter."""
        return self.modules

    @staticmethod
    def part_along(v: Tensor, *factors: Tensor) -> Tensor:
        """See Adapter. A layer tells P * Q (B, T, r); a module costs one product."""
        (by_token,) = factors
        return by_token @ v

    def train_directly(self) -> None:
        """From now on an ordinary backward outside `rows` reaches delta_S itself: for trainers that
        know nothing of rows or runs. They get the sum over rows, not every row's own gradient.

        Raises InputError where N runs share the model, since no row would say whose it is.
        """
        if self.n_runs != 1:
            raise InputError(
                f"an ordinary backward serves one run, and this adapter has {self.n_runs}: "
                "wrap the model with n_runs=1"
            )
        for module in self.modules.values():
            module.direct = True

    def add_quarantine(self) -> dict[str, nn.Parameter]:
        """Give every module a second vector that is added to delta_S in every forward pass but
        those inside `ablate`: module -> (N, r), zero at the start. It is no part of what is
        deployed: `merge` leaves it out."""
        for module in self.modules.values():
            module.quarantine = nn.Parameter(torch.zeros_like(module.delta_S))
        self.fold()
        return self.quarantine

    @property
    def quarantine(self) -> dict[str, nn.Parameter]:
        """Module name -> second vector (N, r); empty where none was added."""
        found = {name: module.quarantine for name, module in self.modules.items()}
        return {name: value for name, value in found.items() if value is not None}

    @contextmanager
    def ablate(self) -> Iterator[None]:
        """The policy without its quarantine: what is deployed, evaluated, and measured for V."""
        if not self.quarantine:
            yield
            return
        for module in self.modules.values():
            module.ablated = True
        self.fold()
        try:
            yield
        finally:
            for module in self.modules.values():
                module.ablated = False
            self.fold()

    @contextmanager
    def disable(self) -> Iterator[None]:
        """The policy at delta_S = 0: the reference of the KL term."""
        for module in self.modules.values():
            module.enabled = False
        try:
            yield
        finally:
            for module in self.modules.values():
                module.enabled = True

    def save_pretrained(
        self, folder: Path, run: int = 0, *, base_model: str, revision: str | None = None
    ) -> None:
        """Write one run's delta_S as an adapter that PEFT opens (integrations/peft.py), and
        beside it what `load` reads. PEFT itself is not needed for that."""
        folder.mkdir(parents=True, exist_ok=True)
        self.save(folder / "adapter.safetensors", run)
        tensors: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            key = f"base_model.model.{name}"
            tensors[f"{key}.{PEFT_DELTA_S}"] = module.delta_S[run].detach().cpu()
            tensors[f"{key}.{PEFT_AXES}"] = sketch(module.U, module.Vh).cpu()
        write_tensors(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        config = {
            "peft_type": "ANTIPASTO",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "revision": revision,
            "inference_mode": True,
            "target_modules": sorted({name.rpartition(".")[2] for name in self.modules}),
        }
        text = json.dumps(config, indent=2) + "\n"
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")

    def merge(self, run: int = 0, dtype: torch.dtype | None = None) -> nn.Module:
        """See Adapter. Without a dtype the merged model is float32 or better: on a bf16 base's own
        grid most of a small delta would round away.

        It is what the adapter stands for, not bit for bit what a bf16 run sampled from: that had U,
        Vh and its activations rounded.
        """
        for name, delta in self.delta_S.items():
            if not torch.isfinite(delta[run]).all():
                raise ValueError(f"merging {name} gives a weight that is not finite")
        for name, module in self.modules.items():
            delta = module.get_delta_weight(run)
            merged = module.weight.to(delta.device) + delta  # promoted to delta_S's dtype
            if dtype is not None:
                merged = round_by_dither(merged, dtype, module.seed)
            d_out, d_in = merged.shape
            plain = nn.Linear(d_in, d_out, module.bias is not None, device="meta")
            plain.weight = nn.Parameter(merged, requires_grad=False)
            plain.register_parameter("bias", module.bias)
            self.model.set_submodule(name, plain)
        return self.model.to(merged.dtype)


def wrap(
    model: nn.Module,
    *,
    targets: tuple[str, ...] = TARGET_MODULES,
    n_runs: int = 1,
    cache_dir: Path | None = None,
) -> AntiPaSTO:
    """Replace every target Linear of `model` by an SVDLinear and freeze all else.

    `targets` are the last parts of module names. Raises InputError where none is found.
    """
    model.requires_grad_(False)
    found = target_linears(model, targets)
    form = "folded" if n_runs == 1 else "factored"
    modules: dict[str, SVDLinear] = {}
    shape = RowShape()

    def linear(name: str) -> nn.Linear:  # by name: what is replaced frees its memory at once
        return cast(nn.Linear, model.get_submodule(name))

    every = decompose_all((linear(name).weight for name in found), cache_dir)
    with progress_bar("singular axes", len(found), "module") as bar:
        for name, factors in zip(found, every, strict=True):
            modules[name] = SVDLinear(linear(name), factors, n_runs, form, shape)
            model.set_submodule(name, modules[name])
            bar.update()
    return AntiPaSTO(model, modules)
