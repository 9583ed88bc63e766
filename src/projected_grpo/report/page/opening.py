"""The first screen of a report's page: what the comparisons say, the curve of attempts, and where
the runs come from. Pure: texts in, markup out."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePath

from projected_grpo.report.findings import LESS, MORE, RULE, Finding
from projected_grpo.report.read import StoredRun

MOST_COMMANDS = 3
"""Commands that are written out; of others the number."""
_SHADES = {LESS: "less", MORE: "more"}


@dataclass(frozen=True)
class Opening:
    """What the page says first of an experiment."""

    name: str
    differs: str
    """In which settings it is not as the others of its preset; empty: there is no other."""
    findings: Sequence[Finding]
    alone: str
    """Why there is no finding; empty where there is one."""
    figure: str
    """The drawn curve of attempts with its caption, as markup; empty: there is none."""
    origin: str
    """Dates, commits and commands, as markup (`origin_of`)."""


def opening_markup(one: Opening) -> str:
    """An experiment's part of the first screen."""
    said = "".join(map(_finding, one.findings))
    listed = f'<ul class="findings">{said}</ul>' if said else f"<p>{escape(one.alone)}</p>"
    differs = f'<p class="note">With {escape(one.differs)}.</p>' if one.differs else ""
    rule = (
        '<details class="note"><summary>How the verdicts are made</summary>'
        f"<p>{escape(RULE)}</p></details>"
    )
    return (
        f'<section class="opening"><div><h2>{escape(one.name)}</h2>{differs}{listed}'
        f"{rule if said else ''}</div>{one.figure}"
        f'<div class="origin">{one.origin}</div></section>'
    )


def _finding(one: Finding) -> str:
    shade = _SHADES.get(one.verdict, "open")
    return (
        f'<li><strong class="verdict {shade}">{escape(one.verdict)}</strong> '
        f"{escape(one.sentence)}</li>"
    )


def why_none(arms: Sequence[str], *, has_rows: bool) -> str:
    """Why no arm is compared with another; empty: one is."""
    others = [arm for arm in arms if arm != "vanilla"]
    if not has_rows:
        return "No run has a step yet."
    if not others:
        return "Only vanilla is here: there is no arm to compare with it."
    return ""


def origin_of(runs: Sequence[StoredRun]) -> str:
    """When, with which commits, on what and by which commands these runs were made, as markup."""
    days = sorted({run.started[:10] for run in runs if run.started})
    when = f"Runs of {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else "Runs"
    commits = sorted({(run.about["git_sha"] or "unknown")[:7] for run in runs})
    devices = sorted({run.about["device"] for run in runs})
    commands = Counter(command_of(run) for run in runs if run.about["argv"])
    items = "".join(
        f"<li><code>{escape(text)}</code>{f' ({n} runs)' if n > 1 else ''}</li>"
        for text, n in commands.most_common(MOST_COMMANDS)
    )
    more = len(commands) - MOST_COMMANDS
    rest = f"<li>and {more} further commands: each run's run.json has its own</li>"
    plural = "s" if len(commits) > 1 else ""
    return (
        f"<p>{when}, commit{plural} {escape(', '.join(commits))}, {escape(', '.join(devices))}."
        f"{' Made by:' if items else ''}</p>"
        + (f"<ul>{items}{rest if more > 0 else ''}</ul>" if items else "")
    )


def command_of(run: StoredRun) -> str:
    """The command line of a run, with the program's name in place of its path."""
    program, *words = map(str, run.about["argv"])
    return shlex.join([PurePath(program).name, *words])
