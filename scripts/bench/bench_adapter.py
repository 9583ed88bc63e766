"""Forward and backward of the adapter's forms, of the method as first written, and of LoRA.

    uv run python scripts/bench/bench_adapter.py --shape smollm2 --layers 6
    python3 scripts/bench/bench_adapter.py --shape qwen3-4b --layers 8 --dtype bfloat16 \
        --device cuda

The trunk of a random model with a real model's dimensions, without its head, in interleaved rounds.
The floor is the frozen model with a gradient to its inputs. `per row` ways yield the gradient of
every sequence from one backward; the others one sum, or two sums (student, teacher) from two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from benchmark import Measured, interleaved, machine, random_model, ratios, report, shaped
from peft import LoraConfig, get_peft_model
from tabulate import tabulate
from torch import Tensor, nn
from transformers import PreTrainedModel

from projected_grpo.antipasto import TARGET_MODULES, AntiPaSTO, SVDLinear
from projected_grpo.model.svd import Factors, cached_decompose


@dataclass(frozen=True, kw_only=True)
class Arguments(Measured):
    """What is measured."""

    shape: Literal["organism", "smollm2", "qwen3-4b"] = "smollm2"
    layers: int = 6
    rows: int = 8
    tokens: int = 128
    rounds: int = 5


class BesideLinear(nn.Module):
    """y = x W^T + ((x Vh^T) * delta) U^T by plain autograd: what a forward hook computes."""

    def __init__(self, base: nn.Linear, factors: Factors) -> None:
        super().__init__()
        self.base, self.U, self.Vh = base, factors.U, factors.Vh
        self.delta = nn.Parameter(torch.zeros_like(factors.S))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_in) -> (B, T, d_out)."""
        h = (x @ self.Vh.T) * self.delta.to(x.dtype)
        return self.base(x) + h @ self.U.T


class BesideRowLinear(BesideLinear):
    """The same with one delta a row, so that one backward gives every row's gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_in) -> (B, T, d_out)."""
        h = (x @ self.Vh.T) * self.rows[:, None].to(x.dtype)
        return self.base(x) + h @ self.U.T

    def begin(self, n: int) -> Tensor:
        """A leaf (n, r)."""
        self.rows = self.delta.detach().expand(n, -1).clone().requires_grad_()
        return self.rows


class _Folded(torch.autograd.Function):
    """y = x W'^T with the gradient of every sequence's own delta row."""

    @staticmethod
    def forward(ctx, x, rows, weight, U, Vh):
        """(B, T, d_in) -> (B, T, d_out)."""
        ctx.save_for_backward(x, weight, U, Vh)
        return nn.functional.linear(x, weight)

    @staticmethod
    def backward(ctx, *grads):
        """To x and to the rows."""
        x, weight, U, Vh = ctx.saved_tensors
        own = ((grads[0] @ U).float() * (x @ Vh.T).float()).sum(1)
        return grads[0] @ weight, own, None, None, None


class FoldedRowLinear(BesideRowLinear):
    """A dense W' forward and backward; needs no factor but in the gradient of the rows."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_in) -> (B, T, d_out)."""
        return _Folded.apply(x, self.rows, self.base.weight, self.U, self.Vh)


def replaced(model: PreTrainedModel, make: Callable[[nn.Linear], nn.Module]) -> list[nn.Module]:
    """Put make(linear) in the place of every target Linear."""
    names = [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in TARGET_MODULES and isinstance(module, nn.Linear)
    ]
    out = []
    for name in names:
        module = make(model.get_submodule(name))  # pyright: ignore[reportArgumentType]
        model.set_submodule(name, module)
        out.append(module)
    return out


def main(args: Arguments) -> None:
    """Print the table."""
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    config = shaped(args.shape, args.layers)
    x = torch.randn(args.rows, args.tokens, config.hidden_size, device=device, dtype=dtype)
    weight = torch.randn_like(x)
    half = args.rows // 2

    def fresh() -> PreTrainedModel:
        return random_model(config, dtype, device)

    def loss(model: nn.Module, inputs: Tensor = x, part: slice = slice(None)) -> Tensor:
        hidden = model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        return (hidden * weight)[part].float().sum()

    def floor() -> Callable[[], object]:
        trunk = fresh().get_decoder()

        def run() -> object:
            inputs = x.detach().requires_grad_()
            return torch.autograd.grad(loss(trunk, inputs), [inputs])

        return run

    def factored() -> Callable[[], object]:
        model = fresh()
        modules = replaced(model, lambda linear: SVDLinear(linear, 1, "factored", None))
        named = {str(n): m for n, m in enumerate(modules) if isinstance(m, SVDLinear)}
        adapter = AntiPaSTO(model, named)
        runs = torch.zeros(args.rows, dtype=torch.long, device=device)

        def run() -> object:
            with adapter.rows(runs) as leaves:
                return torch.autograd.grad(loss(model.get_decoder()), list(leaves.values()))

        return run

    def by_row(kind: type[BesideRowLinear]) -> Callable[[], object]:
        model = fresh()
        modules = replaced(model, lambda m: kind(m, cached_decompose(m.weight, None)))

        def run() -> object:
            leaves = [m.begin(args.rows) for m in modules if isinstance(m, BesideRowLinear)]
            return torch.autograd.grad(loss(model.get_decoder()), leaves)

        return run

    def sums(model: PreTrainedModel, backwards: int) -> Callable[[], object]:
        trained = [p for p in model.parameters() if p.requires_grad]
        trunk = model.get_decoder()

        def run() -> object:
            hidden = trunk(inputs_embeds=x, use_cache=False).last_hidden_state * weight
            if backwards == 1:
                return torch.autograd.grad(hidden.float().sum(), trained)
            student, teacher = hidden[:half].float().sum(), hidden[half:].float().sum()
            one = torch.autograd.grad(student, trained, retain_graph=True)
            return one, torch.autograd.grad(teacher, trained)

        return run

    def hook(backwards: int) -> Callable[[], object]:
        model = fresh()
        replaced(model, lambda m: BesideLinear(m, cached_decompose(m.weight, None)))
        return sums(model, backwards)

    def lora(backwards: int) -> Callable[[], object]:
        settings = LoraConfig(r=32, lora_alpha=32, target_modules=list(TARGET_MODULES))
        return sums(get_peft_model(fresh(), settings).base_model.model, backwards)

    ways = {
        "frozen floor (to inputs)": floor(),
        "folded, per row": by_row(FoldedRowLinear),
        "factored, per row": factored(),
        "delta beside W, per row": by_row(BesideRowLinear),
        "hook, one backward": hook(1),
        "hook, two backwards": hook(2),
        "PEFT LoRA r=32, one backward": lora(1),
        "PEFT LoRA r=32, two backwards": lora(2),
    }
    seconds = interleaved(ways, args.rounds, device)
    found = ratios(seconds, "frozen floor (to inputs)")
    body = [
        [name, f"{sorted(seconds[name])[len(seconds[name]) // 2] * 1e3:.0f}", f"{mid:.2f}",
         f"{low:.2f}-{high:.2f}"]
        for name, (mid, low, high) in found.items()
    ]  # fmt: skip
    print(
        f"{args.shape}, {config.num_hidden_layers} layers, {args.dtype}, {args.rows} x "
        f"{args.tokens} tokens, {args.rounds} rounds; {machine(device)}\n"
    )
    print(tabulate(body, ["way", "ms", "x floor", "range"], "pipe", disable_numparse=True))
    report(args, device, seconds=seconds)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
