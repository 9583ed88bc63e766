"""The directions of a session: those that its runs measure, and those that single arms have for
themselves. Each is extracted once, and only where a run needs it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
from loguru import logger
from torch import Tensor

from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.basis_record import MADE_FORMERLY, require_made_with, with_formerly
from projected_grpo.arms.concept import CONCEPTS, concept_direction
from projected_grpo.config import Config, ConfigError, stream_seed
from projected_grpo.extract_vhack_grad import (
    NO_V,
    Sides,
    VHack,
    extract,
    hack_minus_clean,
    load_all,
    load_vhack,
    v_cache,
    without_labels,
)
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import ORGANISM, ORGANISM_V, LanguageModel
from projected_grpo.pairs.load import load_pairs, pairs_digest, placebo_of
from projected_grpo.pairs.own import OWN_PLACEBO, OWN_SETS
from projected_grpo.pairs.pair import Pair
from projected_grpo.proj import Basis, random_orthonormal


def remove_nothing(v: Basis, seed: int) -> dict[str, Tensor]:
    """An empty basis, which projects nothing."""
    return {}


def remove_basis(v: Basis, seed: int) -> dict[str, Tensor]:
    """The directions given. Source: grpo_proj2; deviation: AdamW's step can be projected too."""
    return dict(v)


def random_rows(v: Basis, seed: int) -> dict[str, Tensor]:
    """module -> as many random orthonormal rows (k, r). Source: the design's random V, section 4;
    deviation: V's singular values and signs have no counterpart, and a refresh draws no others."""
    basis: dict[str, Tensor] = {}
    for name, V in v.items():
        generator = torch.Generator().manual_seed(stream_seed("random_v", seed, name))
        basis[name] = random_orthonormal(V.shape[0], V.shape[1], generator).to(V)
    return basis


def random_vector(v: Basis, seed: int) -> dict[str, Tensor]:
    """module -> one random unit vector (1, r). Source: the design's norm-matched vanilla (section
    4); deviation: that has no direction, this one is the same at every step (docs/method.md)."""
    basis: dict[str, Tensor] = {}
    for name, V in v.items():
        generator = torch.Generator().manual_seed(stream_seed("norm_matched", seed, name))
        basis[name] = random_orthonormal(1, V.shape[1], generator).to(V)
    return basis


REMOVED: dict[str, Callable[[Basis, int], dict[str, Tensor]]] = {
    "nothing": remove_nothing,
    "basis": remove_basis,
    "random_rows": random_rows,
    "random_vector": random_vector,
}
"""Arm.removes, Arm.turns_about -> (basis, seed) -> module -> rows (k, r)."""


def _contrast_labels(sides: Sides, seed: int) -> dict[str, Tensor]:
    return hack_minus_clean(sides)


@dataclass(frozen=True, slots=True)
class Extraction:
    """Where directions come from: which pairs, and which differences of their gradients."""

    pairs: Callable[[str], str] = str
    """The run's set of pairs -> the set that is taken instead."""
    contrast: Callable[[Sides, int], dict[str, Tensor]] = _contrast_labels
    """(gradients of the pairs' sides, seed) -> the differences that axes are taken of."""
    by_seed: bool = False
    """Whether the contrast depends on the seed."""


EXTRACTIONS: dict[str, Extraction] = {
    "without_labels": Extraction(contrast=without_labels, by_seed=True),
    "placebo_pairs": Extraction(pairs=placebo_of),
}
"""Arm.extraction -> where the directions of an arm come from that removes others than the measured
ones."""


def extraction_of(arm: str) -> Extraction | None:
    """The arm's own extraction; None where it removes nothing but what is measured."""
    return EXTRACTIONS[ARMS[arm].extraction] if ARMS[arm].extraction else None


class PairChoice(NamedTuple):
    """Which contrast pairs: a set, and the modes and flavours of it that are taken."""

    name: str
    """As --pairs has it."""
    modes: tuple[str, ...] = ()
    flavours: tuple[str, ...] = ()
    seed: int | None = None
    """The seed of the rows that own pairs are made of; None for pairs of other sets."""

    @classmethod
    def of(cls, cfg: Config, extraction: Extraction | None = None) -> Self:
        """The run's own pairs, or those of the same modes and flavours that an arm's extraction
        takes instead."""
        name = extraction.pairs(cfg.pairs) if extraction else cfg.pairs
        seed = cfg.seed if name in (*OWN_SETS, OWN_PLACEBO) else None
        return cls(name, cfg.pair_modes, cfg.pair_flavours, seed)

    def load(self) -> list[Pair]:
        """Read them. Raises InputError for a mode or flavour that the set does not have."""
        return load_pairs(self.name, self.flavours or None, self.modes or None)


