"""Arms: what a run does to its gradient, its rewards or its prompts. Variants are data; the loop
never asks which arm it runs.

Every arm of one seed shares prompts, pool draws and sampling seeds, and logs its alignment with the
measured hack basis, so `vanilla` is also the measurement that the others are compared with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from projected_grpo.concept import itself, random_direction
from projected_grpo.config import Config, ConfigError
from projected_grpo.extract_vhack_grad import Sides, VHack, hack_minus_clean, without_labels
from projected_grpo.proj import Basis, Projection, random_orthonormal
from projected_grpo.rewards import Reward, adv_mod, gt_penalty, unchanged
from projected_grpo.seeds import stream_seed
from projected_grpo.step_logger import Value

PLACEBO = {"builtin": "placebo", "katas": "katas-placebo"}
"""Pairs -> the set whose sides are both clean, on the same tasks."""


def _nothing(v: Basis, seed: int) -> dict[str, Tensor]:
    return {}


def _itself(v: Basis, seed: int) -> dict[str, Tensor]:
    """The directions given. Source: grpo_proj2; deviation: AdamW's step can be projected too."""
    return dict(v)


def _random(v: Basis, seed: int) -> dict[str, Tensor]:
    """module -> as many random orthonormal rows (k, r). Source: the design's random V, section 4;
    deviation: V's singular values and signs have no counterpart, and a refresh draws no others."""
    basis: dict[str, Tensor] = {}
    for name, V in v.items():
        generator = torch.Generator().manual_seed(stream_seed("random_v", seed, name))
        basis[name] = random_orthonormal(V.shape[0], V.shape[1], generator).to(V)
    return basis


def _random_unit(v: Basis, seed: int) -> dict[str, Tensor]:
    """module -> one random unit vector (1, r). Source: the design's norm-matched vanilla (section
    4); deviation: that has no direction, this one is the same at every step (docs/method.md)."""
    basis: dict[str, Tensor] = {}
    for name, V in v.items():
        generator = torch.Generator().manual_seed(stream_seed("norm_matched", seed, name))
        basis[name] = random_orthonormal(1, V.shape[1], generator).to(V)
    return basis


def placebo_of(pairs: str) -> str:
    """The placebo set of a set of pairs. Raises ConfigError where it has none."""
    if pairs not in PLACEBO:
        raise ConfigError(
            f"--pairs={pairs} has no placebo pairs on the same tasks, of which placebo_v is made: "
            f"only {' and '.join(PLACEBO)} have"
        )
    return PLACEBO[pairs]


Messages = tuple[dict[str, str], ...]


def as_written(messages: Messages, cfg: Config) -> Messages:
    """The prompt as it is evaluated."""
    return messages


def inoculated(messages: Messages, cfg: Config) -> Messages:
    """The prompt with a sentence at the end of its system turn that permits the hack.

    Source: inoculation prompting (Tan et al. 2025, arXiv 2510.04340), for reinforcement learning as
    in the benchmark's own arm (ariahw/rl-rewardhacking): a hack that the prompt asked for should
    not be learned as what to do without it. Deviations: the sentence is ours and permits where
    theirs instructs; the loophole's hint stays in the prompt. `hack_s` of this arm is that under
    the sentence: judge it by an evaluation, which never has it.
    """
    return _at_end_of_system(messages, cfg.inoculation)


def inoculated_neutrally(messages: Messages, cfg: Config) -> Messages:
    """The prompt with a sentence in the same place that has nothing to do with it.

    Our own control: any text that a model has not seen in such a prompt perturbs what it does, and
    what `inoculated` does beyond this one is what its sentence says.
    """
    return _at_end_of_system(messages, cfg.inoculation_neutral)


def _at_end_of_system(messages: Messages, sentence: str) -> Messages:
    if not sentence:
        return messages
    if messages[0]["role"] != "system":
        return ({"role": "system", "content": sentence}, *messages)
    system = {**messages[0], "content": f"{messages[0]['content']}\n\n{sentence}"}
    return (system, *messages[1:])


