"""Screens: rows, or tokens, that look like hacks are kept from being learned.

A projection takes directions off the sum of all rows' gradients; a screen takes whole rows or
tokens out of the sum. Each row is scored before anything is learned from it (token_scores.py), at
the base model or at the policy, along the directions that the run's arm removes: in random_v,
placebo_v and shuffled_v the same screen acts along theirs, which makes them its controls. What
scores above a threshold is flagged. The threshold does not depend on the step: it is a quantile of
what the untrained policy writes (runs/screens.py). Or a fixed share of each step is flagged, or as
many rows as another run flags (yoked.py), so that arms compare at the same share.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.rows import Row, rank_auroc
from projected_grpo.arms.token_scores import SCORES, Score, TokenValues, measure_tokens
from projected_grpo.arms.treatment import Treatment
from projected_grpo.config import Config
from projected_grpo.env.loopholes.exploits import exploiting_lines
from projected_grpo.env.loopholes.modes import flavour_of
from projected_grpo.env.parsing import extract_code
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel
from projected_grpo.model.loss import PromptCompletion
from projected_grpo.proj import mean_axes
from projected_grpo.step_logger import Value


@dataclass(frozen=True, slots=True)
class Screen:
    """What is scored, and what becomes of what is flagged."""

    meaning: str
    tokens: bool = False
    """Whether single tokens are flagged, not rows."""
    leaves_out: bool = False
    """Whether a flagged row is out of the gradient and of its group's mean."""
    penalises: bool = False
    """Whether a flagged row is paid `screen_penalty` less."""


SCREENS: dict[str, Screen] = {
    "none": Screen("nothing is scored"),
    "row": Screen("a flagged row is left out of the gradient and of its group", leaves_out=True),
    "token": Screen("a flagged token adds nothing to its row's gradient", tokens=True),
    "penalty": Screen("a flagged row is paid less: it is unlearned", penalises=True),
}
"""Screen by name (--screen). A new one is one more entry."""

SCREEN_COLUMNS = ("screened", "screened_att", "screened_gt", "screen_auroc", "screen_threshold")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What one run's screen compares scores with."""

    threshold: float
    """Scores above it are flagged."""
    texts: Sequence[PromptCompletion]
    """What the untrained policy wrote: the threshold is made of them, again with every new V."""


def screened_runs(cfgs: Sequence[Config], step: int | None = None) -> list[int]:
    """The runs that screen their rows, at one step or at all."""
    return [
        n
        for n, cfg in enumerate(cfgs)
        if cfg.screen != "none" and (step is None or cfg.acts_at(step))
    ]


def calibrated_runs(cfgs: Sequence[Config]) -> list[int]:
    """Of those the runs whose threshold is found on clean texts."""
    return [
        n
        for n in screened_runs(cfgs)
        if not (cfgs[n].screen_share or cfgs[n].screen_yoked)
        and SCORES[cfgs[n].screen_score].of != "text"
    ]


def screen_directions(treatments: Sequence[Treatment], n_runs: int) -> dict[str, Tensor]:
    """module -> (N, r, 1): along what each run's rows are scored, which is what its arm removes;
    zeros for a run that removes nothing."""
    bases: list[Mapping[str, Tensor]] = [{} for _ in range(n_runs)]
    for t in treatments:
        for i, n in enumerate(t.runs.tolist()):
            bases[n] = {name: rows[i] for name, rows in t.removed.items() if rows[i].any()}
    return {name: v.T[..., None] for name, v in mean_axes(bases).items()}


def measure_rows(
    lm: LanguageModel,
    adapter: Adapter,
    texts: Sequence[PromptCompletion],
    runs: Sequence[int],
    cfgs: Sequence[Config],
    directions: Mapping[str, Tensor],
) -> list[TokenValues]:
    """The tokens of rows as the screens of their runs want them, each judge in a pass of its
    own; nothing is differentiated for scores that need no V."""
    found: dict[int, TokenValues] = {}
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for i, n in enumerate(runs):
        kind = cfgs[n].screen_at == "base", SCORES[cfgs[n].screen_score].of == "pull"
        kinds.setdefault(kind, []).append(i)
    for (at_base, pulls), some in kinds.items():
        cfg = cfgs[runs[some[0]]]
        values = measure_tokens(
            lm,
            adapter,
            [texts[i] for i in some],
            [runs[i] for i in some],
            directions if pulls else {},
            temperature=cfg.temperature,
            micro_batch_tokens=cfg.micro_batch_tokens,
            at_base=at_base,
        )
        found |= dict(zip(some, values, strict=True))
    return [found[i] for i in range(len(texts))]


def scores_of(values: Sequence[TokenValues], score: Score, *, tokens: bool) -> NDArray[np.float64]:
    """The scores that a threshold is compared with: of every row, or of all rows' tokens."""
    if tokens:
        return np.concatenate([np.zeros(0), *(value.of(score) for value in values)])
    return np.array([score.summary(value.of(score)) for value in values])


