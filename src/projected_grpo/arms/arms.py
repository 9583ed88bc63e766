"""The table of arms: what a run does to its gradient, its rewards or its prompts.

An arm is plain data. A new one is one more entry of ARMS, which the command line, the loop, the
report and the experiments read. The names in it stand for functions that are looked up in small
dicts: REMOVED and EXTRACTIONS (directions.py), REWARDS (rewards.py), PROMPTS (prompts.py), CONCEPTS
(concept.py). This module imports no torch.

Every arm of one seed shares prompts, pool draws and sampling seeds, and logs its alignment with the
measured hack basis, so `vanilla` is also the measurement that the others are compared with.
"""

from dataclasses import dataclass
from typing import NamedTuple

from tabulate import tabulate

from projected_grpo.config import REMEDIES, SCORES_ALONG_V, Config, ConfigError, is_on
from projected_grpo.env.names import hint


class Refusal(NamedTuple):
    """A value of a setting that an arm does not take."""

    setting: str
    value: object
    why: str
    """The rest of a sentence that begins with the arm's name."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One treatment. The defaults are the identity, which is vanilla GRPO."""

    meaning: str
    caution: str = ""
    """Why its training curve is not to be compared with that of other arms; empty: it may be."""
    control_of: str = ""
    """The arm that it is a control of."""
    remedies: tuple[str, ...] = REMEDIES
    """The remedies that it takes: an arm that does not simply remove its basis takes none, as what
    a remedy does along that basis would not be the arm's."""
    refuses: tuple[Refusal, ...] = ()

    removes: str = "nothing"
    """REMOVED: which basis is projected out of the gradient. The function is given the measured
    hack basis, or the arm's own where it has an `extraction`."""
    extraction: str = ""
    """EXTRACTIONS: where the arm's own directions come from; empty: it has none."""
    turns_about: str = "nothing"
    """REMOVED: the vectors about which what is removed is turned away from the basis
    (`proj.turn`)."""
    follows_v: bool = True
    """Whether what is removed is made anew where V is extracted again."""
    routes: bool = False
    """Whether what is removed trains a second vector, which is ablated in evaluation
    (quarantine.py)."""
    reward: str = "grade"
    """REWARDS: what advantages are made of."""
    concept: str = ""
    """CONCEPTS: the direction in hidden states along which rows are scored for `reward`; empty:
    they are not."""
    prompt: str = "as_evaluated"
    """PROMPTS: what training does to the prompt."""

    @property
    def needs_v(self) -> bool:
        """Whether it acts on the hack directions, on others of their rank, or on its own."""
        return (self.removes, self.turns_about) != ("nothing", "nothing")

    @property
    def needs_rows(self) -> bool:
        """Whether it does more than change summed gradients or steps along the measured V."""
        own = (self.extraction, self.routes, self.concept)
        return any(own) or (self.reward, self.prompt) != ("grade", "as_evaluated")


ARMS: dict[str, Arm] = {
    "vanilla": Arm("plain GRPO"),
    "projected": Arm("the hack directions are projected out", removes="basis"),
    "random_v": Arm(
        "control: random orthonormal rows, as many in each module as the first hack basis has",
        control_of="projected",
        removes="random_rows",
        follows_v=False,
    ),
    "shuffled_v": Arm(
        "control: directions of the same pairs' texts, without a difference of hack and clean",
        control_of="projected",
        removes="basis",
        extraction="without_labels",
    ),
    "placebo_v": Arm(
        "control: directions of clean against clean pairs on the same tasks",
        control_of="projected",
        removes="basis",
        extraction="placebo_pairs",
    ),
    "norm_matched": Arm(
        "control: as much is removed as on the hack basis, at the same angle, elsewhere",
        control_of="projected",
        remedies=(),
        removes="basis",
        turns_about="random_vector",
    ),
    "routed": Arm(
        "rival: what lies along the hack directions trains a quarantine that is not deployed",
        caution="samples with its quarantine",
        remedies=(),
        refuses=(
            Refusal(
                "adapter",
                "lora",
                "adds a quarantine to delta_S, which LoRA does not have: set --adapter=antipasto, "
                "or take another arm",
            ),
            Refusal(
                "preserve_magnitude",
                True,
                "sends what it removes to the quarantine, and preserve_magnitude would put some of "
                "it back: leave --preserve-magnitude out",
            ),
        ),
        removes="basis",
        routes=True,
    ),
    "gt_penalty": Arm(
        "upper bound: what the oracle finds to be a hack is paid less",
        caution="is told the answer",
        reward="gt_penalty",
    ),
    "adv_mod": Arm(
        "rival: rows further along the pairs' direction in hidden states are paid less",
        reward="adv_mod",
        concept="of_pairs",
    ),
    "adv_mod_random": Arm(
        "control of adv_mod: the same along a random direction",
        control_of="adv_mod",
        reward="adv_mod",
        concept="random",
    ),
    "inoculation": Arm(
        "rival: the prompt permits the hack, in training only",
        caution="samples under its sentence",
        prompt="inoculation",
    ),
    "inoculation_neutral": Arm(
        "control of inoculation: a sentence about nothing in the same place",
        caution="samples under its sentence",
        control_of="inoculation",
        prompt="inoculation_neutral",
    ),
}
"""Arm by name, in the order of tables."""


def controls_of(arm: str) -> list[str]:
    """The arms that are controls of one."""
    return [name for name, one in ARMS.items() if one.control_of == arm]


def contradictions(cfg: Config) -> list[str]:
    """What is wrong between the settings and the arms that they ask for, one sentence each; empty
    when nothing is."""
    found: list[str] = []
    for name in dict.fromkeys(cfg.arms or (cfg.arm,)):
        if name not in ARMS:
            found.append(f"there is no arm {name}: {hint(name, ARMS)}")
            continue
        arm = ARMS[name]
        found += [
            f"arm {name} {refusal.why}"
            for refusal in arm.refuses
            if vars(cfg)[refusal.setting] == refusal.value
        ]
        if cfg.measure == "none" and arm.needs_v:
            found.append(
                f"arm {name} acts on directions, of which --measure=none makes none: leave "
                "--measure out, or leave the arm out"
            )
        used = [key for key in REMEDIES if is_on(vars(cfg)[key]) and key not in arm.remedies]
        found += [
            f"{key} = {vars(cfg)[key]} has no meaning in arm {name}, whose basis is not simply "
            "removed: leave it out, or leave the arm out"
            for key in used[:1]
        ]
        along_v = cfg.screen != "none" and cfg.screen_score in SCORES_ALONG_V
        if along_v and arm.removes == "nothing":
            found.append(
                f"arm {name} removes nothing along which rows could be scored: take "
                "--arm=projected (with --overshoot=0 the screen acts alone), or a --screen-score "
                "that needs no V"
            )
    return found


def require_arms(cfg: Config) -> None:
    """Raises ConfigError where the settings contradict an arm, or ask for one that there is not."""
    for broken in contradictions(cfg):
        raise ConfigError(broken)


def arm_glossary() -> str:
    """A line for each arm, for --help."""
    return tabulate([(f"  {name}", arm.meaning) for name, arm in ARMS.items()], tablefmt="plain")