def _hack_minus_clean(sides: Sides, seed: int) -> dict[str, Tensor]:
    return hack_minus_clean(sides)


@dataclass(frozen=True, slots=True)
class Extraction:
    """Where the directions of an arm come from that removes others than the measured ones."""

    pairs: Callable[[str], str] = str
    """The run's set of pairs -> the set that is taken instead."""
    contrast: Callable[[Sides, int], dict[str, Tensor]] = _hack_minus_clean
    """(gradients of the pairs' sides, seed) -> the differences that axes are taken of."""
    by_seed: bool = False
    """Whether the contrast depends on that seed."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One treatment. The defaults are the identity, which is vanilla GRPO."""

    meaning: str
    basis: Callable[[Basis, int], dict[str, Tensor]] = _nothing
    """(basis, seed) -> the basis that is projected out; an empty one projects nothing. What it is
    given is the measured hack basis, or the arm's own where it has an `extraction`."""
    extraction: Extraction | None = None
    turn: Callable[[Basis, int], dict[str, Tensor]] = _nothing
    """(that basis, seed) -> module -> (1, r), about which what is removed is turned away from the
    basis (`proj.turned`); empty: it is not."""
    follows_v: bool = True
    """Whether what is removed is made anew where V is extracted again."""
    reward: Reward = unchanged
    """What advantages are made of (rewards.py)."""
    routes: bool = False
    """Whether what is removed trains a second vector, which is ablated in evaluation
    (quarantine.py)."""
    concept: Callable[[Tensor, int], Tensor] | None = None
    """(the pairs' direction in hidden states, seed) -> the direction along which rows are scored
    for `reward`; None: they are not."""
    messages: Callable[[Messages, Config], Messages] = as_written
    """The prompt as written -> as it is trained on."""


