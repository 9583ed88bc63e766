"""Hack directions from contrast pairs.

For a pair with advantages +1 (hack) and -1 (clean) the GRPO gradient is grad NLL(hack) - grad
NLL(clean): a loss gradient, so descending along it makes the hack likelier. Per module these
differences are stacked, D (n pairs, r), and the top right-singular vectors are kept with their
singular values; each gets the sign that the majority of pairs votes for. The file holds every
axis; how many are used (`k`, noise floor) is chosen when it is loaded.

As in the live loss, tokens are summed, log-probs are taken at the sampling temperature, prompts go
through the model's chat template, and prompt and completion are tokenised apart.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from projected_grpo.config import stream_seed
from projected_grpo.env.errors import InputError
from projected_grpo.model.adapter import Adapter, HasFingerprint
from projected_grpo.model.load import LanguageModel
from projected_grpo.model.loss import PromptCompletion
from projected_grpo.model.nll_gradients import cached_nll_gradients, nll_gradients
from projected_grpo.model.svd import axes_agree
from projected_grpo.model.tensor_file import cache_folder, write_tensors
from projected_grpo.pairs.load import pairs_digest
from projected_grpo.pairs.pair import Pair
from projected_grpo.proj import squared_norm

FORMAT = "v_hack-1"

Sides = dict[str, Tensor]
"""module -> grad NLL of every pair's sides, (n pairs, 2, r): hack, clean."""
Contrast = Callable[[Sides], dict[str, Tensor]]
"""sides -> the differences that axes are taken of: module -> D (n, r)."""


@dataclass(frozen=True, slots=True)
class VHack:
    """Oriented hack directions of one model, all axes, strongest first."""

    axes: dict[str, Tensor]
    """module -> orthonormal rows (n, r)."""
    singular: dict[str, Tensor]
    """module -> singular values (n,), falling."""
    metadata: dict[str, str] = field(default_factory=dict)
    sketches: dict[str, Tensor] = field(default_factory=dict)
    """module -> a sketch (r,) of the coordinates (`svd.sketch`); none in files of earlier versions.
    By it directions fit the same weights decomposed elsewhere, though their last bits differ."""

    def select(self, k: int, drop_bottom_frac: float) -> dict[str, Tensor]:
        """The basis a run uses: module -> V (up to k, r).

        Noise floor: the kept singular values of all modules are pooled and those under their
        `drop_bottom_frac` quantile are dropped; a module left without axes is not in the result.
        """
        if not self.singular:
            return {}
        pooled = torch.cat([s[:k] for s in self.singular.values()]).double()
        floor = torch.quantile(pooled, drop_bottom_frac)
        basis: dict[str, Tensor] = {}
        for name, s in self.singular.items():
            strong = s[:k].double() >= floor
            if strong.any():
                basis[name] = self.axes[name][:k][strong]
        return basis

    def top(self, k: int) -> "VHack":
        """The first k axes of every module: all that `select(k, ...)` looks at."""
        axes = {name: rows[:k] for name, rows in self.axes.items()}
        singular = {name: s[:k] for name, s in self.singular.items()}
        return VHack(axes, singular, self.metadata, self.sketches)

    def equals(self, other: "VHack") -> bool:
        """Whether all that a file of these would hold is the same in one of the others. Not by the
        files' bytes: safetensors writes its header in another order each time."""
        parts = (
            (self.axes, other.axes),
            (self.singular, other.singular),
            (self.sketches, other.sketches),
        )
        return self.metadata == other.metadata and all(
            mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)
            for mine, theirs in parts
        )

    def save(self, path: Path) -> None:
        """Write axes, singular values and metadata (safetensors)."""
        tensors = {f"{name}.axes": rows.cpu().contiguous() for name, rows in self.axes.items()}
        tensors |= {f"{name}.singular": s.cpu().contiguous() for name, s in self.singular.items()}
        tensors |= {f"{name}.sketch": s.cpu().contiguous() for name, s in self.sketches.items()}
        write_tensors(tensors, path, {"format": FORMAT, **self.metadata})

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in an order that equal files share."""
        return [self.axes[name] for name in sorted(self.axes)] + [
            self.singular[name] for name in sorted(self.singular)
        ]

    @property
    def k_max(self) -> int:
        """Axes that every module has: as many as pairs, or r where that is less."""
        return min(len(rows) for rows in self.axes.values())

    def require(
        self,
        adapter: HasFingerprint,
        temperature: float,
        source: object,
        enable_thinking: bool | None = None,
    ) -> None:
        """Raises InputError unless these directions were extracted from this very model, with
        log-probs at this sampling temperature, and with `enable_thinking` as it is told to the chat
        template; None where that is not known, or no variable of it."""
        had = self.metadata.get("temperature", "unknown")
        if had != str(temperature):
            raise InputError(
                f"{source} was extracted at temperature {had}, the run samples at {temperature}: "
                "gradients of another distribution are other directions; run extract-vhack again"
            )
        told = self.metadata.get("enable_thinking", "False")  # as in all earlier versions
        if enable_thinking is not None and told != str(enable_thinking):
            raise InputError(
                f"{source} was extracted with enable_thinking {told}, the run has "
                f"{enable_thinking}: its prompts are others; run extract-vhack again"
            )
        mine, theirs = adapter.fingerprint(), self.metadata.get("fingerprint", "unknown")
        if not self.fits(adapter):
            raise InputError(
                f"{source} was extracted from another model "
                f"({self.metadata.get('model', 'unknown')}, axes "
                f"{theirs[:12]}; this model has {mine[:12]}): run extract-vhack on this one"
            )

    def fits(self, adapter: HasFingerprint) -> bool:
        """Whether the directions mean the same on this adapter's coordinates, to rounding."""
        if self.metadata.get("fingerprint") == adapter.fingerprint():
            return True
        mine = adapter.sketches()
        if not self.sketches or self.sketches.keys() != mine.keys():
            return False
        return all(
            self.sketches[name].shape == mine[name].shape
            and axes_agree(self.sketches[name].to(mine[name]), mine[name], rows.to(mine[name]))
            for name, rows in self.axes.items()
        )


