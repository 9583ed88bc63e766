"""What a run needs and does not change while it runs: read, checked and loaded before anything is
written."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from loguru import logger

from projected_grpo import __version__
from projected_grpo.arms.arms import ARMS, as_written
from projected_grpo.arms.directions import (
    PairSets,
    concepts,
    load_pair_sets,
    measured,
    own_directions,
)
from projected_grpo.arms.learned_axes import Running, require_known_modes, running_for
from projected_grpo.arms.optimizer import adamw
from projected_grpo.arms.quarantine import Quarantine, quarantine_for
from projected_grpo.arms.treatment import Treatment, treatments
from projected_grpo.config import OF_REMEDIES, PER_RUN, Config, ConfigError, stream_seed
from projected_grpo.env.grading.comparison import one_answer
from projected_grpo.env.grading.grader import Grader
from projected_grpo.env.loopholes.modes import TRAIN_NAME, apply_hint, assign_modes
from projected_grpo.env.problems.hub import commit_of
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Limits
from projected_grpo.extract_vhack_grad import VHack, load_vhack
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import (
    DTYPES,
    LanguageModel,
    checkpoint_layers,
    load,
    resolve_device,
)
from projected_grpo.model.memory import estimate
from projected_grpo.runs.adapters import Make, adapter_of
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.distributed import ALONE, World, require_groups
from projected_grpo.runs.status import what_decides
from projected_grpo.runs.teacher_pool import Pool, open_pool

PROBE_TOKENS = 128
MOST_DRIFT = 0.05
"""Nats a token that wrapping may change the policy by; SmolLM2-135M in bf16 has 0.002."""


@dataclass(frozen=True, slots=True)
class Session:
    """All that the runs of a pack need and that does not change while they run; where V is
    extracted again, a session with other treatments takes its place."""

    cfgs: list[Config]  # N; equal but for PER_RUN
    lm: LanguageModel
    adapter: Adapter
    optimizer: torch.optim.Optimizer
    quarantine: Quarantine | None  # where an arm routes
    running: Running | None  # where a run learns axes of its own
    problems: list[Problem]  # hinted, short enough, with teacher rows where the run wants them
    prompts: Sequence[Mapping[int, list[int]]]  # of each run: problem id -> token ids
    pool: Pool | None
    grader: Grader
    treatments: list[Treatment]
    own: Mapping[int, VHack]  # of those runs whose arm has directions of its own: the first ones
    pair_sets: PairSets  # those that directions are extracted from
    concepts: Mapping[int, torch.Tensor]  # of those runs whose arm scores hidden states
    device: torch.device
    world: World = ALONE

    @property
    def cfg(self) -> Config:
        """The settings that all runs share; not for PER_RUN."""
        return self.cfgs[0]

    def first_prompt(self, n: int) -> str:
        """The first prompt of run n as the chat template renders it."""
        cfg = self.cfgs[n]
        return self.lm.render(ARMS[cfg.arm].messages(self.first_problem(n).messages, cfg))

    def first_problem(self, n: int) -> Problem:
        """That which this is the prompt of."""
        cfg = self.cfgs[n]
        return problems_of_step(self.problems, cfg.prompts_per_step, cfg.seed, 1)[0]


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


def labels(cfgs: Sequence[Config]) -> list[str]:
    """What to call each run beside the others, its seed apart: its arm, and those settings that
    vary in the pack; those of remedies only where they are not the preset's."""
    varied = [
        name
        for name in PER_RUN
        if name not in ("arm", "seed") and len({vars(cfg)[name] for cfg in cfgs}) > 1
    ]
    found: list[str] = []
    for cfg in cfgs:
        had, default = vars(cfg), vars(type(cfg)())
        named = [n for n in varied if n not in OF_REMEDIES or had[n] != default[n]]
        shown = (f"{n.removeprefix('v_hack_')}={_text(had[n])}" for n in named)
        found.append(" ".join([cfg.arm, *shown]))
    return found


