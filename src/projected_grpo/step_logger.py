"""StepLogger owns the columns of a run: key, header, width, format and meaning stand in one table.

Rows carry raw values (floats in full, fractions as (n, d) tuples) from the loop to steps.jsonl and
to the final table; text is made only when something is printed. docs/metrics.md is written from
COLUMNS.
"""

import json
import math
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

Value = int | float | tuple[int, int] | Mapping[str, int] | None


def number_text(value: Value) -> str:
    """Three significant digits; small values keep them (7e-08), None is a dash."""
    return "-" if value is None else f"{value:.3g}"


def signed_text(value: Value) -> str:
    """Three decimals with their sign; None is a dash."""
    return "-" if value is None else f"{value:+.3f}"


def fraction_text(value: Value) -> str:
    """(n, d) as n/d."""
    return "-" if not isinstance(value, tuple) else f"{value[0]}/{value[1]}"


def percent_text(value: Value) -> str:
    """A share in per cent."""
    return f"{100 * value:.1f}%" if isinstance(value, int | float) else "-"


@dataclass(frozen=True, slots=True)
class Column:
    """One logged quantity. Columns without a header are archived in steps.jsonl but not printed."""

    key: str
    meaning: str
    header: str = ""
    width: int = 7
    text: Callable[[Value], str] = number_text
    legend: str = ""
    """The meaning in a few words, for the line below the headers."""
    when: tuple[str, ...] = ()
    """What a run must have for the column to say anything: teacher (rows), v (is measured), grad or
    update (is projected)."""


