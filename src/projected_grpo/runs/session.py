"""What a run needs and does not change while it runs: read, checked and loaded before anything is
written."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from loguru import logger

from projected_grpo import __version__
from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.directions import (
    PairSets,
    concept_directions,
    hack_directions,
    load_pair_sets,
    own_directions,
    require_pairs,
)
from projected_grpo.arms.learned_axes import LearnedAxes, learned_axes_for, require_known_modes
from projected_grpo.arms.optimizer import adamw
from projected_grpo.arms.own_reward import describe_reward
from projected_grpo.arms.prompts import PROMPTS, keep_prompt
from projected_grpo.arms.quarantine import Quarantine, quarantine_for
from projected_grpo.arms.screening import Calibration, TextDetector, calibrated_runs
from projected_grpo.arms.treatment import Treatment, make_treatments, measured_axes
from projected_grpo.arms.yoked import leaders
from projected_grpo.config import PER_RUN, Config, ConfigError
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.problems.dataset import commit_of
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Limits
from projected_grpo.extract_vhack_grad import VHack, load_all
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.checks import require_positions
from projected_grpo.model.load import (
    DTYPES,
    LanguageModel,
    checkpoint_layers,
    load,
    resolve_device,
)
from projected_grpo.runs.adapters import adapter_of, attach_adapter
from projected_grpo.runs.data import (
    data_digests,
    fair_problems,
    problems_digest,
    problems_of_step,
    short_enough,
    under_hints,
    with_teacher,
)
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.distributed import ALONE, World, require_groups
from projected_grpo.runs.files import sha256_of
from projected_grpo.runs.own_rows import (
    FOR_PAIRS,
    FOR_SCREENS,
    OwnRow,
    Questions,
    draw_first_rows,
    own_pair_runs,
    pairs_of,
    questions_for_pairs,
)
from projected_grpo.runs.teacher_pool import Pool


@dataclass(frozen=True, slots=True)
class Session:
    """All that the runs of a pack need and that does not change while they run; where V is
    extracted again, a session with other treatments takes its place."""

    cfgs: list[Config]  # N; equal but for PER_RUN
    lm: LanguageModel
    adapter: Adapter
    optimizer: torch.optim.Optimizer
    quarantine: Quarantine | None  # where an arm routes
    learned_axes: LearnedAxes | None  # where a run learns axes of its own
    problems: list[Problem]  # hinted, short enough, with teacher rows where the run wants them
    prompts: Sequence[Mapping[int, list[int]]]  # of each run: problem id -> token ids
    data_digests: list[str]  # of what the rows of each run are made from
    pool: Pool | None
    grader: Grader
    treatments: list[Treatment]
    along_v: Mapping[str, torch.Tensor]  # module -> (N, r, 1): the measured V, for single tokens
    own: Mapping[int, VHack]  # of those runs whose arm has directions of its own: the first ones
    pair_sets: PairSets  # those that directions are extracted from
    concepts: Mapping[int, torch.Tensor]  # of those runs whose arm scores hidden states
    device: torch.device
    plain_prompts: Mapping[int, list[int]]  # problem id -> token ids, as no arm has changed it
    for_pairs: Sequence[Questions]  # of each run: what its own pairs are answers to
    own_rows: Mapping[int, list[OwnRow]]  # of runs that screen: by the untrained policy
    calibrations: Mapping[int, Calibration] = field(default_factory=dict)  # of runs that screen
    text_detectors: Mapping[int, TextDetector] = field(default_factory=dict)  # of those by text
    digests: Mapping[str, str | None] = field(default_factory=dict)  # of problems and model
    world: World = ALONE

    @property
    def cfg(self) -> Config:
        """The settings that all runs share; not for PER_RUN."""
        return self.cfgs[0]

    def prompt(self, n: int, problem: Problem, step: int) -> list[int]:
        """What run n gives its policy for a problem at a step: as its arm has it, once it acts."""
        prompts = self.prompts[n] if self.cfgs[n].acts_at(step) else self.plain_prompts
        return prompts[problem.id]

    def with_treatments(self, treatments: list[Treatment]) -> Self:
        """The session with other treatments, as where V was extracted again."""
        return replace(self, treatments=treatments, along_v=measured_axes(treatments))

    def first_prompt(self, n: int) -> str:
        """The first prompt of run n as the chat template renders it."""
        cfg = self.cfgs[n]
        return self.lm.render(PROMPTS[ARMS[cfg.arm].prompt](self.first_problem(n).messages, cfg))

    def first_problem(self, n: int) -> Problem:
        """The problem that run n begins with."""
        cfg = self.cfgs[n]
        return problems_of_step(self.problems, cfg.prompts_per_step, cfg.seed, 1)[0]

    def origin(self, n: int) -> dict[str, Any]:
        """What run.json says of the data and the base model of run n."""
        return {
            "data": self.data_digests[n],
            "data_commit": commit_of(self.cfg.problems),
            "model_commit": self.lm.commit,
            **self.digests,
            "enable_thinking": self.lm.enable_thinking,
            "reward": describe_reward(self.cfg.reward),
            "prompt_tokens": len(self.prompts[n][self.first_problem(n).id]),
        }


def require_packable(cfgs: Sequence[Config]) -> None:
    """Raises ConfigError unless the runs share all that runs of one pack must share."""
    if len({(cfg.preset_name, *(vars(cfg)[name] for name in PER_RUN)) for cfg in cfgs}) < len(cfgs):
        raise ConfigError(
            "two runs of the pack have the same settings: name each seed and arm once"
        )
    for cfg in cfgs[1:]:
        for name, value in vars(cfg).items():
            first = vars(cfgs[0])[name]
            if name not in PER_RUN and value != first:
                raise ConfigError(
                    f"runs with {name} = {first} and {name} = {value} cannot advance together: "
                    f"they may differ in {', '.join(PER_RUN)} only"
                )
    leaders(cfgs)


def prepare(
    cfgs: Sequence[Config], stack: ExitStack, resumed: Sequence[RunDir] = (), world: World = ALONE
) -> tuple[Session, list[VHack]]:
    """Read, check and load everything, and the directions that each run measures; those of resumed
    runs are in their directories. Nothing is written: what is refused here leaves no trace."""
    require_packable(cfgs)
    cfg = cfgs[0]
    require_groups(world, cfg)
    world.require_same(settings=cfg.identity(), versions=f"{__version__}, {torch.__version__}")
    torch.set_num_threads(world.threads(cfg.threads))
    with world.fail_together():
        device = world.device(resolve_device(cfg.device))
    make = adapter_of(cfg, len(cfgs))
    plain = fair_problems(cfg.problems, difficulty=cfg.difficulty)
    problems = under_hints(plain, cfg.mode.split(","))
    require_known_modes(cfgs, problems)
    v_files = [cfg.v_hack] * len(cfgs) if cfg.v_hack else []
    if resumed and cfg.measure == "v":
        v_files = [run.v_hack for run in resumed]
    given = load_all(v_files, device)
    pair_sets = load_pair_sets(cfgs, given, v_files, bool(resumed))
    grader = stack.enter_context(grader_of(replace(cfg, workers=world.workers(cfg.workers))))

    lm = _load_model(cfg, resumed, device)
    prompts = {p.id: lm.prompt_ids(p.messages) for p in problems}
    kept, pool = with_teacher(cfg, short_enough(cfg, problems, prompts))
    trained = Questions(kept, prompts)
    paired = own_pair_runs(cfgs, has_v=bool(given), resuming=bool(resumed))
    for_pairs = questions_for_pairs(cfgs, paired, trained, plain, lm.prompt_ids)
    require_positions(lm.model, max(q.longest for q in (trained, *for_pairs)), cfg.max_new)
    some = [prompts[p.id] for p in kept[:4]]
    adapter = world.one_then_all(lambda: attach_adapter(make, lm, len(cfgs), some))
    draw = partial(draw_first_rows, cfgs, lm=lm, adapter=adapter)
    as_trained = [trained] * len(cfgs)  # so that a threshold is of what is screened
    own_rows = world.lead(
        lambda: draw(calibrated_runs(cfgs), questions=as_trained, purpose=FOR_SCREENS)
    )
    made = world.lead(
        lambda: pairs_of(cfgs, draw(paired, questions=for_pairs, purpose=FOR_PAIRS), grader)
    )
    require_pairs(cfgs, made)
    pair_sets |= made
    v_hack = hack_directions(cfgs, lm, adapter, pair_sets, given, v_files, bool(resumed))
    own = own_directions(cfgs, lm, adapter, pair_sets, [run.v_own for run in resumed])
    scored = concept_directions(cfgs, lm, adapter, pair_sets)
    world.as_first([*(t for v in (*v_hack, *own.values()) for t in v.tensors), *scored.values()])
    optimizer = adamw(adapter.trained, cfg)
    found = make_treatments(cfgs, v_hack, own, device)
    asked = _prompts(cfgs, lm, kept, prompts)
    session = Session(
        cfgs=list(cfgs), lm=lm, adapter=adapter, optimizer=optimizer,
        quarantine=quarantine_for(adapter, cfgs), learned_axes=learned_axes_for(cfgs, found),
        problems=kept,
        prompts=asked, pool=pool, grader=grader,
        data_digests=data_digests(kept, asked, pool, cfg.teacher_rows),
        treatments=found, along_v=measured_axes(found), own=own, pair_sets=pair_sets,
        concepts=scored, device=device, plain_prompts=prompts, for_pairs=for_pairs,
        own_rows=own_rows, world=world,
        digests={"problems_sha256": problems_digest(kept, plain),
                 "model_sha256": _file_digest(cfg.model)},
    )  # fmt: skip
    if world.size > 1:
        world.require_same(axes=adapter.fingerprint(), data=session.data_digests[0])
    return session, v_hack


def _load_model(cfg: Config, resumed: Sequence[RunDir], device: torch.device) -> LanguageModel:
    """The base model, at the commit that resumed runs were loaded at."""
    revision = resumed[0].base_revision(cfg) if resumed else cfg.model_revision
    logger.info("loading  {} ({}, {})", cfg.model, cfg.dtype, device)
    lm = load(cfg.model, revision=revision, dtype=DTYPES[cfg.dtype], device=device,
              enable_thinking=cfg.enable_thinking)  # fmt: skip
    if cfg.checkpoint_activations:
        checkpoint_layers(lm.model, True)
    return lm


def _prompts(
    cfgs: Sequence[Config],
    lm: LanguageModel,
    problems: list[Problem],
    plain: dict[int, list[int]],
) -> list[Mapping[int, list[int]]]:
    """Every run's prompts. Which problems are short enough does not depend on what an arm writes
    into them: all arms share problems."""
    made: dict[tuple[str, str, str], dict[int, list[int]]] = {}
    found: list[Mapping[int, list[int]]] = []
    for cfg in cfgs:
        prompt = PROMPTS[ARMS[cfg.arm].prompt]
        key = (cfg.arm, cfg.inoculation, cfg.inoculation_neutral)
        if key not in made:
            made[key] = plain
            if prompt is not keep_prompt:
                made[key] = {p.id: lm.prompt_ids(prompt(p.messages, cfg)) for p in problems}
        found.append(made[key])
    return found


def _file_digest(source: str) -> str | None:
    """sha256 of a model that is one file here; of another its commit or our own tells what it is,
    or nothing does."""
    return sha256_of(Path(source)) if Path(source).is_file() else None


def grader_of(cfg: Config) -> Grader:
    """The grader that the settings ask for; not opened yet."""
    limits = Limits(cpu_s=cfg.cpu_s, memory_mb=cfg.memory_mb)
    return Grader(workers=cfg.workers or None, limits=limits, sandbox=cfg.sandbox)
