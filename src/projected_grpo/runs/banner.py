"""What a run says on the console beside its rows: what runs, and two completions to look at, since
a table of rates does not show what a model writes."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import accumulate

import torch
from loguru import logger

from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.rows import Row, peak_memory_gib
from projected_grpo.arms.screening import SCREENS
from projected_grpo.arms.token_scores import strongest_window
from projected_grpo.arms.treatment import Treatment
from projected_grpo.config import OF_REMEDIES, Config, varied
from projected_grpo.extract_vhack_grad import answers_of
from projected_grpo.model.memory import estimate_memory
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.files import LogFile
from projected_grpo.runs.session import Session
from projected_grpo.step_logger import Column, end_table, printed_columns

MOST_LINES, MOST_COLUMNS = 30, 160
"""The most that is shown of a completion: of more lines the first and the last ones. rollouts.jsonl
has all."""


def announce(s: Session, runs: Sequence[RunDir], stack: ExitStack) -> None:
    """Begin every run's train.log, which ends with `stack`, and say what runs."""
    log_format = "{time:HH:mm:ss} {level: <7} {message}"
    for run in runs:
        stack.callback(logger.remove, logger.add(LogFile(run.log), format=log_format, level="INFO"))
        logger.info("run      {}", run.path)
    log_banner(s)


def sum_up(s: Session, runs: Sequence[RunDir], status: str, seconds: float) -> None:
    """Print how the runs ended."""
    memory = peak_memory_gib(s.device)
    logger.info("{} after {:.0f} s, peak memory {:.2f} GiB", status, seconds, memory)
    ended = list(zip(labels(s.cfgs), s.cfgs, runs, strict=True))
    cautions = {label: ARMS[c.arm].caution for label, c, _ in ended}
    # A terminal has seen the rows already; a file that stdout goes to has not.
    columns = None if sys.stdout.isatty() and sys.stderr.isatty() else columns_of(s.cfgs)
    rows = [(label, c.seed, r.steps) for label, c, r in ended]
    table = end_table(rows, cautions=cautions, columns=columns)
    print(f"\n{table}")
    print("\n" + "\n".join(str(run.path) for run in runs))


def log_banner(s: Session) -> None:
    """Log what runs, on what, and how much of it."""
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
    for n, calibration in s.calibrations.items():
        logger.info(
            "screen   {} s{}: {}; scores above {:.3g} are flagged",
            labels(s.cfgs)[n],
            s.cfgs[n].seed,
            SCREENS[s.cfgs[n].screen].meaning,
            calibration.threshold,
        )
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
    pairs = [pair for some in s.pair_sets.values() for pair in some]
    answers = [len(prompt) + len(text) for prompt, text in answers_of(s.lm, pairs)]
    needed = estimate_memory(replace(cfg, prompts_per_step=most), s.lm, s.adapter, longest, answers)
    logger.info("memory   {}", needed)
    if s.device.type == "cuda" and needed.peak > (room := torch.cuda.mem_get_info()[1]):
        logger.warning(
            "the GPU has {:.1f} GiB: lower --micro-batch-tokens or --sampling-tokens, or add "
            "--checkpoint-activations",
            room / 2**30,
        )


def _v_in_words(s: Session, t: Treatment) -> str:
    if not t.V:
        return "none: nothing is measured along it (--measure=none)"
    axes = sum(len(V) for V in t.V.values())
    (every,) = {s.cfgs[n].refresh_every for n in t.runs.tolist()}
    cfg = s.cfgs[t.runs.tolist()[0]]
    origin = f"from {cfg.v_hack}" if cfg.v_hack else f"from --pairs={cfg.pairs}"
    again = f", extracted again every {every} steps" if every else ""
    return f"{axes} axes in {len(t.V)} of {len(s.adapter.trained)} modules, {origin}{again}"


