"""The page of a report: one HTML file that needs no network and runs none of what it shows.

Completions are untrusted text. They are embedded as JSON without a `<`, split into tokens here, and
put on the page as text; the page's policy admits no script or style but these two, by their hash,
no address of any kind, and no markup made from text (Trusted Types).
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from pygments.lexers import PythonLexer
from pygments.token import Token

from projected_grpo.report.page.opening import Opening, opening_markup
from projected_grpo.report.results import ONSET
from projected_grpo.report.rollouts import RolloutSample
from projected_grpo.report.tables import SEEDS, Table
from projected_grpo.report.tasks import RolloutTask, task_key
from projected_grpo.step_logger import RATE_WINDOW

PARTS = Path(__file__).parent
TOKEN_CLASSES = {
    Token.Keyword: "k",
    Token.Operator.Word: "k",
    Token.Literal.String: "s",
    Token.Literal.Number: "m",
    Token.Comment: "c",
    Token.Name.Function: "f",
    Token.Name.Class: "f",
    Token.Name.Builtin: "b",
}
"""What the page has a colour for."""
DIGITS = 4
FEW_WARNINGS = 2
"""More are folded, so that the findings stay on the first screen."""
MOST_HIGHLIGHTED = 10_000
"""Of a program that is highlighted; blank lines can take the lexer time in their square."""
_FENCE = re.compile(r"(^[ ]{0,3}```.*\n?)", re.MULTILINE)
_PYTHON = PythonLexer()


@dataclass(frozen=True)
class Drawing:
    """A figure as the page shows it."""

    caption: str
    wide: str
    """SVG."""
    narrow: str
    """The same for a telephone; empty: it is narrow itself."""


@dataclass(frozen=True)
class Chapter:
    """An experiment as the page shows it."""

    name: str
    anchor: str
    about: str
    figures: Sequence[Drawing]


@dataclass(frozen=True)
class BrowsedRun:
    """A run as the browser of rollouts shows it."""

    run: str
    """Its directory."""
    name: str
    """Arm and seed."""
    sample: RolloutSample
    strong: Mapping[str, float]
    """Column of token pulls -> |pull| that has the strongest colour."""
    tasks: Mapping[str, RolloutTask]
    """`task_key` of a row -> what it answers."""
    no_tasks: str
    """Why there are none; empty where there are."""


def render_page(
    openings: Sequence[Opening],
    chapters: Sequence[Chapter],
    tables: Mapping[str, Table],
    notes: Sequence[str],
    missing: Sequence[str],
    browsed: Sequence[BrowsedRun],
) -> str:
    """The whole page; `notes` stand below the table of arms, `missing` says what is not in it."""
    style, script = _part("page.css"), _part("page.js") + _part("rollouts.js")
    shown = sum(len(group) for run in browsed for group in run.sample.groups)
    total = sum(run.sample.rows for run in browsed)
    one = len(openings) == 1
    return Template(_part("page.html")).substitute(
        policy=escape(
            f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
            "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; "
            "trusted-types 'none'"
        ),
        style=style,
        script=script,
        count=f"{len(browsed)} run{'s' * (len(browsed) != 1)}",
        window=RATE_WINDOW,
        onset=ONSET,
        links=" ".join(f'<a href="#{c.anchor}">Figures: {escape(c.name)}</a>' for c in chapters),
        missing=_missing(missing),
        openings="\n".join(map(opening_markup, openings)),
        runs_table=_scrolled(tables["runs"], "Runs", one=False),
        arms_table=_scrolled(tables["arms"], "Arms", one=one),
        against_table=_scrolled(
            tables["against_vanilla"],
            "Against vanilla",
            one=one,
            empty="No arm has a vanilla run of its seed and settings beside it.",
        ),
        controls_table=_scrolled(
            tables["against_controls"],
            "Against controls",
            one=one,
            empty="No arm has a control of its seed and settings beside it.",
        ),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in notes),
        alignment_table=_scrolled(
            tables["alignment"],
            "Alignment",
            one=one,
            empty="No run has the alignment of both teacher and student rows in one step.",
        ),
        flavours_table=_scrolled(tables["flavours"], "Flavours", one=one),
        chapters="\n".join(map(_chapter, chapters)),
        sampled=(
            f"Here are {shown:,} of the {total:,} rollouts: of each run whole groups, evenly "
            "spread over its training, the first and the last among them (report --rollouts sets "
            "how many rows a run has here). All of them are in the runs' rollouts.jsonl."
        ),
        data=_embedded(_data(browsed)),
    )


def highlighted(completion: str) -> list[list[str]]:
    """[family or "", text] of a completion, in order; between fences it is read as Python,
    where it is not overlong. The texts together are the completion."""
    found: list[list[str]] = []

    def add(family: str, text: str) -> None:
        if found and (found[-1][0] == family or not text.strip()):
            found[-1][1] += text
        elif text:
            found.append([family, text])

    for number, part in enumerate(_FENCE.split(completion)):
        is_program = number % 4 == 2  # text, fence, program, fence, text ...
        if is_program and len(part) <= MOST_HIGHLIGHTED:
            for _, kind, text in _PYTHON.get_tokens_unprocessed(part):
                add(next((f for parent, f in TOKEN_CLASSES.items() if kind in parent), ""), text)
        else:
            add("", part)
    return found


def inline(svg: str, number: int) -> str:
    """A drawing of matplotlib's as part of a page whose policy admits no style attributes: these
    become attributes of their own, and ids differ from those of the page's other drawings."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>d{number}-", svg)
    svg = re.sub(r' style="([^"]*)"', lambda found: _attributes(found[1]), svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" stroke-linejoin="round" ', 1)


def _attributes(style: str) -> str:
    pairs = (part.split(":", 1) for part in style.split(";") if part.strip())
    return "".join(f' {name.strip()}="{value.strip()}"' for name, value in pairs)


def figure_markup(name: str, drawing: Drawing) -> str:
    """A figure with its caption; of a wide and a narrow drawing the one is seen that fits."""
    label = f'role="img" aria-label="{escape(f"{name}: {drawing.caption}")}"'
    wide = " wide" if drawing.narrow else ""
    drawn = f'<div class="drawing{wide}" {label}>{drawing.wide}</div>'
    if drawing.narrow:
        drawn += f'<div class="drawing narrow" {label}>{drawing.narrow}</div>'
    return f"<figure>{drawn}<figcaption>{escape(drawing.caption)}</figcaption></figure>"


def _chapter(chapter: Chapter) -> str:
    drawn = "\n".join(figure_markup(chapter.name, drawing) for drawing in chapter.figures)
    return (
        f'<section id="{chapter.anchor}"><h2>Figures: {escape(chapter.name)}</h2>'
        f'<p class="note">{escape(chapter.about)}</p>{drawn or "<p>No run has a step yet.</p>"}'
        "</section>"
    )


def _missing(sentences: Sequence[str]) -> str:
    """What the report lacks, in a box that is open where it is short."""
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    number = "1 warning" if len(sentences) == 1 else f"{len(sentences)} warnings"
    return (
        f'<details class="missing"{" open" if len(sentences) <= FEW_WARNINGS else ""}>'
        f"<summary>{number}: what is not in this report, or not whole</summary><ul>{items}</ul>"
        "</details>"
    )


def numbers_first(table: Table) -> list[str]:
    """The headers as the page has them: names, then estimates, then what these rest on, which a
    telephone need not show."""
    others = [name for name in table.headers if name not in table.estimators]
    lead = others.index(SEEDS) if SEEDS in others else len(others)
    estimates = [name for name in table.headers if name in table.estimators]
    return [*others[:lead], *estimates, *others[lead:]]


def _scrolled(table: Table, label: str, *, one: bool, empty: str = "") -> str:
    """A table in a box that scrolls; where there is but one experiment, its column is left out."""
    if empty and not table.body:
        return f"<p>{empty}</p>"
    names = [name for name in numbers_first(table) if not (one and name == "experiment")]
    places = [table.headers.index(name) for name in names]
    shown = replace(table, headers=names, body=[[row[i] for i in places] for row in table.body])
    return (
        f'<div class="table"><div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'{shown.text("html")}</div><p class="more" aria-hidden="true" hidden></p></div>'
    )  # tabulate's html escapes


def _data(browsed: Sequence[BrowsedRun]) -> dict[str, Any]:
    """What the scripts read. Runs of one seed answer the same problems: each task is there once."""
    tasks: dict[RolloutTask, int] = {}

    def of(run: BrowsedRun, row: Mapping[str, Any]) -> dict[str, Any]:
        task = run.tasks.get(task_key(row))
        number = None if task is None else tasks.setdefault(task, len(tasks))
        return {**_row(row), "task": number}

    runs = [
        {"run": run.run, "name": run.name, "pulls": run.strong, "fault": run.no_tasks}
        | {"groups": [[of(run, row) for row in group] for group in run.sample.groups]}
        for run in browsed
    ]
    return {"runs": runs, "tasks": [asdict(task) for task in tasks]}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: _short(value) for name, value in row.items() if name != "completion"}
    return {**kept, "tokens": highlighted(row["completion"])}


def _short(value: object) -> object:
    """A number with few digits; None for NaN and infinity, which JSON has not."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _embedded(value: object) -> str:
    """JSON that no parser of HTML takes for markup, whatever its strings hold."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
