"""The bar that is shown while a run gets ready, with the time left."""

import torch.distributed as dist
from tqdm import tqdm


def progress_bar(what: str, total: int, unit: str) -> tqdm:
    """A bar that counts to `total`, to be entered. It is shown on a terminal only, by the first of
    several processes, and is gone when it is done."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    return tqdm(
        total=total, desc=what, unit=unit, unit_scale=True, dynamic_ncols=True, leave=False,
        disable=None if first else True,  # None: shown on a terminal only
    )  # fmt: skip