def labels(cfgs: Sequence[Config]) -> list[str]:
    """What to call each run beside the others, its seed apart: its arm, and those settings that
    vary in the pack; those of remedies only where they are not the preset's."""
    names = varied([vars(cfg) for cfg in cfgs], but=("arm", "seed"))
    found: list[str] = []
    for cfg in cfgs:
        had, default = vars(cfg), vars(type(cfg)())
        named = [n for n in names if n not in OF_REMEDIES or had[n] != default[n]]
        shown = (f"{n.removeprefix('v_hack_')}={_text(had[n])}" for n in named)
        found.append(" ".join([cfg.arm, *shown]))
    return found


def _text(value: object) -> str:
    """A setting's value in a label: names in a row, or all."""
    text = (",".join(value) or "all") if isinstance(value, tuple) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def columns_of(cfgs: Sequence[Config]) -> list[Column]:
    """The columns that are printed of these runs: those that say something of one of them."""
    has = {"teacher"} if any(cfg.teacher_rows for cfg in cfgs) else set[str]()
    for cfg in cfgs:
        has |= {"v"} if cfg.measure == "v" else set()
        if ARMS[cfg.arm].removes != "nothing":
            has |= {"grad", "update"} if cfg.project_on == "both" else {cfg.project_on}
    return printed_columns(has)


def best_and_hack(
    names: Sequence[str],
    rows: Sequence[Sequence[Row]],
    characters: Callable[[list[int]], list[int]] | None = None,
) -> Iterator[str]:
    """Yield the best student rollout of a step that is no hack, and the best hack, by reward: one
    of each for all runs of a pack together. `names` and `rows` are given run by run.

    characters: ids -> how many characters each token adds to the text; with it, lines of the window
    that pulls most along V are marked.
    """
    student = [row for mine in rows for row in mine if row.source == "student"]
    for title, hacked in (("best", False), ("hack", True)):
        some = [row for row in student if row.grade.exploited == hacked]
        if not some:
            yield f"{title}: none of {len(student)} student rollouts"
            continue
        row = max(some, key=lambda row: row.grade.reward)  # the first of several
        g = row.grade
        solved = "solved" if g.gt_correct else "not solved"
        how = ", ".join(filter(None, (g.mechanism, g.flavour))) if hacked else solved
        score = "" if row.hack_score is None else f", hack score {row.hack_score:+.3f}"
        window, span = _strongest(row, characters)
        about = f"problem {row.problem.id} ({row.mode}), reward {g.reward:.3g}, {how}{score}"
        yield f"{title}: {names[row.run]}, {about}{window}\n{_indented(row.text, span)}"


def _strongest(
    row: Row, characters: Callable[[list[int]], list[int]] | None
) -> tuple[str, tuple[int, int]]:
    """What to say of the window of a row that pulls most along V, and its characters, from and
    to; nothing and none where it was not measured."""
    pulls = row.pull_base if row.pull_base is not None else row.pull
    if pulls is None or characters is None or not len(pulls):
        return "", (0, 0)
    score, first, end = strongest_window(pulls)
    ends = [0, *accumulate(characters(row.ids))]
    return f", strongest window {score:+.3g} (lines with >)", (ends[first], ends[end])


def _indented(text: str, span: tuple[int, int] = (0, 0)) -> str:
    """The text indented, without its middle where it is long, and without anything that a terminal
    obeys; lines that `span` (characters, from and to) reaches into are marked."""
    lines, at = list[tuple[str, str]](), 0
    for line in text.splitlines(keepends=True):
        marked = max(at, span[0]) < min(at + len(line), span[1])
        lines.append((">" if marked else "|", line.rstrip("\r\n")))
        at += len(line)
    if len(lines) > MOST_LINES:
        half = MOST_LINES // 2
        left_out = lines[half:-half]
        mark = ">" if any(mark == ">" for mark, _ in left_out) else "|"
        lines[half:-half] = [(mark, f"[{len(left_out)} lines left out]")]
    cut = ((mark, line.expandtabs(4)[:MOST_COLUMNS]) for mark, line in lines)
    plain = ((m, "".join(c if c.isprintable() else "\ufffd" for c in line)) for m, line in cut)
    return "\n".join(f"    {mark} {line}" for mark, line in plain)
