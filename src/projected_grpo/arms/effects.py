"""When a setting has an effect. One that is given and has none is refused: who gave it believes
that it acts.

EFFECTS is the one table. A setting that it does not name always has an effect. Imports no torch.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from projected_grpo.arms.arms import ARMS, Arm
from projected_grpo.config import OF_REMEDIES, SCORES_BY_TEXT, Config, ConfigError, is_on


@dataclass(frozen=True, slots=True)
class Need:
    """What a setting needs beside it to have an effect."""

    met: Callable[[Config], bool]
    lacking: str
    """What goes on after "--NAME has no effect": why."""
    remedy: str
    """What to do about it."""
    or_leave_out: bool = True
    """Whether to leave the setting out is the other thing to do."""


def _given(cfg: Config, name: str) -> bool:
    """Whether a setting holds anything: a number above 0, a name, at least one of several."""
    value = getattr(cfg, name)
    return value != () and is_on(value)


def _flag(name: str, *values: object) -> str:
    flag = f"--{name.replace('_', '-')}"
    return " or ".join(f"{flag}={value}" for value in values) or flag


def _beside(name: str, *values: object) -> Need:
    """Another setting has one of these values; without values, one that switches it on."""

    def met(cfg: Config) -> bool:
        had = getattr(cfg, name)
        return had in values if values else _given(cfg, name)

    return Need(met, f"without {_flag(name, *values)}", "add that")


def _not_beside(name: str) -> Need:
    """Another setting, which would take this one's place, is not given."""
    flag = _flag(name)
    return Need(
        lambda cfg: not _given(cfg, name),
        f"beside {flag}",
        "leave one of the two out",
        or_leave_out=False,
    )


def _not_scored_by(score: str, acts: str) -> Need:
    """Screens score by something else; `acts` says what this score does."""
    return Need(
        lambda cfg: cfg.screen_score != score,
        f"beside {_flag('screen_score', score)}, which {acts}",
        "leave it out",
        or_leave_out=False,
    )


def arms_of(cfg: Config) -> list[str]:
    """The arms that these settings ask for."""
    return list(cfg.arms or (cfg.arm,))


def _in_arm(acts: Callable[[Arm], bool], otherwise: str) -> Need:
    """One of the arms is such an arm; `otherwise` says what the others do not do."""
    such = [name for name, arm in ARMS.items() if acts(arm)]
    some = such[:3] if len(such) > 1 else such
    return Need(
        lambda cfg: any(name in such for name in arms_of(cfg)),
        f"in an arm that {otherwise}",
        f"take {'an arm such as ' if len(such) > 3 else ''}{' or '.join(some)} (--arm)",
    )


def _uses_pairs(cfg: Config) -> bool:
    """Whether a run reads contrast pairs, V from a file or not."""
    arms = [ARMS[name] for name in arms_of(cfg)]
    return (
        (cfg.v_hack is None and cfg.measure == "v")
        or bool(cfg.refresh_every)
        or cfg.flags_flavours
        or any(arm.extraction or arm.concept for arm in arms)
    )


def _acts(cfg: Config) -> bool:
    """Whether a run ever does anything that vanilla does not."""
    arms = [ARMS[name] for name in arms_of(cfg)]
    return cfg.screen != "none" or any(arm.needs_v or arm.needs_rows for arm in arms)


REMOVES = _in_arm(lambda arm: arm.removes != "nothing", "removes nothing")
PROJECTS = Need(
    lambda cfg: cfg.overshoot > 0,
    f"beside {_flag('overshoot', 0)}, with which nothing is projected",
    "leave one of the two out",
    or_leave_out=False,
)
ACTS = Need(
    _acts,
    "in an arm that does nothing, without --screen",
    "take --arm=projected or another that acts",
)
PENALISES = _in_arm(lambda arm: arm.reward == "adv_mod", "scores no hidden states")
SCREENS_ROWS = _beside("screen")
READ_TOKENS = tuple(_not_scored_by(name, "reads the text") for name in SCORES_BY_TEXT)
ASKS_A_MODEL = _not_scored_by("shortness", "counts tokens and asks no model")
HAS_A_FLAW = Need(
    lambda cfg: cfg.mode != "none" or cfg.screen_score not in SCORES_BY_TEXT,
    "beside --mode=none, where no text uses a flaw",
    "take another mode",
)
RENEWS_V = Need(
    lambda cfg: not cfg.scores_at_base or cfg.pairs in ("own", "own-reports"),
    "where rows are scored at the base model, which makes the same V of the same pairs again",
    "set --pairs=own, --pairs=own-reports or --screen-at=policy",
)
LEARNS = _beside("running_k")
MEASURES_V = _beside("measure", "v")
READS_PAIRS = Need(
    _uses_pairs,
    "where V comes from a file (--v-hack) or is not measured, and nothing else is made of pairs",
    "leave --v-hack or --measure=none out",
)

