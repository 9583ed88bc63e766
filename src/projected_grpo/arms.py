"""Arms: what a run does to its gradient. Variants are data; the loop never asks which arm it runs.

Every arm of one seed shares prompts, pool draws and sampling seeds, and logs its alignment with the
measured hack basis, so `vanilla` is also the measurement that the others are compared with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from projected_grpo.config import Config
from projected_grpo.proj import Basis, Projection, random_orthonormal
from projected_grpo.seeds import stream_seed
from projected_grpo.step_logger import Value


def _nothing(v_hack: Basis, seed: int) -> dict[str, Tensor]:
    return {}


def _v_hack(v_hack: Basis, seed: int) -> dict[str, Tensor]:
    return dict(v_hack)


def _random(v_hack: Basis, seed: int) -> dict[str, Tensor]:
    basis: dict[str, Tensor] = {}
    for name, V in v_hack.items():
        generator = torch.Generator().manual_seed(stream_seed("random_v", seed, name))
        basis[name] = random_orthonormal(V.shape[0], V.shape[1], generator).to(V)
    return basis


@dataclass(frozen=True, slots=True)
class Arm:
    """One treatment. The defaults are the identity, which is vanilla GRPO."""

    meaning: str
    basis: Callable[[Basis, int], dict[str, Tensor]] = _nothing
    """(measured hack basis, seed) -> the basis that is projected out; an empty one projects
    nothing."""
    follows_v: bool = True
    """Whether what is removed is made anew where V is extracted again."""


ARMS: dict[str, Arm] = {
    "vanilla": Arm("plain GRPO"),
    "projected": Arm("the hack directions are projected out", _v_hack),
    "random_v": Arm(
        "control: random orthonormal rows, as many in each module as the first hack basis has",
        _random,
        follows_v=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Treatment:
    """What is measured and removed in those runs of a pack that share these settings."""

    runs: Tensor
    """Indices on the run axis (n,)."""
    V: dict[str, Tensor]
    """Measured: module -> (k, r)."""
    first: dict[str, Tensor]
    """What was measured at the start of the run: V, unless that has been extracted again."""
    removed: dict[str, Tensor]
    """Projected out: module -> (n, k, r), zeros for a run that removes nothing; empty if all
    do."""
    projection: Projection
    on_grad: bool
    on_update: bool

    def of(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """These runs' rows: module -> (N, r) becomes module -> (n, r)."""
        return {name: value[self.runs] for name, value in values.items()}


def with_v(t: Treatment, cfg: Config, V: dict[str, Tensor]) -> Treatment:
    """The treatment of one run from when V was extracted again.

    random_v keeps the random rows that it started with, also where V has since gained or lost axes
    in a module.
    """
    if not ARMS[cfg.arm].follows_v:
        return replace(t, V=V)
    removed = {name: rows[None] for name, rows in ARMS[cfg.arm].basis(V, cfg.seed).items()}
    return replace(t, V=V, removed=removed)


def by_run(
    groups: Sequence[Treatment],
    n_runs: int,
    measure: Callable[[Treatment], dict[str, list[Value]]],
) -> dict[str, list[Value]]:
    """What `measure` finds of every treatment's runs, in the order of the run axis (N)."""
    columns: dict[str, list[Value]] = {}
    for t in groups:
        for key, values in measure(t).items():
            column = columns.setdefault(key, [None] * n_runs)
            for n, value in zip(t.runs.tolist(), values, strict=True):
                column[n] = value
    return columns


def treatments(
    cfgs: Sequence[Config], select: Callable[[int, float], dict[str, Tensor]], device: torch.device
) -> list[Treatment]:
    """The runs of a pack grouped by their projection settings, each run in exactly one group; a run
    that refreshes V has its own.

    `select(k, drop_bottom_frac)` gives the measured hack basis.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for n, cfg in enumerate(cfgs):
        key = (
            cfg.v_hack_k, cfg.v_hack_drop_bottom_frac, cfg.gate, cfg.overshoot,
            cfg.preserve_magnitude, cfg.project_on, n if cfg.refresh_every else None,
        )  # fmt: skip
        groups.setdefault(key, []).append(n)
    found: list[Treatment] = []
    for runs in groups.values():
        cfg = cfgs[runs[0]]
        V = select(cfg.v_hack_k, cfg.v_hack_drop_bottom_frac)
        bases = [ARMS[cfgs[n].arm].basis(V, cfgs[n].seed) for n in runs]
        removed = {
            name: torch.stack([b.get(name, torch.zeros_like(rows)) for b in bases])
            for name, rows in V.items()
            if any(bases)
        }
        found.append(
            Treatment(
                runs=torch.tensor(runs, device=device),
                V=V,
                first=V,
                removed=removed,
                projection=Projection(cfg.gate, cfg.overshoot, cfg.preserve_magnitude),
                on_grad=cfg.project_on != "update",
                on_update=cfg.project_on != "grad",
            )
        )
    return found
