"""The name of `projected_grpo.integrations.trainer` until 2026-11; saved cards say it."""

import warnings

from projected_grpo.integrations.trainer import *  # noqa: F403

warnings.warn(
    "projected_grpo.callback is now projected_grpo.integrations.trainer",
    DeprecationWarning,
    stacklevel=2,
)
