"""Where the jobs of a sweep run: here (local), in pueue's queue, or on a SLURM cluster.

A job is an ordinary console command. `local` runs n at a time and waits for them; the other two
hand all over and return. What a queue holds is asked of the queue itself, by the jobs' names, so
that nothing is queued twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from projected_grpo.runs.sweep import local, pueue, slurm
from projected_grpo.runs.sweep.job import LaunchOptions, SweepJob


@dataclass(frozen=True)
class Launcher:
    """A place to run jobs."""

    queued: Callable[[], Mapping[str, str]]
    """What it holds already: name -> its own id."""
    run: Callable[[Sequence[SweepJob], Mapping[str, str], LaunchOptions], None]
    """Run or queue jobs; the second argument is what `queued` gave. Raises InputError."""


LAUNCHERS: dict[str, Launcher] = {
    "local": Launcher(local.queued, local.run),
    "pueue": Launcher(pueue.queued, pueue.run),
    "slurm": Launcher(slurm.queued, slurm.run),
}
