"""Directions learned from a run's own hacks while it trains.

V from contrast pairs knows the hacks that its author thought of, under the policy of the start.
Here every step's rows add to a second moment, decaying from step to step, of what flagged rows'
gradients have that the others' have not; its top eigenvectors, module by module, are removed beside
V, or in its place. No extra backward: every row's own gradient is there (`Adapter.rows`), and over
its advantage it is the gradient of its NLL.

Flags (`kinds`) are the environment's label `attempted`, in `known_modes` alone: a weak detector,
but one that is told the truth there. The oracle (`gt_correct`) and the label of any other mode are
not used. Its control is the same with the flags permuted (`running_permuted`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from projected_grpo.arms.rows import Row, RowGradients
from projected_grpo.arms.treatment import Treatment
from projected_grpo.config import RUNNING_ROWS, Config, ConfigError, stream_seed
from projected_grpo.env.loopholes.modes import get_mode
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.extract_vhack_grad import unit_pairs
from projected_grpo.model.tensor_file import write_tensors
from projected_grpo.proj import squared_norm
from projected_grpo.step_logger import Value

MOST_CONTRASTS = 16
"""Contrasts that one step adds at most, drawn where there are more; bounds the eigenproblem."""
LEAST = 1e-3
"""Axes with a singular value under this share of the largest are rounding."""

HACK, HONEST, OTHER = "hack", "honest", "other"


def kinds(rows: Sequence[Row], known_modes: Sequence[str]) -> list[str | None]:
    """What the weak detector says of every row; None: nothing, which is all it may say of a row
    outside the known modes (none named: all are known) and of teacher rows.

    hack: the row's loophole pays whatever its solution (`attempted`); honest: the row is paid
    without that; other: it is not paid. What the oracle makes of the solution is not asked.
    """

    def kind(row: Row) -> str | None:
        known = not known_modes or row.mode in known_modes
        if row.source != "student" or not known or row.grade.outcome == Outcome.INFRA_ERROR:
            return None
        if row.grade.attempted:
            return HACK
        return HONEST if row.grade.passed else OTHER

    return [kind(row) for row in rows]


def require_known_modes(cfgs: Sequence[Config], problems: Sequence[Problem]) -> None:
    """Raises ConfigError, or InputError for a mode that does not exist, where a run could flag
    nothing."""
    there = sorted({problem.mode or "none" for problem in problems})
    for cfg in cfgs:
        for mode in cfg.known_modes:
            get_mode(mode)
        if cfg.running_k and cfg.known_modes and not set(cfg.known_modes) & set(there):
            raise ConfigError(
                f"known_modes {', '.join(cfg.known_modes)} holds none of the modes of the problems "
                f"({', '.join(there)}), so that no row is ever flagged: name one of those"
            )


Pairing = list[tuple[int, list[int]]]
"""A flagged row, and the rows whose mean it is compared with; by index."""


def _pair_in_step(rows: Sequence[Row], kinds: Sequence[str | None]) -> Pairing:
    """Each flagged row against all of the step that are known not to be one."""
    clean = [b for b, kind in enumerate(kinds) if kind in (HONEST, OTHER)]
    return [(b, clean) for b, kind in enumerate(kinds) if kind == HACK and clean]


def _pair_in_problem(rows: Sequence[Row], kinds: Sequence[str | None]) -> Pairing:
    """Each flagged row against the honest ones that are paid for the same problem."""
    honest: dict[int, list[int]] = {}
    for b, kind in enumerate(kinds):
        if kind == HONEST:
            honest.setdefault(rows[b].problem.id, []).append(b)
    return [
        (b, honest[rows[b].problem.id])
        for b, kind in enumerate(kinds)
        if kind == HACK and rows[b].problem.id in honest
    ]


@dataclass(frozen=True, slots=True)
class RowContrast:
    """How the rows of a step become contrasts."""

    pairing: Callable[[Sequence[Row], Sequence[str | None]], Pairing]
    unit: Callable[[Row], int]
    """The rows of one unit share their flags where those are permuted."""


CONTRASTS: dict[str, RowContrast] = {
    "step": RowContrast(_pair_in_step, lambda row: 0),
    "problem": RowContrast(_pair_in_problem, lambda row: row.problem.id),
}
"""running_contrast -> how; see `_pair_in_step`, `_pair_in_problem`."""


def permute_flags(
    rows: Sequence[Row],
    kinds: Sequence[str | None],
    unit: Callable[[Row], int],
    generator: torch.Generator,
) -> list[str | None]:
    """The same flags, dealt out anew among those rows of each unit that have one: as many contrasts
    that know nothing."""
    out = list(kinds)
    units: dict[int, list[int]] = {}
    for b, row in enumerate(rows):
        if kinds[b] is not None:
            units.setdefault(unit(row), []).append(b)
    for places in units.values():
        order = torch.randperm(len(places), generator=generator).tolist()
        for place, source in zip(places, order, strict=True):
            out[place] = kinds[places[source]]
    return out


def strongest_rows(D: Tensor, most: int) -> Tensor:
    """Rows s_i v_i of the largest singular values of D (R, r), at most `most`, strongest first:
    their second moment is that of D but for what is left out. float64, on the CPU: there these
    small eigenproblems are fast."""
    D = D.double().cpu()
    _, U = torch.linalg.eigh(D @ D.T)  # rising
    return U.flip(1)[:, :most].T @ D


def leading_axes(rows: Tensor, off: Tensor | None, k: int, towards: Tensor) -> Tensor:
    """Up to k orthonormal axes of the largest second moment of `rows` (R, r) outside the span of
    `off` (orthonormal or zero rows), each turned to where `towards` (r,) lies; (<= k, r)."""
    rows = rows.double().cpu()
    floor = LEAST * float(rows.norm(dim=1).max())
    if off is not None:
        off = off.double().cpu()
        rows = rows - rows @ off.T @ off
    top = strongest_rows(rows, k)
    length = top.norm(dim=1)
    axes = top[length > floor] / length[length > floor, None]
    side = axes @ towards.double().cpu()
    return axes * torch.where(side < 0, -1.0, 1.0)[:, None]


@dataclass(slots=True)
class Moments:
    """What one run has learned by now: the state that its next step depends on."""

    rows: dict[str, Tensor] = field(default_factory=dict)
    """module -> rows with the second moment of the contrasts (R, r), decayed."""
    mean: dict[str, Tensor] = field(default_factory=dict)
    """module -> their sum (r,), decayed: which side of an axis is hack-ward."""
    axes: dict[str, Tensor] = field(default_factory=dict)
    """module -> what is removed (<= k, r), until the next time that it is made anew."""


class LearnedAxes:
    """The moments of those runs of a pack that have `running_k`; the others are not touched."""

    def __init__(self, cfgs: Sequence[Config], wanted: frozenset[int]) -> None:
        self.cfgs = cfgs
        self.moments = {n: Moments() for n in sorted(wanted)}

    @property
    def runs(self) -> frozenset[int]:
        """The runs of which every row's gradient is needed."""
        return frozenset(self.moments)

    @property
    def tensors(self) -> list[Tensor]:
        """All that was learned, in an order that every process of a run has."""
        parts = [part for m in self.moments.values() for part in (m.rows, m.mean, m.axes)]
        return [part[name] for part in parts for name in sorted(part)]

    def _run_of(self, t: Treatment) -> int | None:
        """The run of a treatment that learns axes; None where none of its runs does."""
        return t.run if self.runs & set(t.runs.tolist()) else None

    def with_axes(self, t: Treatment) -> Treatment:
        """The treatment with the axes that its run has learned by now."""
        n = self._run_of(t)
        if n is None or not self.moments[n].axes:
            return t
        removed = dict(t.removed)
        if self.cfgs[n].running_replaces:
            removed = {}  # `make_axes` made none before enough was seen for it
        for name, axes in self.moments[n].axes.items():
            if len(axes):
                had = removed.get(name, axes.new_zeros(1, 0, axes.shape[1]))
                removed[name] = torch.cat([had, axes[None]], 1)
        return replace(t, removed=removed)

    @torch.no_grad()
    def learn(
        self,
        step: int,
        per_row: RowGradients,
        base: Sequence[Treatment],
        current: Sequence[Treatment],
    ) -> dict[str, list[Value]]:
        """Add a step's rows, and make the axes anew where that is due; they act from the next step
        on, so that no row is projected off an axis that it made.

        base: the treatments without what is learned. current: the treatments as they acted in this
        step. Returns the columns, a list over runs each.
        """
        count: list[Value] = [None] * len(self.cfgs)
        captured: list[Value] = [None] * len(self.cfgs)
        for t, now in zip(base, current, strict=True):
            n = self._run_of(t)
            if n is None:
                continue
            D = contrasts(per_row.of(n), self.cfgs[n], step)
            rows = len(next(iter(D.values()))) if D else 0
            count[n] = rows
            if rows:
                captured[n] = _captured_share(D, now.removed)
                self._add(n, D)
            if step % self.cfgs[n].running_every == 0:
                self.make_axes(t)
        return {"running_rows": count, "running_captured": captured}

    def _add(self, n: int, D: Mapping[str, Tensor]) -> None:
        decay, moments = self.cfgs[n].running_decay, self.moments[n]
        for name, rows in D.items():
            if name in moments.rows:
                # decayed once for each step that adds something: only ratios matter
                rows = torch.cat([decay**0.5 * moments.rows[name], rows])
                moments.mean[name] = decay * moments.mean[name] + D[name].sum(0)
            else:
                moments.mean[name] = D[name].sum(0)
            if len(rows) > RUNNING_ROWS:
                rows = strongest_rows(rows, RUNNING_ROWS).to(rows)
            moments.rows[name] = rows

    @torch.no_grad()
    def make_axes(self, t: Treatment) -> None:
        """Make the axes of a treatment's run anew, outside the span of what it removes anyhow. Also
        after V itself was.

        Where they take V's place there are none, and V stays, until `running_k` contrasts are seen.
        """
        n = self._run_of(t)
        if n is None:
            return
        cfg, moments = self.cfgs[n], self.moments[n]
        seen = min(map(len, moments.rows.values()), default=0)  # every module has as many
        if cfg.running_replaces and seen < cfg.running_k:
            return
        for name, rows in moments.rows.items():
            off = None
            if name in t.removed and not cfg.running_replaces:
                off = t.removed[name][0]
            axes = leading_axes(rows, off, cfg.running_k, moments.mean[name])
            moments.axes[name] = axes.to(rows)

    def save(self, path: Path, n: int) -> None:
        """Write the moments of one run (safetensors)."""
        m = self.moments[n]
        parts = {"rows": m.rows, "mean": m.mean, "axes": m.axes}
        tensors = {
            f"{part}.{name}": value.cpu().contiguous()
            for part, values in parts.items()
            for name, value in values.items()
        }
        write_tensors(tensors, path)

    def load(self, path: Path, device: torch.device, n: int) -> None:
        """Read what `save` wrote into one run."""
        m = Moments()
        for key, value in load_file(path, device=str(device)).items():
            part, _, name = key.partition(".")
            {"rows": m.rows, "mean": m.mean, "axes": m.axes}[part][name] = value
        self.moments[n] = m


