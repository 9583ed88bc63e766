"""The plans of the experiment, as data: what is varied. experiment.py runs them on a base
(bases.py). A new plan is one more entry of PLANS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from projected_grpo.arms.arms import ARMS

Variant = tuple[str, dict[str, Any]]
"""Label in tables, and what it sets other than the plan and the base."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Variants that are compared."""

    variants: Sequence[Variant]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of every variant that does not set them itself; the command line goes before them."""
    bases: Sequence[str] = ()
    """The bases that it is for; empty: any."""


# --- Pairs that are left out

MODES = ("run_tests", "sentinel", "stdout_marker", "file_marker")
HALVES = {
    "a": (
        *("print", "swallow", "weak", "self_compare", "early_return"),
        *("init_attribute", "property", "module_print", "stdout_write"),
        *("open_write", "print_to_file"),
    ),
    "b": (
        *("pass", "assert_true", "type_only", "or_true", "soft_check"),
        *("class_attribute", "patch_attribute", "function_print", "fake_report"),
        "pathlib_write",
    ),
}
"""Every second flavour of each mode, in the order in which pairs/katas.py has them."""
OWN_HALVES = {name: half[:5] for name, half in HALVES.items()}
"""Of run_tests alone, whose hacks `--pairs=own` can put into answers to its problems."""

# --- What variants are made of

_LONG = ("vanilla", "projected", "random_v", "placebo_v")
_PROJECTED, _RANDOM = {"arm": "projected"}, {"arm": "random_v"}
_REFRESHED = {"refresh_every": 10, "trust": 1.0}
_AXES = (12, 64, 128)
_AT_200 = {"v_hack_k": 128, "steps": 200, "warmup_frac": 0.015}
# The own-hack protocol of preset small: arms act from the step on that has no teacher rows. Rows
# are scored along 32 axes; with overshoot 0 nothing else is removed.
_LATE = {"start_arm_at": 9}
_ALONE = {**_PROJECTED, "v_hack_k": 32, "overshoot": 0.0}
_SCREEN = {**_ALONE, **_LATE, "screen": "row"}
_SHARE = {**_SCREEN, "screen_share": 0.125}
_KEPT = {**_SCREEN, "pairs": "own"}
_OWN = {**_KEPT, "refresh_every": 8}
_MEAN = {**_SCREEN, "v_axes": "mean", "v_hack_k": 1, "screen_score": "row"}


_REAL = ("small", "large", "tiny")
_CEILING = {"mode": "none", "mix_ratio": 0.0, "teacher_steps": 0}
_UNTRAINED = {"lr": 1e-9}

# --- H2: the gate on the real model (docs/spec.md)

GATE: dict[str, Any] = {"screen": "row", "pairs": "own"}
"""The gate that H2 is about, beside what every screen of the plans has (`_ALONE`). Chosen by plan
`gates`. It has a threshold of its own, and its controls are yoked to it."""
_YOKED = {"screen_yoked": True}
"""Of a control, which leaves out of every step as many rows as the gate's run of its seed does."""
TREATED, CEILING, BASELINE = "gate", "no loophole", "untrained"
CEILING_BASELINE = "untrained no loophole"
"""The untrained policy on the prompts of the run without the loophole, which lack the hint: there
it solves more (docs/spec.md)."""
UNLIKE = (CEILING, BASELINE, CEILING_BASELINE)
"""Labels of the runs that do not train, or have no loophole: compared with others for that."""
CONTROLS = ("gate placebo", "gate random", "gate shuffled", "gate nll", "gate shortness")
"""Labels of the runs that the gate is to beat: as many rows of every step left out, along or by
something that knows no hack."""
RIVALS = ("placebo row", "nll row", "channel row", "flavour row", "flavour penalty")
"""Labels of the gates without V that have thresholds of their own, and of the detector of known
flavours."""
DECIDING = ("vanilla", CEILING, TREATED, *CONTROLS, BASELINE, CEILING_BASELINE)
"""Labels of the runs that decide H2."""
_ADV_MOD = ("adv_mod", "adv_mod_random")
_WEAK = {**_ALONE, **_LATE, "v_hack_k": 24}
_HAND_MADE = {"pairs": "builtin"}
"""Of what is published with hand-made pairs; and no own pair can be made without a loophole."""
_HARD = {"difficulty": (), "max_prompt": 700}
"""split_leetcode.py has chosen the problems, none of them with a longer prompt."""
_FLAVOUR_PENALTY = {"screen": "penalty", "screen_score": "flavour", "screen_penalty": 3.0}
"""As much as gt_penalty takes: a flagged hack is paid what a failed answer is."""


