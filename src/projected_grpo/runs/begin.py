"""How runs begin, or begin again where they were stopped: their settings, directories and state."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial

from projected_grpo.arms.arms import require_arms
from projected_grpo.arms.optimizer import stack_states
from projected_grpo.arms.own_reward import describe_reward, load_reward
from projected_grpo.config import Config, ConfigError
from projected_grpo.env.errors import InputError
from projected_grpo.extract_vhack_grad import VHack
from projected_grpo.runs.checkpoints import Checkpoint
from projected_grpo.runs.directory import RunDir, resumed_config
from projected_grpo.runs.distributed import World
from projected_grpo.runs.files import require_writable
from projected_grpo.runs.refresh import restore_v, save_own_pairs
from projected_grpo.runs.screens import restore_thresholds
from projected_grpo.runs.session import Session


def open_runs(
    cfgs: Sequence[Config], named: Collection[str], world: World, stack: ExitStack
) -> tuple[Sequence[Config], list[RunDir]]:
    """The settings and the directories of the runs that are resumed, locked until `stack` ends; or
    the settings given, and no directory yet.

    named: the settings that the command line gave. Raises ConfigError or InputError where these
    cannot be begun or resumed.
    """
    runs: list[RunDir] = []
    resumed = [cfg.resume for cfg in cfgs if cfg.resume is not None]
    if 0 < len(resumed) < len(cfgs):
        raise ConfigError(
            f"{len(resumed)} of {len(cfgs)} runs are to be resumed: a pack goes on as a whole, or "
            "begins as a whole"
        )
    if resumed:
        runs = [RunDir.open(path) for path in resumed]
        for run in runs if world.first else ():
            stack.enter_context(run.locked())
            run.require_idle()
        cfgs = [resumed_config(cfg, run, named) for cfg, run in zip(cfgs, runs, strict=True)]
        _require_one_base(cfgs, runs)
    elif world.first:
        require_writable(cfgs[0].out_dir)
    for cfg in cfgs:
        require_arms(cfg)
    load_reward(cfgs[0].reward)
    return cfgs, runs


def _require_one_base(cfgs: Sequence[Config], runs: Sequence[RunDir]) -> None:
    """Raises InputError where the runs' base models were loaded at several commits of the hub."""
    commits = {run.base_revision(cfg): run for cfg, run in zip(cfgs, runs, strict=True)}
    if len(commits) > 1:
        (one, a), (other, b) = list(commits.items())[:2]
        raise InputError(
            f"{a.path} has its base model at revision {one[:12]}, {b.path} at {other[:12]}: "
            "resume them one by one"
        )


def restore(s: Session, runs: Sequence[RunDir], stack: ExitStack) -> tuple[Session, int, list[int]]:
    """The session as of the newest checkpoint that all the runs have, its step, and the tokens that
    each run had seen by then. Runs that are extended have their new settings from here on, under a
    lock until `stack` ends."""
    with s.world.fail_together():
        for n, run in enumerate(runs):
            run.require_data(s.data_digests[n])
            run.require_reward(describe_reward(s.cfg.reward))
        found = _newest_in_common(s, runs)
        _load_checkpoints(s, found)
        done = found[0].step if found else 0
        for n, run in enumerate(runs):
            if s.world.first:
                run.cut_rows(found[n] if found else None)
            s = restore_thresholds(restore_v(s, run, n, done), run.steps, n, done)
    s.world.require_same(step=str(done))
    for run in runs if s.world.first else ():
        run.note_resume(done, s.device, s.lm.commit)
        if s.cfg.steps != run.stored_config().steps:
            run.extend(s.cfg.steps, stack)
    return s, done, [one.num_tokens for one in found] or [0] * len(runs)


def _needed(s: Session, n: int) -> list[str]:
    """The files that a checkpoint of run n must have."""
    found = ["adapter.safetensors", "optimizer.pt"]
    if s.quarantine is not None and s.quarantine.routed[n]:
        found += ["quarantine.safetensors", "quarantine_optimizer.pt"]
    if s.learned_axes is not None and n in s.learned_axes.runs:
        found += ["running.safetensors"]
    return found


def _newest_in_common(s: Session, runs: Sequence[RunDir]) -> list[Checkpoint]:
    """A checkpoint of each run, all of one step; none where no run has any yet. Raises InputError
    where there is no such step."""
    found = [run.newest_checkpoint(_needed(s, n)) for n, run in enumerate(runs)]
    none = sum(one is None for one in found)
    if 0 < none < len(runs):  # to begin again would take from the others what they have
        raise InputError(
            f"{none} of the {len(runs)} runs have no checkpoint yet, the others have: resume them "
            "one by one"
        )
    step = min(one.step if one else 0 for one in found)
    whole: list[Checkpoint] = []
    for n, (run, one) in enumerate(zip(runs, found, strict=True)):
        if one is not None and one.step > step:
            one = run.newest_checkpoint(_needed(s, n), step)
        if one is not None and one.step == step:
            whole.append(one)
    if step and len(whole) < len(runs):
        raise InputError(
            f"{len(runs) - len(whole)} of the {len(runs)} runs have no whole checkpoint of step "
            f"{step}, the newest of another: resume them one by one"
        )
    return whole if step else []


def _load_checkpoints(s: Session, found: Sequence[Checkpoint]) -> None:
    """Put every run's vectors, moments and what it has learned into the session."""
    if not found:
        return
    for n, one in enumerate(found):
        s.adapter.load(one.folder / "adapter.safetensors", n)
    states = {n: one.optimizer_state("optimizer.pt") for n, one in enumerate(found)}
    s.optimizer.load_state_dict(stack_states(states, len(found)))
    if s.quarantine is not None:
        routed = {n: one for n, one in enumerate(found) if s.quarantine.routed[n]}
        for n, one in routed.items():
            s.adapter.load(one.folder / "quarantine.safetensors", n, quarantine=True)
        states = {n: one.optimizer_state("quarantine_optimizer.pt") for n, one in routed.items()}
        s.quarantine.optimizer.load_state_dict(stack_states(states, len(found)))
    if s.learned_axes is not None:
        for n in s.learned_axes.runs:
            s.learned_axes.load(found[n].folder / "running.safetensors", s.device, n)


def make_directories(
    s: Session, v_hack: Sequence[VHack], runs: list[RunDir], stack: ExitStack
) -> None:
    """Make the directory of every run that has none yet, locked until `stack` ends, and append it
    to `runs` at once: where a later one fails, the caller closes those that are there."""
    for n in range(len(runs), len(s.cfgs)):
        prompt, record = s.first_prompt(n), s.origin(n)
        make = partial(RunDir.create, s.cfgs[n], s.device, v_hack[n], prompt, record)
        runs.append(s.world.lead(partial(make, s.own.get(n))))
        if s.world.first:
            stack.enter_context(runs[-1].locked())
            save_own_pairs(s.cfgs[n], s.pair_sets, runs[-1], step=1)
