"""What the trainer asks of an adapter: named vectors that train, and every sequence's gradient to
them.

antipasto.py has the method's own, lora.py PEFT's LoRA; adapters.py picks one by its setting. A leaf
is one vector of length r for each of N runs, (N, r), zero where the policy is the base model; V,
projection, AdamW, checkpoints and logs know no more than that.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from loguru import logger
from safetensors import safe_open
from torch import Tensor, nn

from projected_grpo.env.errors import InputError
from projected_grpo.model.tensor_file import write_tensors

TARGET_MODULES = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    # GatedDeltaNet layers of the Qwen3.5 family
    *(
        "in_proj_qkv",
        "in_proj_qkvz",
        "in_proj_ba",
        "in_proj_z",
        "in_proj_b",
        "in_proj_a",
        "out_proj",
    ),
)


class HasFingerprint(Protocol):
    """Something whose coordinates a direction may belong to."""

    def fingerprint(self) -> str:
        """A digest that names the coordinates."""
        ...

    def sketches(self) -> Mapping[str, Tensor]:
        """Module -> one number a coordinate (r,), equal to rounding where the coordinates are the
        same; none where there is no such sketch."""
        ...


class TokenPull:
    """How far each token of a batch pulls its row's gradient along some directions.

    A row's gradient in a module is a sum over its tokens, g = sum_t g_t. The pull of token t along
    v is v g_t / |g|, added up over the modules that have a v. With the v of `proj.mean_axes` the
    pulls of a row's tokens add up to `proj.cosine` of the row.
    """

    def __init__(self, directions: Mapping[str, Tensor]) -> None:
        """directions: module -> v (r, D) for D directions at once, or (B, r, D), every row its
        own."""
        self.directions = directions
        self._total: Tensor | None = None

    def add(self, along: Tensor, gradient: Tensor) -> None:
        """Add one module: v g_t of every token (B, T, D), and its gradient (B, ...)."""
        length = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
        pull = along / length[:, None, None]
        self._total = pull if self._total is None else self._total.add_(pull)

    @property
    def tokens(self) -> Tensor:
        """The pulls (B, T, D), after a backward; position t is where the model reads token t, and
        so where it says token t + 1. Raises ValueError before a backward."""
        if self._total is None:
            raise ValueError("no backward has gone through a module that has a direction")
        return self._total


class TokenLayer(Protocol):
    """A layer that an adapter looks into, or at parts of, in the backward."""

    measure: Callable[..., None] | None
    """Called with what the tokens' gradients are made of, and `gradient`, their sum (B, ...)."""
    kept: Tensor | None
    """(B, T): a factor on what every token adds to the gradient."""


class SeesTokens(ABC):
    """Looks at single tokens in the backward of a batch whose rows have vectors of their own."""

    @property
    @abstractmethod
    def layers(self) -> Mapping[str, TokenLayer]:
        """Name -> the layer that computes the gradient of that vector."""

    @staticmethod
    @abstractmethod
    def part_along(v: Tensor, *factors: Tensor) -> Tensor:
        """v g_t of every token (B, T, D): v (r, D) or (B, r, D), and what a layer tells of its
        tokens' gradients."""

    @contextmanager
    def token_pull(self, directions: Mapping[str, Tensor]) -> Iterator[TokenPull]:
        """Measure the tokens of the batches whose backward runs inside `rows` and this."""
        pull = TokenPull(directions)

        def measure(name: str, *factors: Tensor, gradient: Tensor) -> None:
            pull.add(self.part_along(directions[name].to(factors[0]), *factors), gradient)

        for name in directions:
            self.layers[name].measure = partial(measure, name)
        try:
            yield pull
        finally:
            for name in directions:
                self.layers[name].measure = None

    @contextmanager
    def leave_out(self, tokens: Tensor) -> Iterator[None]:
        """Leave what single tokens add out of the gradients of a backward inside `rows` and this.

        tokens (B, T) is true where the model reads a token that is to be left out.
        """
        kept = (~tokens).to(torch.float32)
        for layer in self.layers.values():
            layer.kept = kept
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.kept = None