def _text(value: object) -> str:
    """A setting's value in a label: names in a row, or all."""
    text = (",".join(value) or "all") if isinstance(value, tuple) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def problems_of_step(problems: list[Problem], P: int, seed: int, step: int) -> list[Problem]:
    """P different problems: a new order each epoch, what does not fill a step is left for the next
    order."""
    steps_per_epoch = len(problems) // P
    epoch, position = divmod(step - 1, steps_per_epoch)
    order = random.Random(stream_seed("order", seed, epoch)).sample(problems, len(problems))
    return order[position * P : (position + 1) * P]


def prepare(
    cfgs: Sequence[Config], stack: ExitStack, resumed: RunDir | None, world: World = ALONE
) -> tuple[Session, list[VHack]]:
    """Read, check and load everything, and the directions that each run measures; a resumed run's
    are those of its directory. Nothing is written: what is refused here leaves no trace."""
    require_packable(cfgs)
    cfg = cfgs[0]
    require_groups(world, cfg)
    world.require_same(settings=what_decides(cfg), versions=f"{__version__}, {torch.__version__}")
    if threads := world.threads(cfg.threads):
        torch.set_num_threads(threads)
    with world.agreed():
        device = world.device(resolve_device(cfg.device))
    make = adapter_of(cfg, len(cfgs))
    problems = hinted_problems(cfg.problems, cfg.mode)
    require_known_modes(cfgs, problems)
    v_file = resumed.v_hack if resumed else cfg.v_hack
    given = load_vhack(v_file, device) if v_file else None
    pair_sets = load_pair_sets(cfgs, given, v_file, resumed is not None)
    grader = stack.enter_context(grader_of(replace(cfg, workers=world.workers(cfg.workers))))

    revision = resumed.base_revision(cfg) if resumed else cfg.model_revision
    lm = load(cfg.model, revision=revision, dtype=DTYPES[cfg.dtype], device=device,
              enable_thinking=cfg.enable_thinking)  # fmt: skip
    if cfg.checkpoint_activations:
        checkpoint_layers(lm.model, True)
    prompts = {p.id: lm.prompt_ids(p.messages) for p in problems}
    kept, pool = _with_teacher(cfg, _short_enough(cfg, problems, prompts))
    some = [prompts[p.id] for p in kept[:4]]
    adapter = world.one_then_all(lambda: _wrapped(make, lm, len(cfgs), some))
    v_hack = measured(cfgs, lm, adapter, pair_sets, given, v_file, resumed is not None)
    own = own_directions(cfgs, lm, adapter, pair_sets, resumed.v_own if resumed else None)
    scored = concepts(cfgs, lm, adapter, pair_sets)
    world.as_first([*(t for v in (*v_hack, *own.values()) for t in v.tensors), *scored.values()])
    optimizer = adamw(adapter.trained, cfg)
    found = treatments(cfgs, v_hack, own, device)
    session = Session(
        cfgs=list(cfgs), lm=lm, adapter=adapter, optimizer=optimizer,
        quarantine=quarantine_for(adapter, cfgs), running=running_for(cfgs, found), problems=kept,
        prompts=_prompts(cfgs, lm, kept, prompts), pool=pool, grader=grader,
        treatments=found, own=own, pair_sets=pair_sets,
        concepts=scored, device=device, world=world,
    )  # fmt: skip
    if world.size > 1:
        world.require_same(axes=adapter.fingerprint(), data=data_digest(session, 0))
    return session, v_hack


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
        messages = ARMS[cfg.arm].messages
        key = (cfg.arm, cfg.inoculation, cfg.inoculation_neutral)
        if key not in made:
            made[key] = plain
            if messages is not as_written:
                made[key] = {p.id: lm.prompt_ids(messages(p.messages, cfg)) for p in problems}
        found.append(made[key])
    return found


