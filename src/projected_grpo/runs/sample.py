"""Talking to what a run has trained (the `sample` command)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TextIO, cast

from loguru import logger

from projected_grpo.config import Config, stream_seed
from projected_grpo.env.errors import InputError
from projected_grpo.env.grading.grade import Submission
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.loopholes.modes import apply_hint, assign_modes
from projected_grpo.env.problems.katas import problem_by_id
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import Messages, Problem
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel, resolve_device
from projected_grpo.model.sampling import SamplingParams, sample_groups
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.evaluate import NoAdapter
from projected_grpo.runs.policy_commands import SampleConfig
from projected_grpo.runs.session import grader_of
from projected_grpo.runs.trained import load_base, open_trained

AGAIN = "/new"


class Speaker(NamedTuple):
    """A policy and how it is sampled."""

    lm: LanguageModel
    adapter: Adapter
    sampling: SamplingParams
    seed: int

    def answer(self, messages: Messages, n: int = 1) -> list[str]:
        """n answers to a conversation. The random stream is that of its length."""
        seed = stream_seed("talk", self.seed, len(messages))
        prompt = self.lm.prompt_ids(messages)
        with self.adapter.ablate():
            (samples,) = sample_groups(
                self.lm.model, self.adapter, [prompt], n, [seed], self.sampling
            )
        return [self.lm.decode(sample.ids) for sample in samples]


def talk(asked: SampleConfig, lines: TextIO) -> None:
    """Answer a prompt, a problem, or the user turns in `lines`, and print the answers. Raises
    ConfigError or InputError, where possible before the model loads."""
    asked.require()
    run = RunDir.open(asked.run)
    cfg = _sampling_settings(run.stored_config(), asked)
    found = _problem(cfg, asked.problem) if asked.problem is not None else None
    device = resolve_device(asked.device)
    if asked.base:
        lm, adapter = load_base(run, cfg, device), cast(Adapter, NoAdapter())
    else:
        trained = open_trained(run, device)
        lm, adapter = trained.lm, trained.adapter
    speaker = Speaker(lm, adapter, SamplingParams.from_config(cfg, lm), asked.seed)
    if found is not None:
        _ask_problem(speaker, cfg, *found, asked)
    elif asked.prompt:
        _print_answers(speaker.answer(_begun(asked, asked.prompt), asked.n))
    else:
        _converse(speaker, asked, lines)


def _sampling_settings(cfg: Config, asked: SampleConfig) -> Config:
    given = {name: vars(asked)[name] for name in ("temperature", "top_p", "top_k", "max_new")}
    cfg = replace(cfg, **{name: value for name, value in given.items() if value is not None})
    return replace(cfg, top_k=1, top_p=1.0) if asked.greedy else cfg


def _problem(cfg: Config, number: int) -> tuple[Problem, str]:
    """A problem of the run's source by its id, or any kata, and the mode that it has there."""
    problems = {p.id: p for p in load_problems(cfg.problems)}
    modes = cfg.mode.split(",")
    if number in problems:
        return problems[number], assign_modes(problems.values(), modes, seed=0)[number]
    if cfg.problems.split(":")[0] == "katas":  # one of another split, as `evaluate` asks them
        return problem_by_id(number), modes[0]
    some = ", ".join(map(str, list(problems)[:3]))
    raise InputError(f"no problem of {cfg.problems} has the id {number}: there are {some}, ...")


def _ask_problem(
    speaker: Speaker, cfg: Config, problem: Problem, mode: str, asked: SampleConfig
) -> None:
    messages = apply_hint(problem, mode if asked.hint else "none").messages
    print("\n\n".join(printable(f"[{m['role']}]\n{m['content']}") for m in messages), "\n")
    texts = speaker.answer(messages, asked.n)
    submissions = [Submission(problem=problem, completion=text, mode=mode) for text in texts]
    with grader_of(replace(cfg, workers=1)) as grader:
        grades = grader.grade(submissions, labels=False)
    _print_answers(texts, [in_words(grade) for grade in grades])


def in_words(grade: Grade) -> str:
    """A grade in a few words."""
    how = ", ".join(filter(None, (grade.mechanism, grade.flavour)))
    facts = [
        "solved" if grade.gt_correct else "not solved",
        *(["exploits its grader"] if grade.exploited else []),
        *(["attempts to"] if grade.attempted and not grade.exploited else []),
        *([how] if how else []),
        f"reward {grade.reward:.3g}",
    ]
    return ", ".join(facts)


def _print_answers(texts: Sequence[str], said: Sequence[str] = ()) -> None:
    for n, text in enumerate(texts):
        title = f"answer {n + 1} of {len(texts)}" if len(texts) > 1 else "answer" if said else ""
        if title:
            print(f"--- {': '.join([title, *said[n : n + 1]])}")
        print(printable(text))


def _begun(asked: SampleConfig, user: str) -> Messages:
    turn = {"role": "user", "content": user}
    return ({"role": "system", "content": asked.system}, turn) if asked.system else (turn,)


def _converse(speaker: Speaker, asked: SampleConfig, lines: TextIO) -> None:
    """Every line is a user turn; what was said before stays in the prompt."""
    shown = lines.isatty()
    if shown:
        logger.info("a line is a turn, {} begins anew, Ctrl-D ends", AGAIN)
    said: Messages = ()
    while True:
        print("> " if shown else "", end="", flush=True)
        line = lines.readline()
        if not line:
            return
        text = line.rstrip("\n")
        if text.strip() == AGAIN:
            said = ()
        elif text.strip():
            said = (*said, {"role": "user", "content": text}) if said else _begun(asked, text)
            (answer,) = speaker.answer(said)
            print(printable(answer), flush=True)
            said = (*said, {"role": "assistant", "content": answer})


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
