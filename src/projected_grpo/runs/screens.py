"""Screens in a run: calibrated at its start and with every new V, applied to the rows of a step."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from loguru import logger

from projected_grpo.arms.directions import PairChoice, PairSets
from projected_grpo.arms.rows import Row
from projected_grpo.arms.screening import (
    SCREENS,
    Calibration,
    TextDetector,
    calibrated_runs,
    detector_of_hacks,
    flag,
    flag_by_text,
    highest,
    measure_rows,
    scores_of,
    screen_directions,
    screened_runs,
    threshold_at,
    threshold_of_count,
    threshold_of_share,
    uses_channel,
)
from projected_grpo.arms.token_scores import SCORES, TokenValues
from projected_grpo.arms.yoked import leaders
from projected_grpo.config import Config
from projected_grpo.env.errors import InputError
from projected_grpo.runs.session import Session
from projected_grpo.step_logger import whole_rows


def text_detector(cfg: Config, sets: PairSets) -> TextDetector:
    """What flags rows by their text: as a rival that knows what V knows, the hacks in the pairs
    that V is made of; or any use of the flaw."""
    if cfg.screen_score == "channel":
        return uses_channel
    choice = PairChoice.of(cfg)
    pairs = sets[choice] if choice in sets else choice.load()
    return detector_of_hacks({(p.mode, p.flavour) for p in pairs if p.flavour is not None})


def calibrate_all(s: Session) -> Session:
    """The session with a threshold for every screen that needs one; while its runs are still the
    base model."""
    wanted = calibrated_runs(s.cfgs)
    start = {n: Calibration(0.0, [(row.prompt, row.ids) for row in s.own_rows[n]]) for n in wanted}
    by_text = {
        n: text_detector(s.cfgs[n], s.pair_sets)
        for n in screened_runs(s.cfgs)
        if SCORES[s.cfgs[n].screen_score].of == "text"
    }
    return calibrate(replace(s, calibrations=start, text_detectors=by_text), wanted)


def calibrate(s: Session, runs: Collection[int]) -> Session:
    """The session with new thresholds for these runs: the lowest that flags at most `screen_fpr` of
    what the untrained policy wrote, scored along what their arms remove now."""
    directions = screen_directions(s.treatments, len(s.cfgs))
    found = dict(s.calibrations)
    for n in runs:
        cfg, texts = s.cfgs[n], s.calibrations[n].texts
        values = measure_rows(s.lm, s.adapter, texts, [n] * len(texts), s.cfgs, directions)
        tokens = SCREENS[cfg.screen].tokens
        scores = scores_of(values, SCORES[cfg.screen_score], tokens=tokens)
        threshold = s.world.gather(threshold_at(scores, cfg.screen_fpr))[0]  # rank 0's
        found[n] = Calibration(threshold, texts)
        logger.info(
            "screen   {} s{}: threshold {:.3g} by {} rows of the untrained policy",
            cfg.arm, cfg.seed, threshold, len(texts),
        )  # fmt: skip
    return replace(s, calibrations=found)


def restore_thresholds(s: Session, steps_file: Path, n: int, done: int) -> Session:
    """The session with the threshold that run n had at step `done`; one that a refresh is due to
    replace comes with that. Raises InputError where the row of that step has none."""
    if n not in s.calibrations or done == 0:
        return s
    (was,) = [row["screen_threshold"] for row in whole_rows(steps_file) if row["step"] == done]
    if was is None:
        raise InputError(f"{steps_file} holds no threshold of the screen at step {done}")
    found = {**s.calibrations, n: Calibration(was, s.calibrations[n].texts)}
    return replace(s, calibrations=found)


def screen_rows(s: Session, step: int, groups: list[list[Row]]) -> dict[int, float]:
    """Let every run's screen flag its rows, before anything is learned from them; returns the
    thresholds of the runs that have one by then.

    Costs a forward and a backward of those rows, or a forward alone where no V is needed.
    """
    acting = screened_runs(s.cfgs, step)
    every = [row for group in groups for row in group if row.run in acting]
    for n in [n for n in acting if n in s.text_detectors]:
        flag_by_text([r for r in every if r.run == n], s.text_detectors[n])
    acting = [n for n in acting if n not in s.text_detectors]
    rows = [row for row in every if row.run in acting]
    texts, runs = [(row.prompt, row.ids) for row in rows], [row.run for row in rows]
    directions = screen_directions(s.treatments, len(s.cfgs)) if acting else {}
    values = measure_rows(s.lm, s.adapter, texts, runs, s.cfgs, directions)
    found = {n: calibration.threshold for n, calibration in s.calibrations.items()}
    follows = leaders(s.cfgs)
    for n in sorted(acting, key=lambda n: n in follows):  # those that are followed come first
        cfg, some = s.cfgs[n], [i for i, run in enumerate(runs) if run == n]
        mine = [values[i] for i in some]
        if n in follows:
            count = sum(row.flagged for row in rows if row.run == follows[n])
            found[n] = flag_as_many(s, cfg, [rows[i] for i in some], mine, count)
            continue
        if cfg.screen_share:
            score, tokens = SCORES[cfg.screen_score], SCREENS[cfg.screen].tokens
            everywhere = s.world.gather(scores_of(mine, score, tokens=tokens))
            found[n] = threshold_of_share(np.concatenate(everywhere), cfg.screen_share)
        flag([rows[i] for i in some], mine, cfg, found[n])
    return found


def flag_as_many(
    s: Session, cfg: Config, rows: Sequence[Row], values: Sequence[TokenValues], count: int
) -> float:
    """Flag as many of a yoked run's rows in all processes as were flagged in all of them of the run
    that it follows, of which `count` here; returns the threshold that is nearest to that."""
    parts = s.world.gather(scores_of(values, SCORES[cfg.screen_score], tokens=False))
    everywhere = np.concatenate(parts)
    wanted = min(sum(s.world.gather(count)), len(everywhere))
    threshold = threshold_of_count(everywhere, wanted)
    flag(rows, values, cfg, threshold)
    first = sum(map(len, parts[: s.world.rank]))
    chosen = highest(everywhere, wanted)[first : first + len(rows)]
    for row, flagged in zip(rows, chosen.tolist(), strict=True):
        row.flagged = flagged
    return threshold
