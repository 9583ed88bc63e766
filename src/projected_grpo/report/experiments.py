"""The experiments of a report: runs that may be compared, under names that say how the experiments
differ."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from projected_grpo.arms.arms import ARMS
from projected_grpo.config import PER_RUN, decisive, varied
from projected_grpo.report.comparisons import Comparison, compare, compare_with_controls
from projected_grpo.report.read import StoredRun
from projected_grpo.report.results import Run, runs_by_name, shared
from projected_grpo.runs.status import n_runs
from projected_grpo.step_logger import footnote, mark_caution

LONGEST_NAME = 40
"""Characters of an experiment's name; one that would be longer has a number."""
MOST_VARIED = 2
"""Settings that a name tells."""
WITHIN = tuple(name for name in PER_RUN if name != "lr")
"""Settings in which the runs of one experiment may differ."""


@dataclass(frozen=True)
class Experiment:
    """Runs that may be compared."""

    name: str
    runs: Sequence[StoredRun]
    differs: str = ""
    """The settings in which it is not as the others of its preset; empty: there is no other."""

    @property
    def file(self) -> str:
        """Its part of file names."""
        return file_name(self.name)

    @cached_property
    def arms(self) -> Mapping[str, Sequence[StoredRun]]:
        """name -> runs, vanilla first; a dagger marks arms whose curve is not to be compared with
        others'."""
        order = list(ARMS)
        found = sorted(
            runs_by_name(self.runs).items(), key=lambda item: order.index(item[1][0].about["arm"])
        )
        return {mark_caution(name, {name: caution(runs)}): runs for name, runs in found}

    @cached_property
    def against(self) -> list[Comparison]:
        """Every arm against vanilla; none where no run has a step."""
        return compare(self.arms) if any(run.rows for run in self.runs) else []

    @cached_property
    def against_controls(self) -> list[Comparison]:
        """Every arm against each of its controls."""
        return compare_with_controls(self.arms) if any(run.rows for run in self.runs) else []

    @property
    def cautions(self) -> dict[str, str]:
        """name of an arm -> why its curve is not to be compared; empty: it may be."""
        return {name: caution(runs) for name, runs in self.arms.items()}

    @property
    def about(self) -> str:
        """What its runs have in common."""
        abouts = [run.about for run in self.runs]
        shas = sorted({commit(run) for run in self.runs})
        settings = json.dumps(shared(self.runs))
        return (
            f"{n_runs(len(abouts))}, model {self.runs[0].settings['model']}, "
            f"{', '.join(sorted({about['device'] for about in abouts}))}, commit "
            f"{', '.join(shas)}; other than today's preset: {settings}."
        )

    @property
    def notes(self) -> list[str]:
        """What its daggers mean, and which of its pairs are of different commits."""
        daggers = footnote({name: caution(runs) for name, runs in runs_by_name(self.runs).items()})
        mixed = [
            f"{self.name}: in {one.mixed} of the {one.pairs} pairs of {one.name} the two runs are "
            "of different commits."
            for one in self.against
            if one.mixed
        ]
        return [
            *([f"{self.name}: {self.differs}."] if self.differs else []),
            *([daggers] if daggers else []),
            *dict.fromkeys(mixed),
        ]


def caution(runs: Sequence[Run]) -> str:
    """Why the training curve of an arm is not to be compared with others'; empty: it may be."""
    return ARMS[runs[0].about["arm"]].caution


def commit(run: Run) -> str:
    """The commit of a run, in short."""
    return (run.about["git_sha"] or "unknown")[:7]


def file_name(name: str) -> str:
    """A name as part of file names."""
    return re.sub(r"[^a-zA-Z0-9-]+", "_", name).strip("_")


def split(runs: Sequence[StoredRun]) -> list[Experiment]:
    """The experiments, by preset."""
    found: dict[str, dict[str, list[StoredRun]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        found[run.about["preset"]][run.identity(WITHIN)].append(run)
    made = []
    for preset, groups in sorted(found.items()):
        mine = [group for _, group in sorted(groups.items())]
        settings = [decisive(group[0].settings, WITHIN) for group in mine]
        names, differ = names_of(preset, settings), differences_of(settings)
        made += [Experiment(*one) for one in zip(names, mine, differ, strict=True)]
    return made


def differences_of(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each of several settings those in which they differ, as text."""
    keys = varied(settings)
    return [", ".join(f"{key}={one.get(key)}" for key in keys) for one in settings]


def names_of(preset: str, settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The preset's name where there is one experiment of it; else with the settings that vary, or,
    where these are too many, with the first one or two that tell all apart and dots for the others.
    Where there are none, or names would be too long or the same in file names: with a number."""
    keys = varied(settings)
    few = [chosen for n in range(1, MOST_VARIED + 1) for chosen in combinations(keys, n)]
    for chosen in [tuple(keys), *few] if len(keys) <= MOST_VARIED else few:
        rest = [] if len(chosen) == len(keys) else ["..."]
        names = [
            " ".join([preset, *(f"{k}={one.get(k)}" for k in chosen), *rest]) for one in settings
        ]
        plain = len({file_name(name).lower() for name in names}) == len(names)
        if plain and max(map(len, names)) <= LONGEST_NAME:
            return names
    return [f"{preset} ({number})" for number, _ in enumerate(settings, 1)]
