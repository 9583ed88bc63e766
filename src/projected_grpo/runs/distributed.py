"""One run in several processes, each with its GPU: data parallelism over whole groups.

Every process has the whole frozen model, samples and grades its own groups of a step and computes
their gradients. These are added up over processes before anything looks at them, so projection,
clipping, AdamW and fold do the same everywhere, on the same numbers. A group is never split: its
advantages need all its rows. The rows then go to everyone, so that every process computes the same
columns; rank 0 alone writes.

Without a launcher (torchrun, accelerate) there is one process, all of this does nothing, and no
process group is made.

Waiting for others is done over gloo, on the CPU, also where gradients go over NCCL: a process that
has died is an error there, and not a kernel that never ends.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from loguru import logger
from torch import Tensor

from projected_grpo.arms.rows import Row, RowGradients, StepSums
from projected_grpo.config import Config, ConfigError
from projected_grpo.env.errors import InputError
from projected_grpo.model.svd import MOST_CPU_THREADS
from projected_grpo.runs.ranks import Place, place_of

_T = TypeVar("_T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others before the run ends: rank 0 alone decomposes the model at
the start, and a step of one may be much longer than that of another."""


@dataclass(frozen=True, slots=True)
class World(Place):
    """The processes of a run, and what they tell each other. Each method is called by all of them,
    at the same point; with one process it does nothing.

    Raises InputError in all that are left where a process has ended or does not answer.
    """

    def device(self, device: torch.device) -> torch.device:
        """This process's own: the GPU of its local rank, from now on the current one.

        Raises ConfigError where there is none for it.
        """
        if self.size == 1 or device.type != "cuda":
            return device
        there = torch.cuda.device_count()
        if self.local_rank >= there:
            raise ConfigError(
                f"process {self.local_rank} of this host (LOCAL_RANK, from 0) has no GPU of its "
                f"own, it sees {there}: start {there} at most on this host, each seeing all of its "
                "GPUs (CUDA_VISIBLE_DEVICES)"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def threads(self, asked: int) -> int:
        """Of torch: as many as are asked for, or torch's own choice, of several processes this
        one's part of the cores; at most MOST_CPU_THREADS."""
        if asked:
            return asked
        alone = self.size == 1
        own = torch.get_num_threads() if alone else self.part_of_host(len(os.sched_getaffinity(0)))
        return min(own, MOST_CPU_THREADS)

    def workers(self, asked: int) -> int:
        """Programs that this process grades at once: its part of those that are asked for on its
        host, or of the cores; 0, where it is alone, is the grader's own choice."""
        if self.size == 1:
            return asked
        return self.part_of_host(asked or len(os.sched_getaffinity(0)))

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over processes in the place of every tensor; one message for each dtype."""
        self._together(tensors, lambda flat: dist.all_reduce(flat))

    def largest(self, tensor: Tensor) -> None:
        """Put the largest over processes in the place of every entry."""
        self._together([tensor], lambda flat: dist.all_reduce(flat, dist.ReduceOp.MAX))

    def as_first(self, tensors: Sequence[Tensor]) -> None:
        """Put rank 0's numbers in the place of every tensor. What all compute alike may differ in
        the last bit from GPU to GPU, and what then follows from it by more.

        Raises InputError where they have other shapes elsewhere.
        """
        if self.size == 1:
            return
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if any(other != shapes for other in self.gather(shapes)):
            raise InputError(
                "the processes have directions of different shapes: give all the same files and "
                "versions, and --v-hack, a file that extract-vhack made once"
            )
        self._together(tensors, lambda flat: dist.broadcast(flat, 0))

    def _together(self, tensors: Sequence[Tensor], work: Callable[[Tensor], object]) -> None:
        """Do it on all tensors of one dtype and device at once, as one vector, in place."""
        if self.size == 1:
            return
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for alike in kinds.values():
            flat = torch.cat([tensor.detach().flatten() for tensor in alike])
            if flat.device.type == "cuda":
                # What went wrong on the GPU before is told here, and not as another's fault
                torch.cuda.current_stream(flat.device).synchronize()
                self.wait()
            with _answering():
                work(flat)
            with torch.no_grad():
                for tensor, part in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
                    tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.size > 1:
            with _answering():
                dist.all_reduce(torch.zeros(1))

    def any(self, here: bool) -> bool:
        """Whether the condition holds in any process."""
        said = torch.tensor([int(here)])
        self.largest(said)
        return bool(said)

    def gather(self, mine: _T) -> list[_T]:
        """What each process has, in the order of ranks. It travels pickled: no tensors on GPUs."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        with _answering():
            dist.all_gather_object(found, mine)
        return found

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """What one process refuses inside (a ValueError: what a user can mend), all refuse. Nothing
        else of a World may be used inside: who has failed is not there for it."""
        try:
            yield
        except ValueError as error:
            self.gather(str(error))
            raise
        for rank, said in enumerate(self.gather("")):
            if said:
                raise InputError(f"rank {rank} cannot go on: {said}")

    def lead(self, work: Callable[[], _T]) -> _T:
        """Let rank 0 do the work; all get what it returns, or refuse what it refuses."""
        done: list[_T] = []
        with self.fail_together():
            if self.first:
                done.append(work())
        return self.gather(done)[0][0]

    def one_then_all(self, work: Callable[[], _T]) -> _T:
        """Let rank 0 do the work before the others, who then find its results in a cache."""
        done: list[_T] = []
        for turn in (self.first, not self.first):
            with self.fail_together():
                if turn:
                    done.append(work())
        return done[0]

    def require_same(self, **described: str) -> None:
        """Raises InputError where what makes a run's rows differs from process to process."""
        everywhere = self.gather(described)
        for rank, theirs in enumerate(everywhere):
            for what, text in everywhere[0].items():
                if theirs[what] != text:
                    raise InputError(
                        f"rank {rank} has other {what} than rank 0: give all processes the same "
                        "command line, files and versions, --svd-cache and a resumed run's "
                        "--out-dir on a disk that all hosts share"
                    )

    def same(self, values: Mapping[str, Tensor]) -> bool:
        """Whether all processes have these, bit for bit, as far as sums of their bits tell."""
        if self.size == 1:
            return True
        sums = [
            value.detach().view(torch.int32).sum(dtype=torch.int64) for value in values.values()
        ]
        mine = torch.stack(sums)
        extremes = torch.stack([mine, -mine])
        self.largest(extremes)
        return torch.equal(extremes[0], -extremes[1])


ALONE = World()


@contextmanager
def _answering() -> Iterator[None]:
    """Around nothing but a message of torch.distributed, whose failures are RuntimeErrors."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError too, and this process's own
        raise
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(
            "another process of this run has ended or no longer answers, what it said tells why; "
            f"go on with --resume from the last checkpoint, where there is one ({said})"
        ) from error


@contextmanager
def process_group(cfgs: Sequence[Config]) -> Iterator[World]:
    """The processes of this run, joined to each other while the context lasts. Raises ConfigError
    where there are more of them than they have work."""
    place = place_of(os.environ)
    if place.size == 1:
        yield ALONE
        return
    if len(cfgs) > 1:
        raise ConfigError(
            f"a pack advances in one process, and this is one of {place.size}: give one arm and "
            "one seed, or start without torchrun; `sweep` spreads runs over GPUs"
        )
    if place.first:  # who finds nobody there waits for as long as TIMEOUT
        logger.info(
            "waiting for {} processes at {}:{} (without WORLD_SIZE set: one, at once)",
            place.size,
            os.environ["MASTER_ADDR"],
            os.environ["MASTER_PORT"],
        )
    # Both where there is a GPU: a run's device is known only when its settings have been read.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    yield World(place.rank, place.size, place.local_rank, place.local_size)
    # Not after an error: over NCCL that could wait for those who have gone; the process ends anyhow
    dist.destroy_process_group()


def require_groups(world: World, cfg: Config) -> None:
    """Raises ConfigError where a process would get no group of a step."""
    if world.size > cfg.prompts_per_step:
        raise ConfigError(
            f"{world.size} processes have nothing to do for {cfg.prompts_per_step} prompts a step, "
            f"as a group stays in one process: start {cfg.prompts_per_step} at most, or raise "
            "--prompts-per-step"
        )


def add_up_gradients(world: World, total: StepSums, expected: Sequence[int]) -> list[int]:
    """Make `total` that of all processes; returns the sum of what they expect of each run (N)."""
    counts = total.tokens.new_tensor(expected)
    world.add_up([*total.sums, counts])
    world.largest(total.logp_difference_max)
    return counts.tolist()


def gather_groups(
    world: World, groups: list[list[Row]], per_row: RowGradients, trained: Mapping[str, Tensor]
) -> tuple[list[list[Row]], RowGradients]:
    """The groups of all processes, in the order of prompts, and the rows that keep their gradient,
    in the order in which one process would have kept them.

    trained: module -> (N, r).
    """
    if world.size == 1:
        return groups, per_row
    place = {id(row): i for i, row in enumerate(row for group in groups for row in group)}
    mine = [place[id(row)] for row in per_row.rows]
    parts = world.gather((groups, mine))
    rows: list[Row] = []
    some: list[tuple[int, int]] = []  # of these: index in `rows`, and rank
    for rank, (theirs, indices) in enumerate(parts):
        some += [(len(rows) + i, rank) for i in indices]
        rows += [row for group in theirs for row in group]
    # micro_batches' order: the longest first, of equal ones the first
    order = sorted(some, key=lambda at: (-len(rows[at[0]].prompt) - len(rows[at[0]].ids), at[0]))
    offset = sum(len(group) for theirs, _ in parts[: world.rank] for group in theirs)
    to = {i: position for position, (i, _) in enumerate(order)}
    found = RowGradients(per_row.runs, [rows[i] for i, _ in order])
    for name, value in trained.items() if order else ():
        g = value.new_zeros(len(order), value.shape[1])
        if mine:
            g[[to[offset + i] for i in mine]] = per_row.gradients[name]
        world.add_up([g])  # every row is one process's: the others add zero
        found.gradients[name] = g
    return [group for theirs, _ in parts for group in theirs], found