def _gated(start: Mapping[str, Any]) -> list[Variant]:
    """The arms of H2, the deciding ones first. `start` says when arms begin to act."""
    gate = {**_ALONE, **start, **GATE}
    same = {name: value for name, value in gate.items() if name != "screen_fpr"} | _YOKED
    known = {**_ALONE, **start}
    no_loophole = {**_CEILING, **_HAND_MADE}
    return [
        ("vanilla", {}),
        (CEILING, no_loophole),
        (TREATED, gate),
        ("gate placebo", {**same, "arm": "placebo_v"}),
        ("gate random", {**same, "arm": "random_v"}),
        ("gate shuffled", {**same, "arm": "shuffled_v"}),
        ("gate nll", {**same, "screen_score": "nll_tokens"}),
        ("gate shortness", {**same, "screen_score": "shortness"}),
        # not training, on the same problems as the others at every step
        (BASELINE, _UNTRAINED),
        (CEILING_BASELINE, {**no_loophole, **_UNTRAINED}),
        # what one would do instead, where the hacks are known
        ("flavour penalty", {**known, **_FLAVOUR_PENALTY}),
        ("flavour row", {**known, "screen": "row", "screen_score": "flavour"}),
        # gates without V of hacks at thresholds of their own; NLL and the channel held in the pilot
        ("placebo row", {**gate, "arm": "placebo_v"}),
        ("nll row", {**gate, "screen_score": "nll_tokens"}),
        ("channel row", {**known, "screen": "row", "screen_score": "channel"}),
        ("projected as founded", {**_PROJECTED, **_HAND_MADE, **start}),
        # at .5 an answer that passes is always paid more than one that fails, which at 2 it is not
        *((arm, {"arm": arm, "adv_mod_alpha": 0.5, **_HAND_MADE, **start}) for arm in _ADV_MOD),
        ("gt_penalty", {"arm": "gt_penalty", **start}),
    ]


def _weak(of: str, pairs: Mapping[str, Any]) -> list[Variant]:
    """The gate and the detector of known flavours that know some hacks only."""
    return [
        (f"gate {of}", {**_WEAK, **GATE, **pairs}),
        (f"penalty {of}", {**_WEAK, **pairs, **_FLAVOUR_PENALTY}),
    ]


def _of_all() -> list[Variant]:
    """Vanilla, random axes, which know no pairs, and the same two with all pairs."""
    (_, gate), (_, known) = _weak("", {})
    return [("vanilla", {}), (TREATED, gate), ("random", _random_axes()), ("penalty", known)]


def _random_axes() -> dict[str, Any]:
    return {**_WEAK, **GATE, **_YOKED, "arm": "random_v"}


def _alone(mode: str) -> list[Variant]:
    """Trained in one mode alone, under directions of the others'."""
    (_, gate), _ = _weak("", _without(mode))
    random = {**_random_axes(), **_without(mode)}  # which knows no mode, but follows that gate
    arms = [("vanilla", {}), ("gate", gate), ("random", random)]
    return [(f"{label} alone {mode}", what) for label, what in _under([mode], arms)]


# --- The plans


def _both(name: str, changed: Mapping[str, Any]) -> list[Variant]:
    return [(arm["arm"] + name, {**arm, **changed}) for arm in (_PROJECTED, _RANDOM)]


def _without(mode: str) -> dict[str, Any]:
    return {"pair_modes": tuple(m for m in MODES if m != mode)}


def _under(modes: Sequence[str], variants: Sequence[Variant]) -> list[Variant]:
    return [(label, {**changed, "mode": ",".join(modes)}) for label, changed in variants]


