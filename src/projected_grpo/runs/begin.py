"""How runs begin, or begin again where they were stopped: their settings, directories and state."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial

from projected_grpo.arms.arms import require_arms
from projected_grpo.config import Config
from projected_grpo.extract_vhack_grad import VHack
from projected_grpo.runs.directory import RunDir, resumed_config
from projected_grpo.runs.distributed import World
from projected_grpo.runs.refresh import restore_v, save_own_pairs
from projected_grpo.runs.screens import restore_thresholds
from projected_grpo.runs.session import Session


def open_runs(
    cfgs: Sequence[Config], named: Collection[str], world: World, stack: ExitStack
) -> tuple[Sequence[Config], list[RunDir]]:
    """The settings and the directory of the run that is resumed, locked until `stack` ends; or the
    settings given, and no directory yet.

    named: the settings that the command line gave. Raises ConfigError or InputError where these
    cannot be begun or resumed.
    """
    runs: list[RunDir] = []
    if cfgs[0].resume is not None:
        (cfg,) = cfgs  # a pack is resumed run by run (config.py)
        run = RunDir.open(cfgs[0].resume)
        if world.first:
            stack.enter_context(run.locked())
            run.require_idle()
        cfgs, runs = [resumed_config(cfg, run, named)], [run]
    elif world.first:
        RunDir.require_writable(cfgs[0].out_dir)
    for cfg in cfgs:
        require_arms(cfg)
    return cfgs, runs


def restore(s: Session, run: RunDir) -> tuple[Session, int, int]:
    """The session as of the run's last checkpoint, its step, and the tokens seen until then."""
    with s.world.fail_together():
        run.require_data(s.data_digest(0))
        done, num_tokens = run.load_checkpoint(
            s.adapter, s.optimizer, s.quarantine, s.learned_axes, cut=s.world.first
        )
        s = restore_thresholds(restore_v(s, run, done), run.steps, done)
    s.world.require_same(step=str(done))
    if s.world.first:
        run.note_resume(done, s.device, s.lm.commit)
    return s, done, num_tokens


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
