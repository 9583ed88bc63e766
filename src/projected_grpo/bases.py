"""The directions of a session: those that all its runs measure, and those that single arms have for
themselves. Each is extracted once, and only where a run needs it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from loguru import logger
from torch import Tensor

from projected_grpo.antipasto import Adapter
from projected_grpo.arms import ARMS, Extraction
from projected_grpo.concept import concept_direction
from projected_grpo.config import Config, ConfigError
from projected_grpo.extract_vhack_grad import VHack, extract, load_vhack
from projected_grpo.model import LanguageModel
from projected_grpo.pairs import Pair, load_pairs, pairs_digest
from projected_grpo.seeds import stream_seed

PairSets = Mapping[str, Sequence[Pair]]
"""Sets of contrast pairs by the name that --pairs has for them."""


def load_pair_sets(
    cfgs: Sequence[Config], given: VHack | None, source: object, resuming: bool
) -> dict[str, list[Pair]]:
    """The sets that these runs need, V from a file being `given`; one that is resumed has what its
    arm extracted in its directory.

    Raises ConfigError where an arm needs a set that there is not, or where those that a run goes on
    with are not the pairs of the file (`source`).
    """
    extracting = [
        cfg
        for cfg in cfgs
        if cfg.refresh_every or ARMS[cfg.arm].concept or (ARMS[cfg.arm].extraction and not resuming)
    ]
    names = {cfg.pairs for cfg in (cfgs if given is None else extracting)}
    for cfg in extracting:
        extraction = ARMS[cfg.arm].extraction
        names |= {extraction.pairs(cfg.pairs)} if extraction else set()
    sets = {name: load_pairs(name) for name in sorted(names)}
    if given is not None and extracting:
        name = extracting[0].pairs
        _require_pairs(given, sets[name], source, name)
    return sets


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
    run: int = 0,
    extraction: Extraction | None = None,
) -> VHack:
    """Directions of one run's policy as it is now, in the way that its settings ask for: the hack
    directions, or those of an arm's `extraction`."""
    how = extraction or Extraction()
    return extract(
        lm,
        adapter,
        sets[how.pairs(cfg.pairs)],
        temperature=cfg.temperature,
        micro_batch_tokens=cfg.micro_batch_tokens,
        model_name=cfg.model,
        pair_norm=cfg.pair_norm,
        run=run,
        contrast=lambda sides: how.contrast(sides, cfg.seed),
    )


def measured(
    cfgs: Sequence[Config],
    lm: LanguageModel,
    adapter: Adapter,
    sets: PairSets,
    given: VHack | None,
    source: object,
    resuming: bool,
) -> VHack:
    """The hack directions that all runs measure: those given, or extracted.

    Raises AdapterError or ConfigError where those given, from `source`, do not fit the runs.
    """
    cfg = cfgs[0]
    if given is None:
        logger.info("extracting hack directions from {} pairs", len(sets[cfg.pairs]))
        given = extract_for(cfg, lm, adapter, sets)
    given.require(adapter, cfg.temperature, source)
    had = given.metadata.get("pair_norm", "none")
    if not resuming and had != cfg.pair_norm:
        raise ConfigError(
            f"{source} was extracted with --pair-norm={had}, the run asks for {cfg.pair_norm}: "
            "give both the same"
        )
    _require_axes(cfgs, given)
    return given


def _require_axes(cfgs: Sequence[Config], v_hack: VHack) -> None:
    largest = max(cfgs, key=lambda cfg: cfg.v_hack_k_most)
    if largest.v_hack_k_most > v_hack.k_max:
        name = "v_hack_k_end" if largest.v_hack_k_end else "v_hack_k"
        raise ConfigError(
            f"{name} {largest.v_hack_k_most} asks for more axes than the basis has: "
            f"{v_hack.k_max}, from {v_hack.metadata['n_pairs']} pairs; lower it, or extract from "
            "more pairs"
        )


def concepts(
    cfgs: Sequence[Config], lm: LanguageModel, adapter: Adapter, sets: PairSets
) -> dict[int, Tensor]:
    """Run index -> the direction in hidden states that its rows are scored along, for those runs
    whose arm has one. Call it before anything is learned."""
    wanted = [n for n, cfg in enumerate(cfgs) if ARMS[cfg.arm].concept]
    if not wanted:
        return {}
    cfg = cfgs[0]
    d = concept_direction(lm, adapter, sets[cfg.pairs], cfg.micro_batch_tokens)
    found: dict[int, Tensor] = {}
    for n in wanted:
        concept = ARMS[cfgs[n].arm].concept
        assert concept is not None  # it is wanted
        found[n] = concept(d, stream_seed("concept", cfgs[n].seed))
    return found


def own_directions(
    cfgs: Sequence[Config],
    lm: LanguageModel,
    adapter: Adapter,
    sets: PairSets,
    stored: Path | None = None,
) -> dict[int, VHack]:
    """Run index -> the directions of those runs whose arm has an extraction of its own.

    Those of the first run are read from `stored` where it is resumed. Call it before anything is
    learned: all runs are the base model then.
    """
    made: dict[tuple[object, ...], VHack] = {}
    found: dict[int, VHack] = {}
    for n, cfg in enumerate(cfgs):
        extraction = ARMS[cfg.arm].extraction
        if extraction is None:
            continue
        key = (cfg.arm, cfg.seed if extraction.by_seed else None)
        if key not in made and stored is not None:
            made[key] = load_vhack(stored, lm.model.device)
            made[key].require(adapter, cfg.temperature, stored)
        elif key not in made:
            logger.info("extracting the directions of {} (seed {})", cfg.arm, cfg.seed)
            made[key] = extract_for(cfg, lm, adapter, sets, extraction=extraction)
            _require_axes([cfg], made[key])
        found[n] = made[key].top(cfg.v_hack_k_most)
    return found
