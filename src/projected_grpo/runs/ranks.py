"""Which of the processes of one run this one is, as torchrun and accelerate say it by the
environment. Imports no torch: the console asks before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass

from projected_grpo.config import ConfigError

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher sets beside WORLD_SIZE."""

OF_LAUNCHERS = frozenset(
    {
        *("WORLD_SIZE", *RANK_VARIABLES, "GROUP_RANK", "GROUP_WORLD_SIZE"),
        *("ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE"),
    }
)
"""All that torchrun sets, but for names that begin with TORCHELASTIC_."""


@dataclass(frozen=True, slots=True)
class Place:
    """One of the processes that make one run; by default there is no other."""

    rank: int = 0
    size: int = 1
    """Processes of the run, on all hosts."""
    local_rank: int = 0
    local_size: int = 1
    """Processes of the run on this host."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @property
    def prefix(self) -> str:
        """What goes before a line on the console: nothing of the process that speaks for all."""
        return "" if self.first else f"rank {self.rank}: "

    def part(self, n: int) -> slice:
        """This process's part of n things: the parts are disjoint, in the order of ranks, cover all
        and differ by one at most."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def part_of_host(self, n: int) -> int:
        """How many of a host's n cores or workers are this process's; at least one."""
        return max(1, n // self.local_size)


def place_of(environ: Mapping[str, str]) -> Place:
    """Read it from the environment; without WORLD_SIZE, or where that is 1, a process is alone.

    Raises ConfigError where the variables do not make sense together.
    """
    size = _number(environ, "WORLD_SIZE") if "WORLD_SIZE" in environ else 1
    if size == 1:
        return Place()
    if missing := [name for name in RANK_VARIABLES if name not in environ]:
        raise ConfigError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: start the processes with "
            "torchrun or accelerate launch, or unset WORLD_SIZE for a run in one process"
        )
    numbers = [_number(environ, name) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
    rank, local_rank, local_size = numbers
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        raise ConfigError(
            f"RANK {rank} of WORLD_SIZE {size} and LOCAL_RANK {local_rank} of LOCAL_WORLD_SIZE "
            f"{local_size} do not go together: start the processes with torchrun"
        )
    return Place(rank, size, local_rank, local_size)


def alone_of(environ: Mapping[str, str]) -> Place:
    """The place of a command that runs in one process. Raises ConfigError in all but the first
    where a launcher has started several."""
    size, rank = environ.get("WORLD_SIZE", "1"), environ.get("RANK", "0")
    if size != "1" and rank != "0":
        raise ConfigError(
            f"this command runs in one process, and this is rank {rank} of {size}: start it "
            "without torchrun"
        )
    return Place()


def without_place(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that is none of these processes."""
    return {
        name: value
        for name, value in environ.items()
        if name not in OF_LAUNCHERS and not name.startswith("TORCHELASTIC_")
    }


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise ConfigError(
            f"{name} is {environ[name]!r}, not a number: start the processes with torchrun"
        ) from None