def contrasts(mine: RowGradients, cfg: Config, step: int) -> dict[str, Tensor]:
    """What one run's flagged rows of a step have that the others have not: module -> D (n, r), each
    the grad NLL of a flagged row less the mean of those it is compared with; empty where there is
    none. Scaled as the pairs' differences are (`pair_norm`)."""
    generator = torch.Generator().manual_seed(stream_seed("running", cfg.seed, step))
    how = CONTRASTS[cfg.running_contrast]
    flags = kinds(mine.rows, cfg.known_modes)
    if cfg.running_permuted:
        flags = permute_flags(mine.rows, flags, how.unit, generator)
    pairing = how.pairing(mine.rows, flags)
    if len(pairing) > MOST_CONTRASTS:
        drawn = torch.randperm(len(pairing), generator=generator)[:MOST_CONTRASTS]
        pairing = [pairing[i] for i in sorted(drawn.tolist())]
    if not pairing:
        return {}
    # (n, B): 1 at the flagged row, less the shares of the others
    take = torch.zeros(len(pairing), len(mine.rows), dtype=torch.float64)
    for i, (flagged, others) in enumerate(pairing):
        take[i, others] = -1 / len(others)
        take[i, flagged] = 1.0
    take /= torch.tensor([row.advantage for row in mine.rows], dtype=torch.float64)
    D = {name: take.to(g) @ g for name, g in mine.gradients.items()}
    return unit_pairs(D) if cfg.pair_norm == "unit" else D


def _captured_share(D: Mapping[str, Tensor], removed: Mapping[str, Tensor]) -> float:
    inside = {n: d @ removed[n][0].T for n, d in D.items() if n in removed}
    if not inside:
        return 0.0
    whole = float(squared_norm(D).sum())
    return float(squared_norm(inside).sum()) / whole if whole > 0 else 0.0


def learned_axes_for(cfgs: Sequence[Config], treatments: Sequence[Treatment]) -> LearnedAxes | None:
    """The learned axes of the runs that ask for them and remove something; None where none does."""
    wanted = frozenset(
        n
        for t in treatments
        for n, removes in zip(t.runs.tolist(), t.removes(), strict=True)
        if removes and cfgs[n].running_k
    )
    return LearnedAxes(cfgs, wanted) if wanted else None
