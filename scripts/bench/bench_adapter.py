"""Forward and backward of the adapter's forms, of the method as first written, and of LoRA.

    uv run python scripts/bench/bench_adapter.py --shape smollm2 --layers 6
    python3 scripts/bench/bench_adapter.py --shape qwen3-4b --layers 8 --dtype bfloat16 \
        --device cuda

The trunk of a random model with a real model's dimensions, without its head, in interleaved rounds.
The floor is the frozen model with a gradient to its inputs. `per row` ways yield the gradient of
every sequence from one backward; the others one sum, or two sums (student, teacher) from two.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, cast

import benchmark
import torch
from benchmark import Result, in_words, interleaved, random_model, shaped
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from projected_grpo.antipasto import TARGET_MODULES, AntiPaSTO, SVDLinear
from projected_grpo.model.adapter import RowShape
from projected_grpo.model.load import DTYPES
from projected_grpo.model.svd import Factors, decompose

FLOOR = "frozen floor (to inputs)"


@dataclass(frozen=True, kw_only=True)
class Arguments(benchmark.Arguments):
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


def measure(args: Arguments) -> Result:
    """Every way on a model of its own."""
    device, dtype = args.place, DTYPES[args.dtype]
    config = shaped(args.shape, args.layers)
    x = torch.randn(args.rows, args.tokens, config.hidden_size, device=device, dtype=dtype)
    weight = torch.randn_like(x)
    half = args.rows // 2

    def fresh() -> PreTrainedModel:
        return random_model(config, dtype, device)

    def weighted(trunk: nn.Module, inputs: Tensor = x) -> Tensor:
        return trunk(inputs_embeds=inputs, use_cache=False).last_hidden_state * weight

    def floor() -> Callable[[], object]:
        trunk = fresh().get_decoder()

        def run() -> object:
            inputs = x.detach().requires_grad_()
            return torch.autograd.grad(weighted(trunk, inputs).float().sum(), [inputs])

        return run

    def factored(*, pull: bool = False) -> Callable[[], object]:
        model = fresh()
        shape = RowShape()
        modules = replaced(model, lambda m: SVDLinear(m, decompose(m.weight), 1, "factored", shape))
        named = {str(n): m for n, m in enumerate(modules) if isinstance(m, SVDLinear)}
        adapter = AntiPaSTO(model, named)
        runs = torch.zeros(args.rows, dtype=torch.long, device=device)

        along = {name: torch.ones_like(value).T for name, value in adapter.delta_S.items()}

        def run() -> object:
            measured = adapter.token_pull(along) if pull else nullcontext()
            with adapter.rows(runs) as leaves, measured:
                loss = weighted(model.get_decoder()).float().sum()
                return torch.autograd.grad(loss, list(leaves.values()))

        return run

    def by_row(kind: type[BesideRowLinear]) -> Callable[[], object]:
        model = fresh()
        modules = replaced(model, lambda m: kind(m, decompose(m.weight)))

        def run() -> object:
            leaves = [m.begin(args.rows) for m in modules if isinstance(m, BesideRowLinear)]
            return torch.autograd.grad(weighted(model.get_decoder()).float().sum(), leaves)

        return run

    def sums(model: PreTrainedModel, backwards: int) -> Callable[[], object]:
        trained = [p for p in model.parameters() if p.requires_grad]
        trunk = model.get_decoder()

        def run() -> object:
            hidden = weighted(trunk)
            if backwards == 1:
                return torch.autograd.grad(hidden.float().sum(), trained)
            student, teacher = hidden[:half].float().sum(), hidden[half:].float().sum()
            one = torch.autograd.grad(student, trained, retain_graph=True)
            return one, torch.autograd.grad(teacher, trained)

        return run

    def hook(backwards: int) -> Callable[[], object]:
        model = fresh()
        replaced(model, lambda m: BesideLinear(m, decompose(m.weight)))
        return sums(model, backwards)

    def lora(backwards: int) -> Callable[[], object]:
        settings = LoraConfig(r=32, lora_alpha=32, target_modules=list(TARGET_MODULES))
        return sums(cast(Any, get_peft_model(fresh(), settings)).base_model.model, backwards)

    ways = {
        FLOOR: floor(),
        "folded, per row": by_row(FoldedRowLinear),
        "factored, per row": factored(),
        "factored, per row, every token's pull": factored(pull=True),
        "delta beside W, per row": by_row(BesideRowLinear),
        "hook, one backward": hook(1),
        "hook, two backwards": hook(2),
        "PEFT LoRA r=32, one backward": lora(1),
        "PEFT LoRA r=32, two backwards": lora(2),
    }
    seconds = interleaved(ways, args.rounds, device)
    rows = [
        {"way": way, "ms": f"{median(s) * 1e3:.0f}", "x floor": in_words(s, seconds[FLOOR])}
        for way, s in seconds.items()
    ]
    size = f"{config.num_hidden_layers} layers, {args.dtype}, {args.rows} x {args.tokens} tokens"
    return Result(f"{args.shape}, {size}, {args.rounds} rounds", rows, {"seconds": seconds})


if __name__ == "__main__":
    benchmark.main(measure, Arguments, __doc__)
