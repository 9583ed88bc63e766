"""Rounding a weight that training has moved, so that small moves are not lost."""

import torch
from torch import Tensor


def round_by_dither(exact: Tensor, dtype: torch.dtype, seed: int) -> Tensor:
    """float32 `exact` in another dtype: bf16 is rounded up with the probability that makes it right
    on average, by draws that depend on the seed alone; float32 and float64 need no rounding.

    The draw of a weight stays the same from step to step: a weight changes when its delta crosses
    its draw, and what did not move stays what it was. A value on the bf16 grid is kept.
    """
    if dtype != torch.bfloat16:
        return exact.to(dtype)
    # bf16 is the upper half of a float32: adding up to one ulp less one bit, then cutting, carries
    # with the probability of the lower half.
    draw = _hash_draws(exact.numel(), seed, exact.device).view(exact.shape)
    return ((exact.view(torch.int32) + draw) & -(2**16)).view(torch.float32).to(torch.bfloat16)


def _hash_draws(n: int, seed: int, device: torch.device) -> Tensor:
    """n draws from 0 to 2^16 - 1, int32: a hash of place and seed (the finalizer of MurmurHash3),
    the same on every device, as a generator's are not."""
    x = torch.arange(n, dtype=torch.int32, device=device).add_(seed)
    for shift, factor in ((16, 0x85EBCA6B - 2**32), (13, 0xC2B2AE35 - 2**32), (16, 1)):
        x.bitwise_xor_((x >> shift) & (2 ** (32 - shift) - 1)).mul_(factor)
    return x.bitwise_and_(2**16 - 1)
