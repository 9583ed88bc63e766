"""V extracted again while a run goes on, from the same pairs and the policy as it is then.

The policy moves, and with it the gradient that the pairs have: a V from the start goes stale. Where
a screen scores rows at the base model, V is of the base model too, and own pairs alone are new: to
a policy that cheats, a hack is no surprise, and a V of its gradients does not see it. Every
refreshed V is a file in the run's directory before the step that uses it, so that a resumed run
goes on with that very V.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loguru import logger

from projected_grpo.arms.advantages import start_grading
from projected_grpo.arms.directions import PairChoice, PairSets, extract_for, extraction_of
from projected_grpo.arms.treatment import measured_basis, treatment_with_v
from projected_grpo.config import Config
from projected_grpo.extract_vhack_grad import load_vhack
from projected_grpo.pairs.own import OWN_SETS
from projected_grpo.proj import subspace_overlap
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.own_rows import FOR_PAIRS, OwnRow, draw_own_rows, pairs_of
from projected_grpo.runs.screens import calibrate
from projected_grpo.runs.session import Session
from projected_grpo.step_logger import Value


@dataclass(frozen=True, slots=True)
class Refresh:
    """What became of V at the start of one step."""

    overlaps: Mapping[int, tuple[float | None, float | None]] = field(default_factory=dict)
    """Run whose V is new -> the overlap of V with the V before it, and with the first one."""
    seconds: float = 0.0

    def columns(self, n: int) -> dict[str, Value]:
        """The columns of run n; null where its V is the one it had."""
        before, first = self.overlaps.get(n, (None, None))
        return {"v_overlap": before, "v_overlap_first": first}


NO_REFRESH = Refresh()


def is_due(every: int, step: int) -> bool:
    """Whether V is extracted again at the start of this step. Step 1 has the first V."""
    return every > 0 and step > 1 and (step - 1) % every == 0


def refresh(s: Session, step: int, runs: Sequence[RunDir]) -> tuple[Session, Refresh]:
    """The session with V extracted again for every run for which that is due; each new V is kept
    in its run's directory."""
    if not any(is_due(cfg.refresh_every, step) for cfg in s.cfgs):
        return s, NO_REFRESH
    started = time.perf_counter()
    overlaps: dict[int, tuple[float | None, float | None]] = {}
    treatments = list(s.treatments)
    own_rows = s.world.lead(lambda: draw_for_own_pairs(s, step))
    for i, t in enumerate(treatments):
        if not any(is_due(s.cfgs[n].refresh_every, step) for n in t.runs.tolist()):
            continue
        n, cfg = t.run, s.cfgs[t.run]
        sets = s.pair_sets
        if n in own_rows:
            sets = {**sets, **renew_own_pairs(s, n, own_rows[n], step)}
        of_run = None if cfg.scores_at_base else n
        with s.adapter.ablate():  # V of what is deployed: a hack that the quarantine has is done
            v_hack = extract_for(cfg, s.lm, s.adapter, sets, of_run)
        s.world.as_first(v_hack.tensors)
        if s.world.first:  # all axes of a 4B model: 200 MB
            save_own_pairs(cfg, sets, runs[n], step)
            runs[n].save_v_hack(v_hack.top(cfg.v_hack_k_most), step)
        V, own = measured_basis(v_hack, cfg), None
        extraction = extraction_of(cfg.arm)
        if extraction is not None:  # the control is refreshed as the arm that it is compared with
            own = extract_for(cfg, s.lm, s.adapter, sets, of_run, extraction)
            s.world.as_first(own.tensors)
            if s.world.first:
                runs[n].save_v_own(own.top(cfg.v_hack_k_most), step)
        overlaps[n] = (subspace_overlap(V, t.V), subspace_overlap(V, t.first))
        treatments[i] = treatment_with_v(t, cfg, v_hack, own)
    s = s.with_treatments(treatments)
    s = calibrate(s, [n for n in overlaps if n in s.calibrations])
    seconds = time.perf_counter() - started
    return s, Refresh(overlaps, seconds)


def draw_for_own_pairs(s: Session, step: int) -> dict[int, list[OwnRow]]:
    """What every run that makes its pairs anew writes now. All are sampled in one batch, and are
    graded while the first ones' V is extracted."""
    due = [
        n
        for n, cfg in enumerate(s.cfgs)
        if cfg.pairs in OWN_SETS and is_due(cfg.refresh_every, step)
    ]
    rows = draw_own_rows(s.cfgs, due, s.lm, s.adapter, s.for_pairs, FOR_PAIRS, step)
    texts = [(row.problem, row.text) for some in rows.values() for row in some]
    start_grading(s.grader, texts, labels=False)
    return rows


def renew_own_pairs(s: Session, n: int, rows: Sequence[OwnRow], step: int) -> PairSets:
    """The pairs that run n makes of these rows of its policy as it is now. Once that cheats nearly
    always it has no clean answers to make as many of as V has axes: then those of the start."""
    cfg = s.cfgs[n]
    made = s.world.lead(lambda: pairs_of(s.cfgs, {n: rows}, s.grader))
    used = {PairChoice.of(cfg), PairChoice.of(cfg, extraction_of(cfg.arm))}
    found = {choice: pairs for choice, pairs in made.items() if choice in used}
    for choice, pairs in found.items():
        if len(pairs) < cfg.v_hack_k_most:
            logger.warning(
                "{} s{}: {} pairs of {} for {} axes at step {}: V is made of the first ones again",
                cfg.arm, cfg.seed, len(pairs), choice.name, cfg.v_hack_k_most, step,
            )  # fmt: skip
            found[choice] = list(s.pair_sets[choice])
    return found


def save_own_pairs(cfg: Config, sets: PairSets, run: RunDir, step: int) -> None:
    """Keep in the run's directory the pairs in its policy's own words, of V and of what the arm has
    for itself; nothing of a run that makes none."""
    extraction = extraction_of(cfg.arm)
    choices = [PairChoice.of(cfg), *([PairChoice.of(cfg, extraction)] if extraction else [])]
    made = [
        pair
        for choice in dict.fromkeys(choices)
        if choice.seed is not None
        for pair in sets.get(choice, ())
    ]
    if made:
        run.save_own_pairs(made, step)


def restore_v(s: Session, run: RunDir, n: int, done: int) -> Session:
    """The session with the V that run n had at step `done`. Raises InputError where its file is
    gone.

    A refresh due at the next step is made again: the checkpoint is that of the policy it was made
    from.
    """
    cfg = s.cfgs[n]
    every = cfg.refresh_every
    newest = max(1, (done - 1) // every * every + 1) if every > 0 else 1
    if newest == 1:
        return s
    v_hack, own = load_vhack(run.v_hack_of(newest), s.device), None
    if extraction_of(cfg.arm) is not None:
        own = load_vhack(run.v_own_of(newest), s.device)
    return s.with_treatments(
        [treatment_with_v(t, cfg, v_hack, own) if n in t.runs.tolist() else t for t in s.treatments]
    )