class Adapter(SeesTokens):
    """The trained vectors of one model, by name, and what is done to all of them at once."""

    format: ClassVar[str]
    """Format name in the files that `save` writes."""
    model: nn.Module

    @property
    @abstractmethod
    def trained(self) -> dict[str, nn.Parameter]:
        """Name -> trained parameter (N, r), float32 or better."""

    @property
    def n_runs(self) -> int:
        """The number of runs, N."""
        return next(iter(self.trained.values())).shape[0]

    @property
    def aside(self) -> Sequence[Tensor]:
        """Frozen weights of the base that are no parameters of the model as it is now."""
        return ()

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 over names and coordinates: what a direction or adapter belongs to."""

    def sketches(self) -> Mapping[str, Tensor]:
        """See HasFingerprint."""
        return {}

    @property
    def to_come(self) -> int:
        """Bytes that the first fold will take."""
        return 0

    @property
    @abstractmethod
    def fingerprinted(self) -> Sequence[Tensor]:
        """The model's tensors that the fingerprint speaks for, and what is made of them; all else
        of the base model it does not know."""

    @abstractmethod
    def fold(self) -> None:
        """Bring what sampling reads up to date; call after each optimizer step and after
        loading."""

    @abstractmethod
    def rows(
        self, run_of_row: Tensor, *, at_base: bool = False
    ) -> AbstractContextManager[dict[str, Tensor]]:
        """Give row b of the batches inside the run `run_of_row[b]`, or the base model's policy;
        yields the leaves of the gradient.

        run_of_row (B,) holds run indices. After a backward inside, `rows[name].grad` (B, r) is each
        sequence's own gradient with respect to its run's vector. Without a gradient there may be no
        leaves, and several threads may be inside, each with rows of one run. But `at_base` without
        a gradient disables the adapter, for all threads.
        """

    @abstractmethod
    def disable(self) -> AbstractContextManager[None]:
        """The base model: the reference of the KL term."""

    @property
    def quarantine(self) -> dict[str, nn.Parameter]:
        """Name -> second vector (N, r) of arm routed; empty where none was added."""
        return {}

    def add_quarantine(self) -> dict[str, nn.Parameter]:
        """See AntiPaSTO. Raises InputError where a second vector cannot be added to the first."""
        raise InputError(f"a {type(self).__name__} has no quarantine")

    @contextmanager
    def ablate(self) -> Iterator[None]:
        """The policy without its quarantine: what is deployed, evaluated, and measured for V."""
        yield

    @abstractmethod
    def save_pretrained(
        self, folder: Path, run: int = 0, *, base_model: str, revision: str | None = None
    ) -> None:
        """Write one run's vectors as an adapter that PEFT opens, and beside it what `load` reads
        (adapter.safetensors)."""

    @abstractmethod
    def merge(self, run: int = 0, dtype: torch.dtype | None = None) -> nn.Module:
        """Put plain Linears with what one run has trained back into the model, which is returned in
        that dtype, or in the smallest that loses nothing; the adapter is spent.

        In bf16 what was trained is rounded up or down by a fixed draw of each weight. Raises
        ValueError where a trained vector is not finite, with the model as it was.
        """

    def save(self, path: Path, run: int = 0, *, quarantine: bool = False) -> None:
        """Write one run's vectors (1, r), or its quarantine, with the fingerprint of its
        coordinates (safetensors)."""
        values = self.quarantine if quarantine else self.trained
        tensors = {name: value.detach()[run : run + 1].cpu() for name, value in values.items()}
        write_tensors(tensors, path, {"format": self.format, "fingerprint": self.fingerprint()})

    def load(self, path: Path, run: int | None = None, *, quarantine: bool = False) -> None:
        """Read what `save` wrote into every run, or into one. Raises InputError if it was trained
        in other coordinates."""
        with safe_open(path, "pt") as f:
            metadata = f.metadata() or {}
            if metadata.get("fingerprint") != self.fingerprint():
                raise InputError(
                    f"{path} was trained on another model, or on a decomposition made elsewhere "
                    "(another SVD cache, device or thread count): its axes are "
                    f"{metadata.get('fingerprint', 'unknown')[:12]}, "
                    f"this model's {self.fingerprint()[:12]}"
                )
            with torch.no_grad():
                for name, value in (self.quarantine if quarantine else self.trained).items():
                    (value if run is None else value[run : run + 1]).copy_(f.get_tensor(name))
        self.fold()


class RowShape(threading.local):
    """What the layers of one model need to know of the rows of a batch. Each thread has a batch of
    its own: without a gradient several may be inside `Adapter.rows`."""

    tokens = 0
    """Of a row: a layer that got all rows' tokens as one list (B * T, d), as experts do, no longer
    knows."""
    run_of_row: Tensor | None = None
    """(B,), without a gradient."""
    run: int | None = None
    """The run that all rows belong to, without a gradient."""

    def rows_of(self, x: Tensor, rows: int) -> Tensor:
        """(B, T, d) or (B * T, d) -> (B, T, d). Raises InputError where x is some of the tokens
        only: nothing says whose they are."""
        if x.dim() == 3:
            self.tokens = x.shape[1]
            return x
        if rows > 1 and len(x) != rows * self.tokens:
            raise InputError(
                f"a layer with a vector of its own gets {len(x)} of {rows * self.tokens} tokens, "
                "as an expert does that the model routes some to: they have no row, so no row's "
                "gradient is known"
            )
        return x.reshape(rows, -1, x.shape[-1])


def require_untied(model: nn.Module, names: Sequence[str]) -> None:
    """Raises InputError where the weight of one of these modules is another module's as well, as a
    head's that is tied to the embeddings: merging would change both."""
    owners: dict[nn.Parameter, list[str]] = {}
    for key, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter, []).append(key)
    for name in names:
        key = f"{name}.weight"
        others = [other for other in owners[model.get_parameter(key)] if other != key]
        if others:
            raise InputError(
                f"{name} shares its weight with {others[0]}: leave it out of the target modules, "
                "or untie the two first"
            )


def target_linears(model: nn.Module, targets: tuple[str, ...] = TARGET_MODULES) -> list[str]:
    """Names of the Linears to adapt: those whose last part is one of `targets`.

    Raises InputError where there is none, or one whose weight is tied to another module's. Warns of
    the share of the layers' weights that is not among them: a fused qkv, experts in one tensor.
    """
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = [name for name in linears if name.rpartition(".")[2] in targets]
    if not found:
        raise InputError(
            f"no Linear of this {type(model).__name__} is named one of {', '.join(targets)}"
        )
    require_untied(model, found)
    inside = {n: p.numel() for n, p in model.named_parameters() if ".layers." in n and p.dim() > 1}
    left = {n: size for n, size in inside.items() if n.removesuffix(".weight") not in found}
    if left:
        logger.warning(
            "{:.1%} of the weights inside the layers get no vector and are not trained: {} "
            "tensors, {} the largest",
            sum(left.values()) / sum(inside.values()),
            len(left),
            max(left, key=left.__getitem__),
        )
    return found
