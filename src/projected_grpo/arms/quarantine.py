"""The second knob of arm `routed`: what is removed from the update of delta_S trains it instead.

Source: gradient routing (Cloud et al. 2024, arXiv 2410.04332), in the form that the predecessors of
this method (grpo_proj2) gave it. Forward passes of training use delta_S + quarantine, so the policy
that is sampled may hack and its rewards are vanilla's; what is deployed and evaluated is delta_S
alone (`Adapter.ablate`).

Deviations: what goes where is decided by the direction of the gradient, not by a label of the row;
the quarantine lies on the same singular axes as the kept knob, not in a region of its own, so that
nothing but V keeps them apart, and hacks that V misses are learned by the kept knob as before.
Under AdamW the two parts of a gradient are scaled and clipped each on its own (`project_on=grad`);
with `project_on=update` one AdamW steps as vanilla's does and its step is cut in two.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.optimizer import adamw, adamw_step
from projected_grpo.config import Config
from projected_grpo.model.adapter import Adapter


class Quarantine:
    """The second knob of all runs of a pack, and its AdamW; zero, always, where a run routes
    nothing."""

    def __init__(self, adapter: Adapter, cfgs: Sequence[Config]) -> None:
        self.values = adapter.add_quarantine()
        self.optimizer = adamw(self.values, cfgs[0])
        first = next(iter(self.values.values()))
        self.routed = torch.tensor([ARMS[one.arm].routes for one in cfgs], device=first.device)

    @torch.no_grad()
    def step(
        self,
        gradients: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        *,
        lr: Sequence[float],
        grad_clip: float,
    ) -> None:
        """Take AdamW's step along what was removed from the gradient, and what was removed from the
        step of the kept knob (`moved`): module -> (N, r) each."""
        mine = self.routed[:, None]
        own = {name: torch.where(mine, g, 0.0) for name, g in gradients.items()}
        before, stepped = adamw_step(self.optimizer, self.values, own, lr, grad_clip)
        for name, value in self.values.items():
            taken = stepped[name] + moved[name]
            value.copy_(torch.where(mine, before[name] - taken, before[name]))


def quarantine_for(adapter: Adapter, cfgs: Sequence[Config]) -> Quarantine | None:
    """A quarantine where a run of the pack routes; None, and a model as before, where none does."""
    return Quarantine(adapter, cfgs) if any(ARMS[cfg.arm].routes for cfg in cfgs) else None