PairSets = Mapping[PairChoice, Sequence[Pair]]
"""The contrast pairs that a session extracts from."""


def load_pair_sets(
    cfgs: Sequence[Config], given: Sequence[VHack], sources: Sequence[object], resuming: bool
) -> dict[PairChoice, list[Pair]]:
    """The sets that these runs need, the V of each run being `given` from a file, or of none; runs
    that are resumed have what their arms extracted in their directories. Pairs in the policy's own
    words are not there yet (runs/own_rows.py).

    Raises ConfigError where an arm needs a set that there is not, or where those that a run goes on
    with are not the pairs of its file (`sources`).
    """
    measured = [cfg for cfg in cfgs if cfg.measure == "v"]
    extracting = [
        cfg
        for cfg in cfgs
        if cfg.refresh_every or ARMS[cfg.arm].concept or (extraction_of(cfg.arm) and not resuming)
    ]
    wanted = {PairChoice.of(cfg) for cfg in (*extracting, *(() if given else measured))}
    wanted |= {PairChoice.of(cfg, extraction_of(cfg.arm)) for cfg in extracting}
    sets = {choice: choice.load() for choice in sorted(wanted) if choice.seed is None}
    require_pairs(measured, sets)
    for cfg, v_hack, source in zip(cfgs, given, sources, strict=False):
        if cfg in extracting and cfg.pairs not in OWN_SETS:
            choice = PairChoice.of(cfg)
            _require_pairs(v_hack, sets[choice], source, choice.name)
    return sets


def require_pairs(cfgs: Sequence[Config], sets: PairSets) -> None:
    """Raises ConfigError where a run asks for more axes than its set has pairs."""
    for cfg in cfgs:
        choice = PairChoice.of(cfg)
        if choice in sets and len(sets[choice]) < cfg.v_hack_k_most:
            more = "take more pairs"
            if cfg.pairs in OWN_SETS:
                more = (
                    f"get more clean answers than {cfg.own_rows} rows hold: --prompts-per-step and "
                    "--group draw more rows, --max-new lets more of them end"
                )
            raise ConfigError(
                f"v_hack_k {cfg.v_hack_k_most} asks for more axes than the {len(sets[choice])} "
                f"pairs give that are taken of --pairs={cfg.pairs}: lower it, or {more}"
            )


def _require_pairs(v_hack: VHack, pairs: Sequence[Pair], v_file: object, source: str) -> None:
    """Raises ConfigError unless V was made from these pairs."""
    had, mine = v_hack.metadata.get("pairs", "unknown"), pairs_digest(pairs)
    if had != mine:
        raise ConfigError(
            f"{v_file} was extracted from other pairs (digest {had[:12]}) than --pairs={source} "
            f"({mine[:12]}), of which --refresh-every or the arm would extract: give the run the "
            "pairs of that file"
        )


def extract_for(
    cfg: Config,
    lm: LanguageModel,
    adapter: Adapter,
    sets: PairSets,
    run: int | None = 0,
    extraction: Extraction | None = None,
    *,
    cache: Path | None = None,
) -> VHack:
    """Directions of one run's policy as it is now, or of the base model (None), in the way that its
    settings ask for: the hack directions, or those of an arm's `extraction`. `cache` is for the
    base model only (`extract`).
    """
    how = extraction or Extraction()
    return extract(
        lm,
        adapter,
        sets[PairChoice.of(cfg, how)],
        temperature=cfg.temperature,
        micro_batch_tokens=cfg.micro_batch_tokens,
        model_name=cfg.model,
        pair_norm=cfg.pair_norm,
        v_axes=cfg.v_axes,
        run=run,
        contrast=lambda sides: how.contrast(sides, cfg.seed),
        cache=cache,
    )


def hack_directions(
    cfgs: Sequence[Config],
    lm: LanguageModel,
    adapter: Adapter,
    sets: PairSets,
    given: Sequence[VHack],
    sources: Sequence[object],
    resuming: bool,
) -> list[VHack]:
    """The hack directions that each run measures: those given, or extracted, once for all runs that
    make them alike of the same pairs; NO_V where nothing is to be measured.

    given, sources: of each run, from a file, or of none. Raises InputError or ConfigError where
    they do not fit the runs.
    """
    for cfg, v_hack, source in zip(cfgs, given, sources, strict=False):
        v_hack.require(adapter, cfg.temperature, source, lm.enable_thinking)
        if not resuming:
            require_made_with(with_formerly(v_hack.metadata), cfg, MADE_FORMERLY, source)
        require_axes([cfg], v_hack)
    if given:
        return list(given)
    if cfgs[0].measure == "none":  # which the runs of a pack share
        return [NO_V] * len(cfgs)
    made: dict[tuple[PairChoice, str], VHack] = {}
    for cfg in cfgs:
        key = choice, _ = PairChoice.of(cfg), cfg.v_axes
        if key in made:
            continue
        shipped = shipped_directions(cfg, sets[choice], adapter, lm.model.device)
        if shipped is not None:
            made[key] = shipped
        else:
            logger.info("extracting hack directions from {} pairs", len(sets[choice]))
            made[key] = extract_for(cfg, lm, adapter, sets, cache=v_cache())
            alike = [other for other in cfgs if (PairChoice.of(other), other.v_axes) == key]
            require_axes(alike, made[key])
    return [made[PairChoice.of(cfg), cfg.v_axes] for cfg in cfgs]