EFFECTS: dict[str, tuple[Need, ...]] = {
    "arm": (_not_beside("arms"),),
    "seed": (_not_beside("seeds"),),
    "model_revision": (
        Need(
            lambda cfg: cfg.model not in ("organism", "tiny-random")
            and not Path(cfg.model).exists(),
            "on a model that is not of the hub",
            "give --model=owner/name",
        ),
    ),
    "svd_cache": (_beside("adapter", "antipasto"),),
    "lora_rank": (_beside("adapter", "lora"),),
    "lora_alpha": (_beside("adapter", "lora"),),
    "teacher_pool": (_beside("mix_ratio"),),
    "teacher_steps": (_beside("mix_ratio"),),
    "clip_eps": (
        Need(
            lambda cfg: False,
            "while one optimizer step is taken per batch, as the ratio that it clips is 1",
            "leave it out",
            or_leave_out=False,
        ),
    ),
    "pairs": (READS_PAIRS,),
    "pair_modes": (READS_PAIRS,),
    "pair_flavours": (READS_PAIRS,),
    "pair_norm": (MEASURES_V,),
    "v_axes": (MEASURES_V,),
    "v_hack_k": (MEASURES_V,),
    "v_hack_drop_bottom_frac": (MEASURES_V,),
    "gate": (REMOVES, PROJECTS),
    "overshoot": (REMOVES,),
    "preserve_magnitude": (REMOVES, PROJECTS),
    "project_on": (REMOVES,),
    "start_arm_at": (ACTS,),
    "gt_penalty": (_in_arm(lambda arm: arm.reward == "gt_penalty", "does not ask the oracle"),),
    "adv_mod_alpha": (PENALISES,),
    "adv_mod_form": (PENALISES,),
    "inoculation": (
        _in_arm(lambda arm: arm.prompt == "inoculation", "does not put it into prompts"),
    ),
    "inoculation_neutral": (
        _in_arm(lambda arm: arm.prompt == "inoculation_neutral", "does not put it into prompts"),
    ),
    "v_hack_k_end": (REMOVES,),
    "score_weight": (REMOVES,),
    "trust": (REMOVES,),
    "running_k": (REMOVES,),
    **dict.fromkeys(
        ("running_every", "running_decay", "running_contrast", "running_replaces",
         "running_permuted", "known_modes"),
        (LEARNS,),
    ),
    "refresh_every": (RENEWS_V,),
    "screen_score": (SCREENS_ROWS, HAS_A_FLAW),
    **dict.fromkeys(("screen_share", "screen_yoked"), (SCREENS_ROWS,)),
    "screen_at": (SCREENS_ROWS, *READ_TOKENS, ASKS_A_MODEL),
    "screen_fpr": (
        SCREENS_ROWS, _not_beside("screen_share"), _not_beside("screen_yoked"), *READ_TOKENS,
    ),
    "screen_penalty": (_beside("screen", "penalty"),),
}  # fmt: skip
"""Setting -> all that it needs; in the order in which it is said."""

NOUGHT_ASKS_FOR_NOTHING = (*OF_REMEDIES, "teacher_steps", "preserve_magnitude")
"""Settings that say at 0, none or false that something is not wanted: that may be said anywhere."""


def without_effect(cfg: Config, named: Iterable[str]) -> dict[str, str]:
    """Those of the settings named that have no effect -> a sentence on why, and what to do."""
    found: dict[str, str] = {}
    for name in (one for one in EFFECTS if one in set(named)):
        if name in NOUGHT_ASKS_FOR_NOTHING and not is_on(getattr(cfg, name)):
            continue
        for need in EFFECTS[name]:
            if not need.met(cfg):
                flag = _flag(name)
                otherwise = f", or leave {flag} out" if need.or_leave_out else ""
                found[name] = f"{flag} has no effect {need.lacking}: {need.remedy}{otherwise}"
                break
    return found


def require_effect(asked: Sequence[tuple[Config, Collection[str]]]) -> None:
    """Raises ConfigError for a setting that has no effect in any of those runs that name it.

    asked: the settings of each command line, and which of them it names.
    """
    idle = [without_effect(cfg, named) for cfg, named in asked]
    for found in idle:
        for name, sentence in found.items():
            if all(
                name in other
                for other, (_, named) in zip(idle, asked, strict=True)
                if name in named
            ):
                raise ConfigError(sentence)
