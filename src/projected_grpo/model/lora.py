"""PEFT's LoRA as an adapter of the trainer: W' = W + (alpha / rank) B A.

A leaf is a matrix as one vector for each of N runs: `<module>.lora_A` (N, rank * d_in) and
`<module>.lora_B` (N, d_out * rank), each the difference to where it started. So it is zero at the
start, and weight decay and `trust` pull back to there. PEFT makes the layers, starts A and B,
computes the forward pass and writes the adapter; here is only how one batch gives every sequence
its own gradient: inside `rows` the two matrices are repeated for each sequence. Without a gradient
one run reads what `fold` wrote; of several runs every sequence reads its own from a table of all.

B starts at zero, so A has no gradient at the start: V from the base model lies on the B's alone
(`extract`). A starts with the same random numbers in every run, because B's coordinates, and so V,
mean what A makes of them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from projected_grpo.model.adapter import Adapter, RowShape, target_linears
from projected_grpo.model.rounding import round_by_dither
from projected_grpo.model.svd import digest_of, sampled_rows

PEFT_ADAPTER = "default"
SEED = 0
"""Seed of the numbers that A starts with."""


class _RowsProduct(torch.autograd.Function):
    """y = x W^T, every sequence with its own W (B, d_out, d_in), and a look at single tokens in the
    backward: token t adds dy_t x_t^T to the gradient."""

    @staticmethod
    def forward(ctx, x, W, measure, kept):
        ctx.save_for_backward(x, W)
        ctx.measure, ctx.kept = measure, kept
        return x @ W.mT

    @staticmethod
    def backward(ctx, *grads):
        (dy,) = grads
        x, W = ctx.saved_tensors
        gradient = dy.mT @ x
        if ctx.measure is not None:
            ctx.measure(dy, x, gradient=gradient)
        if ctx.kept is not None:
            gradient = (dy * ctx.kept[..., None].to(dy)).mT @ x
        return dy @ W, gradient, None, None


def _linear_by_run(x: Tensor, W: Tensor, run: Tensor) -> Tensor:
    """y = x W[run]^T, every sequence with the W of its run, and no W copied for a sequence: x (B,
    T, d_in), W (N, d_out, d_in), run (B,)."""
    n, d_out, d_in = W.shape
    if d_out <= d_in:  # few outputs: those of every run, of which a sequence keeps its own
        every = F.linear(x, W.flatten(0, 1)).unflatten(-1, (n, d_out))
        return every[torch.arange(len(x), device=x.device), :, run]
    place = F.one_hot(run, n).to(x.dtype)[:, None, :, None]  # (B, 1, N, 1)
    return F.linear((x[:, :, None] * place).flatten(2), W.transpose(0, 1).flatten(1))


class _RowsLinear(nn.Module):
    """One of LoRA's two matrices: x W^T, or inside `rows` every sequence with its own W."""

    def __init__(self, plain: nn.Linear, shape: RowShape) -> None:
        super().__init__()
        self.shape = shape
        start = plain.weight.detach().clone()
        self.start = nn.Buffer(start, persistent=False)
        self.weight = nn.Buffer(start.clone())  # what PEFT reads and writes
        self.by_run = start[None]  # (N, d_out, d_in), as `fold` left it
        self.row_delta: Tensor | None = None  # (B, r)
        self.measure: Callable[..., None] | None = None  # of dy, x and the gradient
        self.kept: Tensor | None = None  # (B, T)

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        run_of_row = self.shape.run_of_row  # of several runs
        if not torch.is_grad_enabled() and run_of_row is not None:
            rows = self.shape.rows_of(x, len(run_of_row))
            return _linear_by_run(rows, self.by_run, run_of_row).reshape(*x.shape[:-1], -1)
        if self.row_delta is None or not torch.is_grad_enabled():
            return F.linear(x, self.weight)
        W = self.start + self.row_delta.view(-1, *self.start.shape)  # (B, d_out, d_in)
        rows = self.shape.rows_of(x, len(W))
        y = cast(Tensor, _RowsProduct.apply(rows, W, self.measure, self.kept))
        return y.reshape(*x.shape[:-1], -1)