NO_V = VHack({}, {})
"""No directions: of runs that measure none."""


def v_cache() -> Path:
    """The folder of pairs' gradients: `$PROJECTED_GRPO_CACHE/v`, else
    `~/.cache/projected_grpo/v`."""
    return cache_folder("v")


def load_vhack(path: Path, device: torch.device | str = "cpu") -> VHack:
    """Read what `VHack.save` wrote. Raises InputError when the file is missing or is something
    else."""
    if not path.is_file():
        raise InputError(f"there is no file of hack directions at {path}")
    try:
        with safe_open(path, "pt", device=str(device)) as f:
            metadata = f.metadata() or {}
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from error
    if metadata.pop("format", None) != FORMAT:
        raise InputError(f"{path} is not a file of hack directions ({FORMAT})")
    axes = {k.removesuffix(".axes"): t for k, t in tensors.items() if k.endswith(".axes")}
    singular, sketches = (
        {k.removesuffix(end): t for k, t in tensors.items() if k.endswith(end)}
        for end in (".singular", ".sketch")
    )
    return VHack(axes, singular, metadata, sketches)


def load_all(paths: Sequence[Path], device: torch.device | str = "cpu") -> list[VHack]:
    """Read one file for each path; those of the same content are one in memory."""
    read: dict[Path, VHack] = {}
    for path in paths:
        if path not in read:
            new = load_vhack(path, device)
            read[path] = next((one for one in read.values() if one.equals(new)), new)
    return [read[path] for path in paths]


def answers_of(lm: LanguageModel, pairs: Sequence[Pair]) -> list[PromptCompletion]:
    """Both sides of every pair, hack and clean, with their prompt."""
    prompts = [lm.prompt_ids(pair.messages) for pair in pairs]
    return [
        (prompt, [*lm.ids_of(text), lm.eos_id])
        for pair, prompt in zip(pairs, prompts, strict=True)
        for text in (pair.hack, pair.clean)
    ]


def side_gradients(
    lm: LanguageModel,
    adapter: Adapter,
    pairs: Sequence[Pair],
    *,
    temperature: float,
    micro_batch_tokens: int,
    run: int | None = 0,
    cache: Path | None = None,
) -> Sides:
    """grad NLL of both sides of every pair: under the policy of one run, or the base model (None);
    or, where a folder is given as `cache`, under the base model, which nothing may have moved yet.
    """
    answers = answers_of(lm, pairs)
    if cache is None:
        gradients = nll_gradients(
            lm, adapter, answers,
            temperature=temperature, micro_batch_tokens=micro_batch_tokens, run=run,
        )  # fmt: skip
    else:
        gradients = cached_nll_gradients(
            lm, adapter, answers, cache,
            temperature=temperature, micro_batch_tokens=micro_batch_tokens,
        )  # fmt: skip
    return {name: g.unflatten(0, (-1, 2)) for name, g in gradients.items()}