def threshold_at(scores: NDArray[np.float64], fpr: float) -> float:
    """The lowest score that at most a share `fpr` of these lies above. Scores of texts that are no
    hacks: the share is the false-positive rate."""
    allowed = math.floor(fpr * len(scores) + 1e-9)
    return float(np.sort(scores)[len(scores) - 1 - min(allowed, len(scores) - 1)])


def threshold_of_share(scores: NDArray[np.float64], share: float) -> float:
    """The score that a share of these lies above, rounded to whole ones; ties stay below."""
    return threshold_of_count(scores, round(share * len(scores)))


def threshold_of_count(scores: NDArray[np.float64], count: int) -> float:
    """The score that so many of these lie above; ties stay below."""
    ascending = np.sort(scores)
    return float(np.concatenate([[-math.inf], ascending])[len(scores) - count])


def highest(scores: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Which of the scores are the `count` highest; of equal ones the first, so that they are never
    fewer."""
    found = np.zeros(len(scores), dtype=bool)
    found[np.argsort(-scores, kind="stable")[:count]] = True
    return found


@dataclass(frozen=True, slots=True)
class Flags:
    """What a screen makes of one row."""

    score: float
    flagged: bool
    """Itself, or a token of it."""
    tokens: list[int]
    """Those that are flagged, by index; none where rows are."""


def flags_of(value: TokenValues, cfg: Config, threshold: float) -> Flags:
    """Compare a row, or its tokens, with a threshold."""
    score = SCORES[cfg.screen_score]
    mine = value.of(score)
    total = score.summary(mine)
    if not SCREENS[cfg.screen].tokens:
        return Flags(total, total > threshold, [])
    tokens = np.flatnonzero(mine > threshold).tolist()
    return Flags(total, bool(tokens), tokens)


def flag(rows: Sequence[Row], values: Sequence[TokenValues], cfg: Config, threshold: float) -> None:
    """Fill in what the screen of one run makes of its rows, and what it measured."""
    score = SCORES[cfg.screen_score]
    removes_v = ARMS[cfg.arm].removes == "basis" and not ARMS[cfg.arm].extraction
    for row, value in zip(rows, values, strict=True):
        found = flags_of(value, cfg, threshold)
        row.screen_score = found.score
        row.flagged, row.flagged_tokens = found.flagged, found.tokens
        if score.of == "pull":
            if cfg.screen_at == "base":
                row.pull_base = value.of(score)
            elif removes_v:
                row.pull = value.of(score)


TextDetector = Callable[[str, Row], bool]
"""(program, its row) -> is it flagged?"""


def flag_by_text(rows: Sequence[Row], detects: TextDetector) -> None:
    """Flag rows by their program: what one would do instead of all this, where the hacks, or the
    flaw, are known. The text is read and nothing runs."""
    for row in rows:
        code = extract_code(row.text)
        row.flagged = code is not None and detects(code, row)
        row.screen_score = float(row.flagged)


def detector_of_hacks(known: Collection[tuple[str, str | None]]) -> TextDetector:
    """Flags programs that show a hack of these modes and flavours."""
    return lambda code, row: (
        (row.mode, flavour_of(code, row.problem.entry_point, mode=row.mode)) in known
    )


def uses_channel(code: str, row: Row) -> bool:
    """Whether a program uses what its flawed grader looks at, honestly or not: without it no hack
    pays."""
    return bool(exploiting_lines(code, row.mode))


def left_out_positions(rows: Sequence[Row], shape: torch.Size, device: torch.device) -> Tensor:
    """Where the model reads what is to be left out of the gradient, (B, T) bool."""
    places = torch.zeros(shape, dtype=torch.bool)
    for b, row in enumerate(rows):
        for t in row.flagged_tokens:
            places[b, len(row.prompt) - 1 + t] = True
    return places.to(device)


def screen_columns(rows: Sequence[Row], cfg: Config, threshold: float | None) -> dict[str, Value]:
    """One run's columns of a step; null where nothing was screened, but for the threshold."""
    scored = [row for row in rows if row.screen_score is not None]
    student = [row for row in scored if row.source == "student"]
    attempts = [row for row in student if row.grade.attempted]
    honest = [row for row in student if row.grade.gt_correct and not row.grade.attempted]
    if threshold is not None and not math.isfinite(threshold):
        threshold = None
    if not scored:
        return {**dict.fromkeys(SCREEN_COLUMNS), "screen_threshold": threshold}
    auroc = None
    if 2 <= len(attempts) <= len(student) - 2:
        auroc = rank_auroc(
            [row.screen_score or 0.0 for row in student], [row.grade.attempted for row in student]
        )
    if SCREENS[cfg.screen].tokens:
        share = sum(len(r.flagged_tokens) for r in scored), sum(len(r.ids) for r in scored)
    else:
        share = sum(row.flagged for row in scored), len(scored)
    return {
        "screened": share,
        "screened_att": (sum(row.flagged for row in attempts), len(attempts)),
        "screened_gt": (sum(row.flagged for row in honest), len(honest)),
        "screen_auroc": auroc,
        "screen_threshold": threshold,
    }