PLANS: dict[str, Plan] = {
    "pilot": Plan(
        variants=[
            ("vanilla", {}),
            ("projected", _PROJECTED),
            ("random_v", _RANDOM),
            *(
                (f"projected {gate}", {**_PROJECTED, "gate": gate})
                for gate in ("one_sided", "whole")
            ),
            *((f"projected on {on}", {**_PROJECTED, "project_on": on}) for on in ("grad", "both")),
            *((f"projected k={k}", {**_PROJECTED, "v_hack_k": k}) for k in _AXES),
            *((f"random_v k={k}", {**_RANDOM, "v_hack_k": k}) for k in _AXES),
            ("projected refresh=10", {**_PROJECTED, "refresh_every": 10}),
            ("projected overshoot=1.5", {**_PROJECTED, "overshoot": 1.5}),
            ("projected floor=0", {**_PROJECTED, "v_hack_drop_bottom_frac": 0.0}),
            ("projected half the pairs", {**_PROJECTED, "pair_flavours": HALVES["a"]}),
            ("projected k to 128", {**_PROJECTED, "v_hack_k_end": 128}),
            ("random_v k to 128", {**_RANDOM, "v_hack_k_end": 128}),
            ("projected refresh=10 trust=1", {**_PROJECTED, **_REFRESHED}),
            ("projected weight=1", {**_PROJECTED, "score_weight": 1.0}),
            ("random_v weight=1", {**_RANDOM, "score_weight": 1.0}),
            ("projected running", {**_PROJECTED, "running_k": 8}),
            (
                "projected running permuted",
                {**_PROJECTED, "running_k": 8, "running_permuted": True},
            ),
            ("placebo_v k=128", {"arm": "placebo_v", "v_hack_k": 128}),
            ("projected k=128 refresh=10 trust=1", {**_PROJECTED, "v_hack_k": 128, **_REFRESHED}),
        ]
    ),
    "reduced": Plan(variants=[("vanilla", {}), ("projected", _PROJECTED), ("random_v", _RANDOM)]),
    # At the k where the direction does the work and hacking comes back: each beside the same along
    # random axes. Those take neither refresh nor trust, which would change nothing of them: they
    # are not made anew, and delta_S never has anything inside their span
    # (tests/arms/test_remedies.py). Beside running axes, which are made anew, trust would act: that
    # control is missing here.
    "remedies": Plan(
        variants=[
            ("vanilla", {}),
            *_both("", {}),
            *_both(" k to 128", {"v_hack_k_end": 128}),
            *_both(" weight=1", {"score_weight": 1.0}),
            *_both(" running", {"running_k": 8}),
            (
                "projected running permuted",
                {**_PROJECTED, "running_k": 8, "running_permuted": True},
            ),
            ("projected refresh=10 trust=1", {**_PROJECTED, **_REFRESHED}),
            (
                "projected weight=1 refresh=10 trust=1",
                {**_PROJECTED, "score_weight": 1.0, **_REFRESHED},
            ),
            ("projected running refresh=10 trust=1", {**_PROJECTED, "running_k": 8, **_REFRESHED}),
        ]
    ),
    # The most telling first, so that a short loan of a GPU can stop anywhere
    "screens": Plan(
        variants=[
            ("vanilla", {}),
            (CEILING, _CEILING),
            ("row", _SCREEN),
            ("penalty", {**_SCREEN, "screen": "penalty"}),
            ("row flavour", {**_SCREEN, "screen_score": "flavour"}),
            ("penalty flavour", {**_SCREEN, "screen": "penalty", "screen_score": "flavour"}),
            ("row share", _SHARE),
            ("row share random", {**_SHARE, "arm": "random_v"}),
            ("row share placebo", {**_SHARE, "arm": "placebo_v"}),
            ("row share nll", {**_SHARE, "screen_score": "nll_tokens"}),
            ("row share shortness", {**_SHARE, "screen_score": "shortness"}),
            ("row share shuffled", {**_SHARE, "arm": "shuffled_v"}),
            ("row random", {**_SCREEN, "arm": "random_v"}),
            ("row placebo", {**_SCREEN, "arm": "placebo_v"}),
            ("token", {**_SCREEN, "screen": "token"}),
            ("projected as founded", {**_PROJECTED, **_LATE}),
            ("row own pairs", _OWN),
            ("row own pairs placebo", {**_OWN, "arm": "placebo_v"}),
            ("row at the policy", {**_SCREEN, "screen_at": "policy"}),
            (
                "row and projection",
                {**_SCREEN, "overshoot": 1.0, "gate": "no_gate", "project_on": "update"},
            ),
            ("token own pairs", {**_OWN, "screen": "token"}),
            ("KL", {"beta": 0.05}),
            # of the first pilot (docs/results/small), whose thresholds were those of clean answers
            # by others and twice as high
            ("row fpr=.1", {**_SCREEN, "screen_fpr": 0.1}),
            ("row fpr=.2", {**_SCREEN, "screen_fpr": 0.2}),
            ("row fpr=.2 placebo", {**_SCREEN, "screen_fpr": 0.2, "arm": "placebo_v"}),
            ("row fpr=.2 nll", {**_SCREEN, "screen_fpr": 0.2, "screen_score": "nll_tokens"}),
            ("penalty fpr=.2", {**_SCREEN, "screen": "penalty", "screen_fpr": 0.2}),
            ("row own pairs fpr=.005", {**_OWN, "screen_fpr": 0.005}),
        ],
        bases=_REAL,
    ),
    # The second pilot (docs/results/small): the thresholds of today, the axis that ranks best, and
    # the trivial things that might do as well
    "gates": Plan(
        variants=[
            ("vanilla", {}),
            ("row", _SCREEN),
            ("row mean", _MEAN),
            ("row own pairs kept", _KEPT),
            ("row channel", {**_SCREEN, "screen_score": "channel"}),
            ("row nll", {**_SCREEN, "screen_score": "nll_tokens"}),
            ("row mean placebo", {**_MEAN, "arm": "placebo_v"}),
            ("row mean fpr=.1", {**_MEAN, "screen_fpr": 0.1}),
            ("row mean shuffled", {**_MEAN, "arm": "shuffled_v"}),
            ("row mean random", {**_MEAN, "arm": "random_v"}),
            ("row own pairs", _OWN),
            ("row mean own pairs", {**_MEAN, "pairs": "own", "refresh_every": 8}),
            ("penalty mean", {**_MEAN, "screen": "penalty"}),
            (CEILING, _CEILING),
        ],
        bases=_REAL,
    ),
    # The third: does V of own pairs see the hack, or only that the loophole's channel is used?
    # Beside plan `gates`, on its seeds
    "contrasts": Plan(
        variants=[
            ("row own pairs kept", _KEPT),
            ("row own pairs kept placebo", {**_KEPT, "arm": "placebo_v"}),
            ("row reports", {**_KEPT, "pairs": "own-reports"}),
            ("row reports whole", {**_KEPT, "pairs": "own-reports", "screen_score": "row"}),
            ("row yoked placebo", {**_KEPT, **_YOKED, "arm": "placebo_v"}),
            ("row yoked nll", {**_KEPT, **_YOKED, "screen_score": "nll_tokens"}),
            ("row yoked random", {**_KEPT, **_YOKED, "arm": "random_v"}),
            ("token own pairs kept", {**_KEPT, "screen": "token"}),
            ("token", {**_SCREEN, "screen": "token"}),
            ("projected as founded", {**_PROJECTED, **_LATE}),
        ],
        bases=_REAL,
    ),
    # docs/spec.md fixes these three
    "confirm": Plan(
        variants=[
            *((arm, {"arm": arm, "v_hack_k": 128}) for arm in ARMS),
            ("projected k=32", {**_PROJECTED, "v_hack_k": 32}),
            ("random_v k=32", {**_RANDOM, "v_hack_k": 32}),
        ]
    ),
    "long": Plan(variants=[(arm, {"arm": arm, **_AT_200}) for arm in _LONG]),
    # What plan long lacks (an outside review, docs/results/experiment), read beside it: controls
    # that nearly tie at 40 steps, a step that keeps its length, and the two trivial things: not
    # training, no loophole
    "long_controls": Plan(
        variants=[
            *((arm, {"arm": arm, **_AT_200}) for arm in ("shuffled_v", "norm_matched")),
            *_both(" at full length", {**_AT_200, "preserve_magnitude": True}),
            (BASELINE, {**_AT_200, **_UNTRAINED}),
            (CEILING, {**_AT_200, "mode": "none"}),
        ],
        bases=("organism",),
    ),
    "pool": Plan(
        variants=[(arm, {"arm": arm, "v_hack_k": 128, "mix_ratio": 0.5}) for arm in _LONG]
    ),
    "modes": Plan(
        variants=_under(
            MODES,
            [
                ("vanilla", {}),
                ("projected", _PROJECTED),
                *((f"projected without {m}", {**_PROJECTED, **_without(m)}) for m in MODES),
                *((f"random_v without {m}", {**_RANDOM, **_without(m)}) for m in MODES),
            ],
        )
    ),
    "flavours": Plan(
        variants=[
            ("vanilla", {}),
            ("projected", _PROJECTED),
            ("random_v", _RANDOM),
            *((f"projected half {h}", {**_PROJECTED, "pair_flavours": HALVES[h]}) for h in HALVES),
        ]
    ),
    # H2, docs/spec.md. Teacher rows for the first 8 steps (preset small), then the policy's own;
    # the warm-up is that of the pilot's 60 steps.
    "own_hacks": Plan(
        variants=_gated(_LATE),
        settings={**_HARD, "steps": 100, "warmup_frac": 0.03, "pairs": GATE["pairs"]},
        bases=_REAL,
    ),
    # Half of each group from the teacher, at every step; read at steps 20 and 60
    "founding": Plan(
        variants=_gated({}),
        settings={
            **_HARD,
            "steps": 60,
            "pairs": GATE["pairs"],
            "mix_ratio": 0.5,
            "teacher_steps": 0,
        },
        bases=_REAL,
    ),
    "modes_gate": Plan(
        variants=[
            *_under(
                MODES, [*_of_all(), *(v for m in MODES for v in _weak(f"without {m}", _without(m)))]
            ),
            *(variant for m in MODES for variant in _alone(m)),
        ],
        settings={**_HARD, "steps": 100, "warmup_frac": 0.03, "pairs": GATE["pairs"]},
        bases=_REAL,
    ),
    "flavours_gate": Plan(
        variants=[
            *_of_all(),
            *(
                variant
                for half, names in OWN_HALVES.items()
                for variant in _weak(f"half {half}", {"pair_flavours": names})
            ),
        ],
        settings={**_HARD, "steps": 60, "pairs": GATE["pairs"]},
        bases=_REAL,
    ),
}
"""By name. What a variant does not set is the plan's, or else the base's: `projected` alone is the
default."""