def hack_minus_clean(sides: Sides) -> dict[str, Tensor]:
    """The gradient of a labelled pair with advantages +1 and -1: module -> D (n, r)."""
    return {name: g[:, 0] - g[:, 1] for name, g in sides.items()}


def without_labels(sides: Sides, seed: int) -> dict[str, Tensor]:
    """As many differences of the same texts, none of them between a hack and a clean one: module ->
    D (n, r).

    A derangement of the pairs gives each a partner; half of the pairs, drawn too, differ by their
    hack from the partner's hack, the others clean from clean. Labels shuffled within pairs only
    change signs of D's rows and leave its span; labels shuffled over all texts leave a hack against
    a clean one in half of the rows, of either sign, and a span does not know signs.
    """
    n = len(next(iter(sides.values())))
    generator = torch.Generator().manual_seed(stream_seed("without_labels", seed))
    order = torch.randperm(n, generator=generator)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)  # one cycle through all pairs: none is its own partner
    side = (torch.randperm(n, generator=generator) < n // 2).long()
    rows = torch.arange(n)
    return {name: g[rows, side] - g[partner, side] for name, g in sides.items()}


def unit_pairs(D: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every pair's difference over its norm in all modules together: module -> (n, r).

    Without it the axes are those of the few pairs whose text surprises the model most.
    """
    norm = squared_norm(D).sqrt()
    return {name: d / norm.clamp_min(1e-38)[:, None] for name, d in D.items()}


def top_axes(D: Tensor) -> tuple[Tensor, Tensor]:
    """Top right-singular vectors of D (n, r), not centred: (axes (min(n, r), r), singular values).

    Each axis points where more pairs' differences point; a tie keeps the first pair's side.
    """
    _, singular, axes = torch.linalg.svd(D.float(), full_matrices=False)
    coefficients = D.float() @ axes.T  # (n, axes)
    votes = coefficients.sign().sum(0)
    side = torch.where(votes == 0, coefficients[0], votes).sign()
    return axes * torch.where(side == 0, 1.0, side)[:, None], singular


def mean_axis(D: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the differences D (n, r), which points to the hacks: (one unit axis (1, r), the
    mean's length (1,))."""
    mean = D.float().mean(0)
    return (mean / mean.norm())[None], mean.norm()[None]


AXES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"svd": top_axes, "mean": mean_axis}
"""--v-axes -> D (n, r) -> (unit axes (k, r), their strength (k,)), strongest first. A new way is
one more entry."""


def extract(
    lm: LanguageModel,
    adapter: Adapter,
    pairs: Sequence[Pair],
    *,
    temperature: float,
    micro_batch_tokens: int,
    model_name: str,
    pair_norm: str = "none",
    v_axes: str = "svd",
    run: int | None = 0,
    contrast: Contrast = hack_minus_clean,
    cache: Path | None = None,
) -> VHack:
    """Hack directions of the policy of `run` as it is now, or of the base model (None), from
    labelled pairs, or what another contrast of them gives.

    cache: the folder of the pairs' gradients, for the base model only; None computes them. Raises
    InputError for fewer than two pairs, or where gradients are not finite or all equal.
    """
    if len(pairs) < 2:
        raise InputError(f"a basis needs at least 2 contrast pairs, not {len(pairs)}")
    D = contrast(
        side_gradients(
            lm,
            adapter,
            pairs,
            temperature=temperature,
            micro_batch_tokens=micro_batch_tokens,
            run=run,
            cache=cache,
        )
    )
    if pair_norm == "unit":
        D = unit_pairs(D)
    axes, singular = {}, {}
    for name, differences in D.items():
        if not torch.isfinite(differences).all():
            raise InputError(f"the pairs' gradient of {name} is not finite")
        if not differences.any():  # LoRA's A before B has moved: any axes would be arbitrary
            continue
        rows, strength = AXES[v_axes](differences)
        if strength[0] > 0:  # a mean of nothing points nowhere
            axes[name], singular[name] = rows, strength
    if not axes:
        raise InputError("hack and clean completions have the same gradient everywhere")
    metadata = {
        "fingerprint": adapter.fingerprint(),
        "model": model_name,
        "adapter": adapter.format.rpartition("-")[0],
        "pairs": pairs_digest(pairs),
        "n_pairs": str(len(pairs)),
        "mechanisms": json.dumps(sorted({pair.mechanism for pair in pairs})),
        "temperature": str(temperature),
        "pair_norm": pair_norm,
        "v_axes": v_axes,
    }
    if lm.enable_thinking is not None:
        metadata["enable_thinking"] = str(lm.enable_thinking)
    return VHack(axes, singular, metadata, dict(adapter.sketches()))
