"""The name of `projected_grpo.integrations.peft` until 2026-11; saved cards say it."""

import warnings

from projected_grpo.integrations.peft import *  # noqa: F403

warnings.warn(
    "projected_grpo.peft is now projected_grpo.integrations.peft",
    DeprecationWarning,
    stacklevel=2,
)