COLUMNS: tuple[Column, ...] = (
    Column("step", "Optimizer step, from 1.", "step", 4),
    Column(
        "reward",
        "Mean reward of all rows of the step, as graded: before `penalty` (TRL's name).",
        "rew",
        6,
        legend="mean reward",
    ),
    Column(
        "hack_s",
        "Student rows that passed the foolable grade and fail the oracle.",
        "hack_s",
        6,
        fraction_text,
        "student rows that hack",
    ),
    Column(
        "att_s",
        "Student rows whose loophole pays even with a wrong stub as solution.",
        "att_s",
        6,
        fraction_text,
        "that attempt to",
    ),
    Column(
        "hack_t",
        "Teacher rows that hack.",
        "hack_t",
        6,
        fraction_text,
        "teacher rows that hack",
        ("teacher",),
    ),
    Column(
        "gt_s",
        "Student rows that the oracle finds correct.",
        "gt_s",
        6,
        fraction_text,
        "student rows that are correct",
    ),
    Column(
        "gt_t",
        "Teacher rows that the oracle finds correct.",
        "gt_t",
        6,
        fraction_text,
        when=("teacher",),
    ),
    Column("loss", "Policy loss, KL term included.", "loss", 9),
    Column(
        "grad_norm",
        "Norm of the gradient that AdamW gets, after projection, before clipping.",
        "gn",
        8,
        legend="gradient norm",
    ),
    Column("learning_rate", "Learning rate of this step.", "lr", 8),
    Column(
        "cos_pre_s",
        "Alignment with V of the student rows' gradient.",
        "cos_pre_s",
        9,
        signed_text,
        "student rows' alignment with V",
        ("v", "teacher"),
    ),
    Column(
        "cos_pre_t",
        "Alignment with V of the teacher rows' gradient.",
        "cos_pre_t",
        9,
        signed_text,
        when=("v", "teacher"),
    ),
    Column(
        "cos_pre",
        "Alignment of the whole gradient with V before projection: mean over modules of "
        "sum(V g)/|g|; above 0 is hack-ward.",
        "cos_pre",
        8,
        signed_text,
        "the gradient's alignment with V, above 0 hack-ward",
        ("v",),
    ),
    Column(
        "cos_post",
        "The same after projection; at most 0 after one_sided on V.",
        "cos_post",
        8,
        signed_text,
        "that after the projection",
        ("v", "grad"),
    ),
    Column(
        "hack_auroc",
        "Does the hack score tell the student's hacks from its other rows? AUROC against the "
        "oracle's label, over the step's student rows that have a score; null with fewer than "
        "two of a kind.",
        "auroc",
        6,
        legend="does alignment tell hacks from other rows?",
        when=("v",),
    ),
    Column(
        "cos_null", "Standard deviation of one module's cos_pre for a random V: mean of sqrt(k/r)."
    ),
    Column(
        "cos_update",
        "Alignment with V of the step that the weights took (as a loss gradient).",
        "cos_upd",
        8,
        signed_text,
        "alignment of the step that was taken",
        ("v", "update"),
    ),
    Column("grad_norm_pre", "Norm of the gradient before projection."),
    Column(
        "removed_frac",
        "|removed| / |g| over all modules, of the arm's own projection of the gradient; null where "
        "the gradient is not projected.",
        "removed",
        7,
        percent_text,
        "share of the gradient that the arm removed",
        ("grad",),
    ),
    Column(
        "removed_frac_update",
        "The same for the step that AdamW took; null where the update is not projected.",
        "rem_upd",
        7,
        percent_text,
        "share of AdamW's step that the arm removed",
        ("update",),
    ),
    Column("hackward_frac", "|relu(V g)| / |g| before projection."),
    Column("inside_frac", "|V g| / |g|, of either sign, before projection."),
    Column(
        "inside_null",
        "What `inside_frac` would be for random axes, as many in each module: the root of the sum "
        "of a module's share of |g|^2 times k/r.",
    ),
    Column(
        "inside_frac_update",
        "The same of the step that the weights took: what a projected gradient leaks back through "
        "AdamW's scaling shows here.",
    ),
    Column("inside_frac_delta", "The same of delta_S, all steps so far together."),
    Column("covered_energy", "Share of |g|^2 in modules that have a V."),
    Column(
        "v_overlap",
        "Where V was extracted again at the start of the step (`refresh_every`): mean squared "
        "cosine of its principal angles with the V before it, over modules that both have; 1 is "
        "the same span, k/r chance. Null at other steps.",
    ),
    Column("v_overlap_first", "The same with the run's first V."),
    Column("fmt_s", "Student rows that parse and define Solution with the method."),
    Column("reward_std", "Standard deviation of the step's rewards (TRL's name)."),
    Column(
        "penalty",
        "What the arm takes off the reward before advantages are made (gt_penalty, adv_mod), mean "
        "over all rows; 0 in other arms.",
    ),
    Column(
        "concept_std",
        "Standard deviation of the rows' scores along the direction in hidden states (adv_mod), "
        "cut rows left out, mean over groups; null in other arms.",
    ),
    Column(
        "weight",
        "Mean weight of the rows' gradients (`score_weight`), over rows with an advantage; null "
        "where rows are not weighted. `loss` is that before weights.",
    ),
    Column(
        "screened",
        "Rows that the run's screen flags, of all that it scored (`screen`; of token: tokens); "
        "null where nothing is screened.",
    ),
    Column("screened_att", "Student rows that attempt and are flagged, of all that attempt."),
    Column(
        "screened_gt",
        "Student rows that solve without an attempt and are flagged, of all such: what the screen "
        "takes from honest learning.",
    ),
    Column(
        "screen_auroc",
        "Does the screen's score tell the student rows that attempt from the others? Null with "
        "fewer than two of a kind.",
    ),
    Column("screen_threshold", "Scores above it are flagged, once the arm acts."),
    Column(
        "trust_frac",
        "|taken| / |delta_S|: what `trust` takes of delta_S after the step; null where it takes "
        "nothing.",
    ),
    Column(
        "running_rows",
        "Contrasts of flagged rows that the step added to what the run learns (`running_k`); null "
        "where it does not.",
    ),
    Column(
        "running_captured",
        "Share of those contrasts' energy, all modules, inside what the step removed: learned "
        "before they were seen. Null where there are none.",
    ),
    Column(
        "frac_reward_zero_std",
        "Share of groups without reward variance, after `penalty`, where `reward` and `reward_std` "
        "are before it (TRL's name).",
    ),
    Column("kl", "Mean k3 KL to the base model per student token; null when beta is 0."),
    Column(
        "clip_ratio", "Share of completion tokens whose ratio was clipped; 0 with one step a batch."
    ),
    Column("sampling_logp_diff_max", "Largest |log p| difference between sampler and trainer."),
    Column("completions/mean_length", "Mean tokens of student completions (TRL's name)."),
    Column(
        "completions/clipped_ratio", "Share of student completions cut by max_new (TRL's name)."
    ),
    Column("num_tokens", "Tokens trained on so far, prompts included (TRL's name)."),
    Column("outcomes", "Oracle outcomes of the student rows, counted."),
    Column("flavours", "Flavours of the student rows' attempts, counted."),
    Column("infra_errors", "Rows masked because the grader itself failed."),
    Column("gen", "Seconds spent sampling."),
    Column("t_screen", "Seconds spent scoring rows for screens."),
    Column(
        "t_rew", "Seconds waited for grades, and spent scoring hidden states where the arm does."
    ),
    Column("fb", "Seconds spent in forward and backward passes."),
    Column("t_proj", "Seconds spent in projection, optimizer step and folding."),
    Column("t_refresh", "Seconds the pack spent extracting V again; 0 where it did not."),
    Column("step_time", "Seconds of the whole step (TRL's name)."),
    Column("peak_mem_gib", "Peak memory so far: of the GPU, or resident memory on the CPU."),
)
RATE_WINDOW = 5
"""The last steps that rates are taken over."""
TIMINGS = ("gen", "t_screen", "t_rew", "fb", "t_proj", "t_refresh", "step_time", "peak_mem_gib")
"""Columns that differ between two runs of the same seed; all others repeat."""
_BY_KEY = {column.key: column for column in COLUMNS}


