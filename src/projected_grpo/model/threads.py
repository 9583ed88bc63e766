"""Two batches of a small model at the same time on a CPU.

Threads that share one batch meet after each operation, and one alone does what lies between; those
of two batches never meet. torch's threads are divided among them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Returned = TypeVar("Returned")

SIDE_BY_SIDE = 2
"""Batches at the same time: the threads of more would wait for Python's lock."""


def batches_at_once(device: torch.device) -> int:
    """How many batches are worth it: a GPU takes one, and so does a single thread."""
    return min(SIDE_BY_SIDE, torch.get_num_threads()) if device.type == "cpu" else 1


def do_side_by_side(jobs: Sequence[Callable[[], Returned]]) -> list[Returned]:
    """What these jobs return, done one after another or in threads that share those of torch."""
    threads = torch.get_num_threads()
    workers = min(SIDE_BY_SIDE, threads, len(jobs))
    if workers <= 1:
        return [job() for job in jobs]
    share = threads // workers
    try:
        with ThreadPoolExecutor(workers, "batch", torch.set_num_threads, (share,)) as pool:
            return [done.result() for done in [pool.submit(job) for job in jobs]]
    finally:
        torch.set_num_threads(threads)  # torch's threads begin with what was said last
