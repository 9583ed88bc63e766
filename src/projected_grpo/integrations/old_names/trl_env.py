"""The name of `projected_grpo.integrations.trl` until 2026-11; saved cards say it."""

import warnings

from projected_grpo.integrations.trl import *  # noqa: F403

warnings.warn(
    "projected_grpo.trl_env is now projected_grpo.integrations.trl",
    DeprecationWarning,
    stacklevel=2,
)