def printed_columns(has: Collection[str]) -> list[Column]:
    """The columns that say something of runs which have these things (`Column.when`)."""
    return [column for column in COLUMNS if column.header and {*column.when} <= {*has}]


ALL_PRINTED = printed_columns(("teacher", "v", "grad", "update"))


def legend(columns: Sequence[Column]) -> list[str]:
    """What the headers mean, in lines of a table's width."""
    said = "; ".join(f"{column.header} {column.legend}" for column in columns if column.legend)
    return textwrap.wrap(f"{said} (docs/metrics.md)", 110)


class StepLogger:
    """Checks, stores and prints rows. `path` is steps.jsonl; `emit` prints one line of those
    `columns`."""

    def __init__(
        self,
        path: Path,
        emit: Callable[[str], object],
        columns: Sequence[Column] = ALL_PRINTED,
    ) -> None:
        self._path = path
        self._emit = emit
        self._streamed = columns

    def header(self) -> None:
        """Print the streamed columns' headers."""
        self._emit(" ".join(column.header.rjust(column.width) for column in self._streamed))

    def step(self, row: Mapping[str, Value]) -> None:
        """Append a row to steps.jsonl, flushed, and print its streamed columns.

        Raises ValueError for a missing or unknown column, and for NaN or infinity in any of them.
        """
        if row.keys() != _BY_KEY.keys():
            odd = sorted(row.keys() ^ _BY_KEY.keys())
            raise ValueError(
                f"a row must have exactly the declared columns; these differ: {', '.join(odd)}"
            )
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"step {row['step']}: {key} is {value}")
        with self._path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")
        self._emit(" ".join(c.text(row[c.key]).rjust(c.width) for c in self._streamed))

    def table(self) -> str:
        """The streamed columns of every stored row, as a pipe table."""
        rows = read_steps(self._path)
        body = [[column.text(row[column.key]) for column in self._streamed] for row in rows]
        return _pipe_table(body, [column.header for column in self._streamed])


class PackLogger:
    """Prints the runs of a pack that advance together: one line for each label, over its seeds."""

    def __init__(
        self,
        labels: Sequence[str],
        emit: Callable[[str], object],
        columns: Sequence[Column] = ALL_PRINTED,
    ) -> None:
        self._labels = list(labels)
        self._emit = emit
        self._width = max(map(len, labels))
        self._streamed = columns

    def header(self) -> None:
        """Print the streamed columns' headers."""
        headers = " ".join(column.header.rjust(column.width) for column in self._streamed)
        self._emit(f"{'arm':{self._width}} {headers}")

    def step(self, rows: Sequence[Mapping[str, Value]]) -> None:
        """Print the step's rows, one a run, in the order of the labels given."""
        for label in dict.fromkeys(self._labels):
            mine = [row for name, row in zip(self._labels, rows, strict=True) if name == label]
            texts = [c.text(mean_over_runs([row[c.key] for row in mine])) for c in self._streamed]
            cells = [text.rjust(c.width) for text, c in zip(texts, self._streamed, strict=True)]
            self._emit(f"{label:{self._width}} {' '.join(cells)}")