ARMS: dict[str, Arm] = {
    "vanilla": Arm("plain GRPO"),
    "projected": Arm("the hack directions are projected out", _itself),
    "random_v": Arm(
        "control: random orthonormal rows, as many in each module as the first hack basis has",
        _random,
        follows_v=False,
    ),
    "shuffled_v": Arm(
        "control: directions of the same pairs' texts, without a difference of hack and clean",
        _itself,
        Extraction(contrast=without_labels, by_seed=True),
    ),
    "placebo_v": Arm(
        "control: directions of clean against clean pairs on the same tasks",
        _itself,
        Extraction(pairs=placebo_of),
    ),
    "norm_matched": Arm(
        "control: as much is removed as on the hack basis, at the same angle, elsewhere",
        _itself,
        turn=_random_unit,
    ),
    "routed": Arm(
        "rival: what lies along the hack directions trains a quarantine that is not deployed",
        _itself,
        routes=True,
    ),
    "gt_penalty": Arm(
        "upper bound: what the oracle finds to be a hack is paid less",
        reward=gt_penalty,
    ),
    "adv_mod": Arm(
        "rival: rows further along the pairs' direction in hidden states are paid less",
        reward=adv_mod,
        concept=itself,
    ),
    "adv_mod_random": Arm(
        "control of adv_mod: the same along a random direction",
        reward=adv_mod,
        concept=random_direction,
    ),
    "inoculation": Arm(
        "rival: the prompt permits the hack, in training only",
        messages=inoculated,
    ),
    "inoculation_neutral": Arm(
        "control of inoculation: a sentence about nothing in the same place",
        messages=inoculated_neutrally,
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
    turn: dict[str, Tensor]
    """What is removed is turned about these: module -> (n, r), zeros for a run where it is not;
    empty if it is in none."""
    projection: Projection
    on_grad: bool
    on_update: bool
    trust: float = 0.0
    """Share of its component inside `removed` that delta_S loses after a step."""
    score_weight: float = 0.0
    """Strength of the rows' weights along `removed` (weights.py)."""

    def removes(self) -> list[bool]:
        """Of each of these runs, whether it removes anything."""
        if not self.removed:
            return [False] * len(self.runs)
        some = [rows.flatten(1).any(1) for rows in self.removed.values()]
        return torch.stack(some).any(0).tolist()

    def of(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """These runs' rows: module -> (N, r) becomes module -> (n, r)."""
        return {name: value[self.runs] for name, value in values.items()}


def with_v(t: Treatment, cfg: Config, v_hack: VHack, own: VHack | None = None) -> Treatment:
    """The treatment of one run from when V, and the directions of its own that its arm may have,
    were extracted again.

    random_v keeps the random rows that it started with, also where V has since gained or lost axes
    in a module.
    """
    V = selected(v_hack, cfg)
    if not ARMS[cfg.arm].follows_v:
        return replace(t, V=V)
    removed, turn = _removed([cfg], [v_hack if own is None else own])
    return replace(t, V=V, removed=removed, turn=turn)


def at_step(t: Treatment, cfg: Config, step: int) -> Treatment:
    """The treatment as it acts at one step: of a k that grows, with as many axes as it has then.

    cfg: that of one of its runs; they share what k depends on.
    """
    if not cfg.v_hack_k_end:
        return t
    k = cfg.k_at(step)
    return replace(t, removed={name: rows[:, :k] for name, rows in t.removed.items()})


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
    cfgs: Sequence[Config],
    v_hack: Sequence[VHack],
    own: Mapping[int, VHack],
    device: torch.device,
) -> list[Treatment]:
    """The runs of a pack grouped by their projection settings, each run in exactly one group; a run
    that refreshes V, or learns axes of its own, has its own.

    `v_hack` (N) is measured; `own` holds those directions that arms remove instead.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for n, cfg in enumerate(cfgs):
        key = (
            cfg.v_hack_k, cfg.v_hack_drop_bottom_frac, cfg.gate, cfg.overshoot,
            cfg.preserve_magnitude, cfg.project_on,
            n if cfg.refresh_every or cfg.running_k else None,
            cfg.pair_modes, cfg.pair_flavours, cfg.v_hack_k_end, cfg.score_weight, cfg.trust,
        )  # fmt: skip
        groups.setdefault(key, []).append(n)
    found: list[Treatment] = []
    for runs in groups.values():
        cfg = cfgs[runs[0]]
        V = selected(v_hack[runs[0]], cfg)
        removed, turn = _removed([cfgs[n] for n in runs], [own.get(n, v_hack[n]) for n in runs])
        found.append(
            Treatment(
                runs=torch.tensor(runs, device=device),
                V=V,
                first=V,
                removed=removed,
                turn=turn,
                projection=Projection(cfg.gate, cfg.overshoot, cfg.preserve_magnitude),
                on_grad=cfg.project_on != "update",
                on_update=cfg.project_on != "grad",
                trust=cfg.trust,
                score_weight=cfg.score_weight,
            )
        )
    return found


def selected(v_hack: VHack, cfg: Config) -> dict[str, Tensor]:
    """The basis that a run measures of these directions."""
    return v_hack.select(cfg.v_hack_k, cfg.v_hack_drop_bottom_frac)


def _removed(
    cfgs: Sequence[Config], given: Sequence[VHack]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`removed` and `turn` of runs whose arms are given the bases of these directions.

    Where k grows that is the basis of its end, noise floor included, of which the first axes act at
    first: the floor of a larger k may drop axes that a smaller one keeps, and k only grows.
    """
    arms = [ARMS[cfg.arm] for cfg in cfgs]
    floors = [cfg.v_hack_drop_bottom_frac for cfg in cfgs]
    most = [cfg.v_hack_k_most for cfg in cfgs]
    bases = [v.select(k, floor) for v, k, floor in zip(given, most, floors, strict=True)]
    made = list(zip(arms, bases, cfgs, strict=True))
    removed = _stacked([arm.basis(v, cfg.seed) for arm, v, cfg in made])
    turn = _stacked([arm.turn(v, cfg.seed) for arm, v, cfg in made])
    return removed, {name: rows[:, 0] for name, rows in turn.items()}


def _stacked(bases: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
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