class LoRA(Adapter):
    """A LoRA on every target Linear of one model, for N runs that share its base."""

    format = "lora-1"

    def __init__(self, model: nn.Module, rank: int, alpha: int, n_runs: int = 1) -> None:
        """Raises InputError where there is no target."""
        model.requires_grad_(False)
        names = target_linears(model)
        last_parts = sorted({name.rpartition(".")[2] for name in names})
        config = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=last_parts, task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(SEED)  # not a GPU's too: that is not put back
            self.peft = get_peft_model(model, config)
        self.model = model
        self.matrices: dict[str, _RowsLinear] = {}
        self._fingerprinted: list[Tensor] = []
        self._seeds: dict[str, int] = {}  # module -> of the rounding of a bf16 weight
        self.shape = shape = RowShape()
        digests = {}
        for name in names:
            layer = model.get_submodule(name)
            assert isinstance(layer, LoraLayer)
            for key, matrices in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
                plain = cast(nn.Linear, matrices[PEFT_ADAPTER])
                made = matrices[PEFT_ADAPTER] = _RowsLinear(plain, shape)
                self.matrices[f"{name}.{key}"] = made
                digests[f"{name}.{key}"] = digest_of(made.start)
                self._fingerprinted += [made.start, made.weight]
            digests[name] = digest_of(sampled_rows(layer.weight))
            self._seeds[name] = int(digests[name][:7], 16)
            self._fingerprinted.append(layer.weight)
        described = json.dumps({"alpha": alpha, **digests}, sort_keys=True)
        self._fingerprint = hashlib.sha256(described.encode()).hexdigest()
        self._trained = {
            name: nn.Parameter(torch.zeros_like(m.start).view(1, -1).repeat(n_runs, 1))
            for name, m in self.matrices.items()
        }
        self.fold()

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """See Adapter; both matrices of a module are leaves of their own."""
        return self._trained

    def fingerprint(self) -> str:
        """A digest of the base's weights (some rows of each), rank, alpha and the start of A."""
        return self._fingerprint

    @property
    def fingerprinted(self) -> list[Tensor]:
        """See Adapter; of the base's weights the fingerprint has read some rows."""
        return self._fingerprinted

    @property
    def to_come(self) -> int:
        """See Adapter."""
        if self.n_runs == 1:
            return 0
        return sum(delta.nbytes for delta in self._trained.values())

    @torch.no_grad()
    def fold(self, run: int = 0) -> None:
        """Write A and B of one run to where PEFT reads them, and of several runs to their table."""
        for name, matrix in self.matrices.items():
            deltas = self._trained[name].view(-1, *matrix.start.shape)
            matrix.weight.copy_(matrix.start + deltas[run])
            if self.n_runs > 1:
                matrix.by_run = matrix.start + deltas

    @contextmanager
    def rows(self, run_of_row: Tensor, *, at_base: bool = False) -> Iterator[dict[str, Tensor]]:
        """See Adapter. Without a gradient the rows read A and B as they are folded, and there are
        no leaves."""
        if at_base and not torch.is_grad_enabled():  # what is folded is the policy
            with self.disable():
                yield {}
            return
        leaves: dict[str, Tensor] = {}
        if not torch.is_grad_enabled():
            self.shape.run_of_row = run_of_row if self.n_runs > 1 else None
        else:
            for name, matrix in self.matrices.items():
                delta = self._trained[name].detach()[run_of_row]
                leaves[name] = (torch.zeros_like(delta) if at_base else delta).requires_grad_()
                matrix.row_delta = leaves[name]
        try:
            yield leaves
        finally:
            self.shape.run_of_row = None
            for name in leaves:
                self.matrices[name].row_delta = None

    @property
    def layers(self) -> dict[str, _RowsLinear]:
        """See Adapter."""
        return self.matrices

    @staticmethod
    def part_along(v: Tensor, *factors: Tensor) -> Tensor:
        """See Adapter. A layer tells dy and x; v is a matrix here, the part dy_t^T v x_t."""
        dy, x = factors
        v = v.reshape(*v.shape[:-2], dy.shape[-1], x.shape[-1], v.shape[-1])
        by_row = "b" if v.dim() == 4 else ""
        return torch.einsum(f"bto,{by_row}oid,bti->btd", dy, v, x)

    def disable(self) -> AbstractContextManager[None]:
        """See Adapter."""
        return self.peft.disable_adapter()

    def save_pretrained(
        self, folder: Path, run: int = 0, *, base_model: str, revision: str | None = None
    ) -> None:
        """See Adapter: an ordinary LoRA of PEFT, which opens without this package."""
        self.fold(run)
        config = self.peft.peft_config[PEFT_ADAPTER]
        config.base_model_name_or_path, config.revision = base_model, revision
        self.peft.save_pretrained(str(folder), save_embedding_layers=False)
        self.save(folder / "adapter.safetensors", run)

    def merge(self, run: int = 0, dtype: torch.dtype | None = None) -> nn.Module:
        """See Adapter."""
        for name, value in self._trained.items():
            if not torch.isfinite(value[run]).all():
                raise ValueError(f"merging {name} gives a weight that is not finite")
        self.fold(run)
        # PEFT adds in the base's own dtype, which would lose most of a small product.
        exact = torch.promote_types(next(self.model.parameters()).dtype, torch.float32)
        self.model.to(exact)
        plain = cast(nn.Module, self.peft.merge_and_unload())
        for name, seed in self._seeds.items() if dtype is not None else ():
            linear = cast(nn.Linear, plain.get_submodule(name))
            linear.weight.data = round_by_dither(linear.weight.data, dtype or exact, seed)
        return plain.to(dtype or exact)