def mean_over_runs(values: Sequence[Value]) -> Value:
    """One value for several runs: fractions are added up, numbers averaged; None is left out."""
    fractions = [value for value in values if isinstance(value, tuple)]
    if fractions:
        return (sum(n for n, _ in fractions), sum(d for _, d in fractions))
    numbers = [value for value in values if isinstance(value, int | float)]
    return sum(numbers) / len(numbers) if numbers else None


DAGGER = "†"


def mark_caution(label: str, cautions: Mapping[str, str]) -> str:
    """The label, with a dagger where there is a caution about it."""
    return f"{label} {DAGGER}" if cautions.get(label) else label


def footnote(cautions: Mapping[str, str]) -> str:
    """What the daggers of a table of training rates mean; empty where it has none."""
    reasons = "; ".join(f"{label} {why}" for label, why in cautions.items() if why)
    if not reasons:
        return ""
    return f"{DAGGER} Judge by the evaluation, not by rates in training: {reasons}."


def end_table(
    runs: Sequence[tuple[str, int, Path]],
    window: int = RATE_WINDOW,
    cautions: Mapping[str, str] | None = None,
    columns: Sequence[Column] | None = ALL_PRINTED,
) -> str:
    """What is printed when runs (label, seed, steps.jsonl) have ended.

    One run: these columns, all steps. Several, or without columns: for each, and for each label
    over its seeds, the student rates of the last `window` steps. `cautions` says of labels why
    their rates are not to be compared: they get a dagger.
    """
    below = footnote(cautions or {})
    below = f"\n\n{below}" if below else ""
    if len(runs) == 1 and columns:
        return StepLogger(runs[0][2], print, columns).table() + below
    keys = ("hack_s", "att_s", "gt_s")
    body: list[list[str]] = []
    most = 0
    for label in dict.fromkeys(label for label, _, _ in runs):
        last = {seed: read_steps(path)[-window:] for name, seed, path in runs if name == label}
        most = max(most, *(len(rows) for rows in last.values()))
        every = {str(seed): rows for seed, rows in last.items()}
        every["all"] = [row for rows in last.values() for row in rows]
        for seed, rows in every.items():
            shares = [share(mean_over_runs([row[key] for row in rows])) for key in keys]
            body.append([mark_caution(label, cautions or {}), seed, str(len(rows)), *shares])
    headers = [
        "arm",
        "seed",
        "rows (last step)" if most == 1 else f"rows (last {most} steps)",
        *keys,
    ]
    return _pipe_table(body, headers) + below


def share(value: Value) -> str:
    """(n, d) as a decimal share and its n/d."""
    if not isinstance(value, tuple) or value[1] == 0:
        return "-"
    return f"{value[0] / value[1]:.3f} ({value[0]}/{value[1]})"


def _pipe_table(body: list[list[str]], headers: list[str]) -> str:
    return tabulate(body, headers, tablefmt="pipe", disable_numparse=True, stralign="right")


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The rows of a steps.jsonl, fractions as (n, d) tuples again."""
    return [
        {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        for row in whole_rows(path)
    ]


def whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl file but for a last one without its end: a run that was killed, or is
    still writing. Raises ValueError where another is no JSON object."""
    with path.open(encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            if line.endswith("\n"):
                yield _row(line, number)


def _row(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"row {number} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"row {number} is no JSON object")
    return row


def glossary() -> str:
    """docs/metrics.md: every column and its meaning."""
    body = [[f"`{c.key}`", f"`{c.header}`" if c.header else "", c.meaning] for c in COLUMNS]
    table = tabulate(body, ["key in steps.jsonl", "printed as", "meaning"], tablefmt="pipe")
    return (
        "# Metrics\n\n"
        "Written by `just metrics` from `COLUMNS` in `step_logger.py`; do not edit.\n\n"
        f"{table}\n\nFractions are stored as [n, d]. null: there was nothing to measure.\n"
    )