def grader_of(cfg: Config) -> Grader:
    """The grader that the settings ask for; to be entered."""
    limits = Limits(cpu_s=cfg.cpu_s, memory_mb=cfg.memory_mb)
    return Grader(workers=cfg.workers or None, limits=limits, sandbox=cfg.sandbox)


def hinted_problems(source: str, mode: str, limit: int | None = None) -> list[Problem]:
    """The problems of a source that can be trained on, each with the hint of its mode; `mode` is
    that of problems which name none, or several that share them out (config.py).

    Those whose hidden tests all expect one value are left out: a constant would be graded correct.
    """
    problems = load_problems(source, limit)
    kept = [p for p in problems if not one_answer(p)]
    if len(kept) < len(problems):
        logger.info(
            "{} of {} problems left out: their tests all expect one value, a constant would pass",
            len(problems) - len(kept),
            len(problems),
        )
    of_problem = assign_modes(kept, mode.split(","), seed=0)  # of the data, not of a run
    return [apply_hint(p, of_problem[p.id], TRAIN_NAME) for p in kept]


def _short_enough(
    cfg: Config, problems: list[Problem], prompts: dict[int, list[int]]
) -> list[Problem]:
    """Those whose prompt fits. Raises ConfigError where fewer are left than a step needs."""
    kept = [p for p in problems if len(prompts[p.id]) <= cfg.max_prompt]
    if len(kept) < len(problems):
        logger.info(
            "{} of {} problems left out: prompt above {} tokens",
            len(problems) - len(kept),
            len(problems),
            cfg.max_prompt,
        )
    if len(kept) < cfg.prompts_per_step:
        raise ConfigError(
            f"{cfg.problems} has {len(kept)} problems with at most {cfg.max_prompt} prompt tokens, "
            f"fewer than the {cfg.prompts_per_step} prompts of a step: set --prompts-per-step "
            f"{max(len(kept), 1)}"
        )
    return kept


def _with_teacher(cfg: Config, problems: list[Problem]) -> tuple[list[Problem], Pool | None]:
    """Those that the teacher pool has enough rows for, and that pool. Raises ConfigError where
    fewer are left than a step needs."""
    if cfg.teacher_rows == 0:
        return problems, None
    pool = open_pool(cfg.teacher_pool, problems, cfg.teacher_rows)
    if len(pool.problems) < cfg.prompts_per_step:
        raise ConfigError(
            f"the teacher pool {cfg.teacher_pool} has at least {cfg.teacher_rows} rows for "
            f"{len(pool.problems)} of {len(problems)} problems, fewer than the "
            f"{cfg.prompts_per_step} prompts of a step: add rows to it, or lower --mix-ratio or "
            "--prompts-per-step"
        )
    return pool.problems, pool


@torch.no_grad()
def _logps(lm: LanguageModel, prompts: list[list[int]]) -> torch.Tensor:
    """log p of every next token at the start of some prompts, (prompts, tokens, vocabulary)."""
    tokens = min(PROBE_TOKENS, *(len(prompt) for prompt in prompts))
    ids = torch.tensor([prompt[:tokens] for prompt in prompts], device=lm.model.device)
    return lm.model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)


def _wrapped(make: Make, lm: LanguageModel, n_runs: int, prompts: list[list[int]]) -> Adapter:
    """The adapter in the model, if that model at delta_S = 0 is still the one that was loaded.

    In bf16 the factors are rounded, and every later figure is relative to that same rounded map, so
    a base that suffered (outlier channels, one huge singular value) would not show in any of them.
    Raises ConfigError for such a base.
    """
    if n_runs == 1 and lm.model.dtype == torch.float32:  # at delta_S = 0 that is W itself
        return make(lm.model)
    dense = _logps(lm, prompts)
    adapter = make(lm.model)
    with adapter.disabled():
        drift = float((dense.exp() * (dense - _logps(lm, prompts))).sum(-1).mean())
    logger.info("rounding KL(loaded || wrapped at delta_S = 0) = {:.2g} nats a token", drift)
    if not drift < MOST_DRIFT:
        raise ConfigError(
            f"in {lm.model.dtype} the decomposition changes this model by {drift:.2g} nats a "
            f"token, more than {MOST_DRIFT}: set --dtype=float32"
        )
    return adapter