def shipped_directions(
    cfg: Config, pairs: Sequence[Pair], adapter: Adapter, device: torch.device
) -> VHack | None:
    """The directions that ship with the organism, where they are those that the run would extract:
    of the same pairs, temperature and axes; None elsewhere."""
    if cfg.model != ORGANISM or not ORGANISM_V.is_file():
        return None
    found = load_vhack(ORGANISM_V, device)
    wanted = {
        "pairs": pairs_digest(pairs),
        "temperature": str(cfg.temperature),
        "adapter": cfg.adapter,
        **{name: getattr(cfg, name) for name in MADE_FORMERLY},
    }
    made = with_formerly(found.metadata)
    alike = all(made.get(name) == value for name, value in wanted.items())
    if not alike or cfg.v_hack_k_most > found.k_max or not found.fits(adapter):
        return None
    logger.info("hack directions: {} axes that ship with the organism", found.k_max)
    return found


def require_axes(cfgs: Sequence[Config], v_hack: VHack) -> None:
    """Raises ConfigError where a run asks for more axes than these directions have."""
    largest = max(cfgs, key=lambda cfg: cfg.v_hack_k_most)
    if largest.v_hack_k_most > v_hack.k_max:
        name = "v_hack_k_end" if largest.v_hack_k_end else "v_hack_k"
        raise ConfigError(
            f"{name} {largest.v_hack_k_most} asks for more axes than the basis has: "
            f"{v_hack.k_max}, from {v_hack.metadata['n_pairs']} pairs; lower it, or extract from "
            "more pairs"
        )


def concept_directions(
    cfgs: Sequence[Config], lm: LanguageModel, adapter: Adapter, sets: PairSets
) -> dict[int, Tensor]:
    """Run index -> the direction in hidden states that its rows are scored along, for those runs
    whose arm has one. Call it before anything is learned."""
    wanted = [n for n, cfg in enumerate(cfgs) if ARMS[cfg.arm].concept]
    if not wanted:
        return {}
    made: dict[PairChoice, Tensor] = {}
    found: dict[int, Tensor] = {}
    for n in wanted:
        cfg, choice = cfgs[n], PairChoice.of(cfgs[n])
        if choice not in made:
            made[choice] = concept_direction(lm, adapter, sets[choice], cfg.micro_batch_tokens)
        concept = CONCEPTS[ARMS[cfg.arm].concept]
        found[n] = concept(made[choice], stream_seed("concept", cfg.seed))
    return found


def own_directions(
    cfgs: Sequence[Config],
    lm: LanguageModel,
    adapter: Adapter,
    sets: PairSets,
    stored: Sequence[Path] = (),
) -> dict[int, VHack]:
    """Run index -> the directions of those runs whose arm has an extraction of its own.

    stored: the file of each run, where the runs are resumed. Call it before anything is learned:
    all runs are the base model then.
    """
    mine = {n: how for n, cfg in enumerate(cfgs) if (how := extraction_of(cfg.arm)) is not None}
    found: dict[int, VHack] = {}
    if stored:
        read = load_all([stored[n] for n in mine], lm.model.device)
        for n, v_own in zip(mine, read, strict=True):
            v_own.require(adapter, cfgs[n].temperature, stored[n], lm.enable_thinking)
            found[n] = v_own.top(cfgs[n].v_hack_k_most)
        return found
    made: dict[tuple[object, ...], VHack] = {}
    for n, extraction in mine.items():
        cfg = cfgs[n]
        seed = cfg.seed if extraction.by_seed else None
        key = (cfg.arm, PairChoice.of(cfg, extraction), cfg.v_axes, seed)
        if key not in made:
            logger.info("extracting the directions of {} (seed {})", cfg.arm, cfg.seed)
            made[key] = extract_for(cfg, lm, adapter, sets, extraction=extraction, cache=v_cache())
            require_axes([cfg], made[key])
        found[n] = made[key].top(cfg.v_hack_k_most)
    return found
