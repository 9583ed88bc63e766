"""Yoked controls: screens that flag in every step as many rows as another run's screen does.

A gate has a threshold of its own, so the share of rows that it leaves out changes from step to step
and from seed to seed. A control that leaves out a share fixed beforehand leaves out less in some
steps and more in others. A yoked one follows the gate's run of its own seed, which advances beside
it in the pack. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from projected_grpo.config import SCORES_ALONG_V, Config, ConfigError

UNLIKE = ("arm", "screen_score", "screen_yoked", "screen_fpr")
"""Settings in which a yoked run may differ from the run that it follows."""


def may_lead(arm: str, settings: Mapping[str, Any]) -> bool:
    """May yoked runs follow such a run? settings: of the run, those of this version or an older."""
    along_v = settings.get("screen_score", "tokens") in SCORES_ALONG_V
    return arm == "projected" and along_v and not settings.get("screen_yoked")


def leaders(cfgs: Sequence[Config]) -> dict[int, int]:
    """Yoked run -> the run of the pack that it follows: alike but for `UNLIKE`, of arm projected,
    with V's score and a threshold of its own. Raises ConfigError where there is not exactly one."""
    yoked = [n for n, cfg in enumerate(cfgs) if cfg.screen_yoked]
    gates: dict[str, list[int]] = {}
    for n, cfg in enumerate(cfgs) if yoked else ():
        if may_lead(cfg.arm, vars(cfg)):
            gates.setdefault(cfg.identity(UNLIKE), []).append(n)
    found: dict[int, int] = {}
    for n in yoked:
        cfg = cfgs[n]
        alike = gates.get(cfg.identity(UNLIKE), [])
        if len(alike) != 1:
            raise ConfigError(
                f"{cfg.arm} s{cfg.seed} with screen_yoked asks for one run beside it in the pack "
                "that is of arm projected, has V's score and is alike but for arm and score; there "
                f"are {len(alike)} among {len(cfgs)} runs: run it in a pack with the gate that it "
                "is a control of, as plans of scripts/experiment do"
            )
        found[n] = alike[0]
    return found
