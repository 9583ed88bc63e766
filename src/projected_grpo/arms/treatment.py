"""What runs of a pack measure and what they remove: their arms, given the directions of a session.

The two are not the same. Every run measures along the hack directions V, so that the columns of all
arms compare. What it removes is its arm's affair: nothing, V, random rows, or other directions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.directions import REMOVED, PairChoice
from projected_grpo.config import Config
from projected_grpo.extract_vhack_grad import VHack
from projected_grpo.proj import Grads, Projection, mean_axes
from projected_grpo.step_logger import Value


@dataclass(frozen=True, slots=True)
class Treatment:
    """What is measured and removed in those runs of a pack that share these settings."""

    runs: Tensor
    """Indices on the run axis (n,)."""
    V: dict[str, Tensor]
    """Measured, never removed as such: module -> (k, r), with k = `v_hack_k`; empty where the runs
    measure nothing."""
    first: dict[str, Tensor]
    """The V of the start of the run: V itself, unless it has been extracted again."""
    removed: dict[str, Tensor]
    """Removed, never measured along: module -> (n, k, r), with k up to `v_hack_k_most`, zeros for
    a run that removes nothing; empty if none removes anything."""
    turn_axes: dict[str, Tensor]
    """The vectors about which what is removed is turned: module -> (n, r), zeros for a run that
    turns nothing; empty if none does."""
    projection: Projection
    on_grad: bool
    on_update: bool
    trust: float = 0.0
    """Share of its component inside `removed` that delta_S loses after a step."""
    score_weight: float = 0.0
    """Strength of the rows' weights along `removed` (row_weights.py)."""

    @property
    def run(self) -> int:
        """The index of its only run: one that refreshes V or learns axes shares its treatment with
        no other."""
        (n,) = self.runs.tolist()
        return n

    def removes(self) -> list[bool]:
        """Whether each of these runs removes anything."""
        if not self.removed:
            return [False] * len(self.runs)
        some = [rows.flatten(1).any(1) for rows in self.removed.values()]
        return torch.stack(some).any(0).tolist()

    def of(self, values: Grads) -> dict[str, Tensor]:
        """The rows of these runs: module -> (N, r) becomes module -> (n, r)."""
        return {name: value[self.runs] for name, value in values.items()}


def treatment_with_v(
    t: Treatment, cfg: Config, v_hack: VHack, own: VHack | None = None
) -> Treatment:
    """The treatment of one run from when V, and the directions of its own that its arm may have,
    were extracted again.

    random_v keeps the random rows that it started with, also where V has since gained or lost axes
    in a module.
    """
    V = measured_basis(v_hack, cfg)
    if not ARMS[cfg.arm].follows_v:
        return replace(t, V=V)
    removed, turn = _removed_bases([cfg], [v_hack if own is None else own])
    return replace(t, V=V, removed=removed, turn_axes=turn)


def treatment_at(t: Treatment, cfgs: Sequence[Config], step: int) -> Treatment:
    """The treatment as it acts at one step: not at all before the arm starts; where k grows, with
    as many axes as it has then.

    cfgs: of all runs of the pack.
    """
    mine = [cfgs[n] for n in t.runs.tolist()]
    if not all(cfg.acts_at(step) for cfg in mine):  # none: they start together (make_treatments)
        return replace(t, removed={}, turn_axes={}, trust=0.0, score_weight=0.0)
    if not any(cfg.v_hack_k_end for cfg in mine):
        return t
    (k,) = {cfg.k_at(step) for cfg in mine}  # runs of one treatment share what k depends on
    return replace(t, removed={name: rows[:, :k] for name, rows in t.removed.items()})


def columns_by_run(
    groups: Sequence[Treatment],
    n_runs: int,
    measure: Callable[[Treatment], dict[str, list[Value]]],
) -> dict[str, list[Value]]:
    """The columns that `measure` makes of every treatment's runs, put in the order of the run axis
    (N)."""
    columns: dict[str, list[Value]] = {}
    for t in groups:
        for key, values in measure(t).items():
            column = columns.setdefault(key, [None] * n_runs)
            for n, value in zip(t.runs.tolist(), values, strict=True):
                column[n] = value
    return columns