def describe(s: Session) -> None:
    """The start banner: what runs, on what, how much of it."""
    cfg = s.cfg
    runs = len(s.cfgs)
    trained = sum(p.numel() for p in s.adapter.trained.values()) // runs
    base = [p for p in s.lm.model.parameters() if not p.requires_grad]
    total = sum(p.numel() for p in (*base, *s.adapter.aside)) + trained
    groups: dict[str, list[Config]] = {}
    for label, one in zip(labels(s.cfgs), s.cfgs, strict=True):
        groups.setdefault(label, []).append(one)
    for label, mine in groups.items():
        seeds = ", ".join(str(one.seed) for one in mine)
        logger.info("arm      {} (seeds {}): {}", label, seeds, ARMS[mine[0].arm].meaning)
    logger.info(
        "model    {} ({}, {}): {:,} of {:,} parameters train",
        cfg.model,
        cfg.dtype,
        torch.cuda.get_device_name(s.device) if s.device.type == "cuda" else s.device,
        trained,
        total,
    )
    for text in dict.fromkeys(_v_in_words(s, t) for t in s.treatments):
        logger.info("V        {}", text)
    logger.info(
        "step     {} prompts x {} rows ({} student, {} teacher) = {} rollouts{}; "
        "{} problems, {} steps",
        cfg.prompts_per_step, cfg.group, cfg.student_rows, cfg.teacher_rows,
        cfg.prompts_per_step * cfg.group, f" x {runs} runs" if runs > 1 else "", len(s.problems),
        cfg.steps,
    )  # fmt: skip
    longest = max(len(prompts[p.id]) for prompts in s.prompts for p in s.problems)
    most = -(-cfg.prompts_per_step // s.world.size)
    if s.world.size > 1:
        logger.info("world    {} processes, {} prompts each at most", s.world.size, most)
    needed = estimate(replace(cfg, prompts_per_step=most), s.lm, s.adapter, longest)
    logger.info("memory   {}", needed)
    if s.device.type == "cuda" and needed.peak > (room := torch.cuda.mem_get_info()[1]):
        logger.warning(
            "the GPU has {:.1f} GiB: lower --micro-batch-tokens or --sampling-tokens, or add "
            "--checkpoint-activations",
            room / 2**30,
        )


def _v_in_words(s: Session, t: Treatment) -> str:
    axes, every = sum(len(V) for V in t.V.values()), s.cfgs[int(t.runs[0])].refresh_every
    again = f", extracted again every {every} steps" if every else ""
    return f"{axes} axes in {len(t.V)} of {len(s.adapter.trained)} modules{again}"


def made_from(s: Session, n: int) -> dict[str, Any]:
    """What run.json says of the data and the base model of run n."""
    return {
        "data": data_digest(s, n),
        "data_commit": commit_of(s.cfg.problems),
        "model_commit": s.lm.commit,
        "enable_thinking": s.lm.enable_thinking,
        "prompt_tokens": len(s.prompts[n][s.first_problem(n).id]),
    }


def data_digest(s: Session, n: int) -> str:
    """sha256 over what the rows of run n are made from: prompts, modes, hidden tests, teacher
    rows."""
    h = hashlib.sha256()
    for p in s.problems:
        answers = s.pool.draw(p, s.cfg.teacher_rows, 0) if s.pool is not None else []
        h.update(repr((p.id, p.mode, s.prompts[n][p.id], p.cases, answers)).encode())
    if s.pool is not None:
        h.update(s.pool.digest.encode())
    return h.hexdigest()