def make_treatments(
    cfgs: Sequence[Config],
    v_hack: Sequence[VHack],
    own: Mapping[int, VHack],
    device: torch.device,
) -> list[Treatment]:
    """The treatments of a pack: runs that share their projection settings share one, but a run that
    refreshes V, or learns axes, has one alone.

    v_hack: the hack directions of every run (N), which all measure. own: run -> the directions
    that its arm removes instead of these, where it has any.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for n, cfg in enumerate(cfgs):
        key = (
            cfg.v_hack_k, cfg.v_hack_drop_bottom_frac, cfg.gate, cfg.overshoot,
            cfg.preserve_magnitude, cfg.project_on,
            n if cfg.refresh_every or cfg.running_k else None,
            PairChoice.of(cfg), cfg.v_hack_k_end, cfg.score_weight, cfg.trust,
            cfg.start_arm_at,
            # Runs that are resumed together may have made V of the same pairs elsewhere.
            id(v_hack[n]),
        )  # fmt: skip
        groups.setdefault(key, []).append(n)
    found: list[Treatment] = []
    for runs in groups.values():
        cfg = cfgs[runs[0]]
        # Here the way forks. Measured: the hack directions, in every arm. Removed: what the arm
        # makes of them, or of its own.
        V = measured_basis(v_hack[runs[0]], cfg)
        removed, turn = _removed_bases(
            [cfgs[n] for n in runs], [own.get(n, v_hack[n]) for n in runs]
        )
        found.append(
            Treatment(
                runs=torch.tensor(runs, device=device),
                V=V,
                first=V,
                removed=removed,
                turn_axes=turn,
                projection=Projection(cfg.gate, cfg.overshoot, cfg.preserve_magnitude),
                on_grad=cfg.project_on != "update",
                on_update=cfg.project_on != "grad",
                trust=cfg.trust,
                score_weight=cfg.score_weight,
            )
        )
    return found


def measured_axes(treatments: Sequence[Treatment]) -> dict[str, Tensor]:
    """module -> (N, r, 1): along what each run's tokens are measured (`proj.mean_axes`)."""
    bases: dict[int, Mapping[str, Tensor]] = {}
    for t in treatments:
        bases |= dict.fromkeys(t.runs.tolist(), t.V)
    axes = mean_axes([bases[n] for n in range(len(bases))])
    return {name: v.T[..., None] for name, v in axes.items()}


def measured_basis(v_hack: VHack, cfg: Config) -> dict[str, Tensor]:
    """The basis along which a run measures: the first `v_hack_k` axes, less the noise floor."""
    return v_hack.select(cfg.v_hack_k, cfg.v_hack_drop_bottom_frac)


def _removed_bases(
    cfgs: Sequence[Config], given: Sequence[VHack]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`removed` and `turn_axes` of runs whose arms are given the bases of these directions.

    Where k grows the basis is that of the last step, noise floor included, and its first axes act
    at first: the floor of a larger k may drop axes that a smaller one keeps, and k only grows.
    """
    arms = [ARMS[cfg.arm] for cfg in cfgs]
    floors = [cfg.v_hack_drop_bottom_frac for cfg in cfgs]
    most = [cfg.v_hack_k_most for cfg in cfgs]
    bases = [v.select(k, floor) for v, k, floor in zip(given, most, floors, strict=True)]
    made = list(zip(arms, bases, cfgs, strict=True))
    removed = _stack_bases([REMOVED[arm.removes](v, cfg.seed) for arm, v, cfg in made])
    turn = _stack_bases([REMOVED[arm.turns_about](v, cfg.seed) for arm, v, cfg in made])
    return removed, {name: rows[:, 0] for name, rows in turn.items()}


def _stack_bases(bases: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Bases of n runs as one: module -> (n, k, r), filled up with zero rows, which remove
    nothing."""
    out: dict[str, Tensor] = {}
    for name, like in {name: rows for basis in bases for name, rows in basis.items()}.items():
        k = max(len(basis[name]) for basis in bases if name in basis)
        out[name] = like.new_zeros(len(bases), k, like.shape[1])
        for n, basis in enumerate(bases):
            if name in basis:
                out[name][n, : len(basis[name])] = basis[name]
    return out
