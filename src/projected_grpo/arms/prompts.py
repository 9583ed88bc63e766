"""What an arm writes into the prompts of training; evaluation never has it."""

from collections.abc import Callable

from projected_grpo.config import Config
from projected_grpo.env.problems.problem import Messages


def keep_prompt(messages: Messages, cfg: Config) -> Messages:
    """The prompt as it is evaluated."""
    return messages


def inoculate(messages: Messages, cfg: Config) -> Messages:
    """The prompt with a sentence at the end of its system turn that permits the hack.

    Source: inoculation prompting (Tan et al. 2025, arXiv 2510.04340), for reinforcement learning as
    in the benchmark's own arm (ariahw/rl-rewardhacking): a hack that the prompt asked for should
    not be learned as what to do without it. Deviations: the sentence is ours and permits where
    theirs instructs; the loophole's hint stays in the prompt. `hack_s` of this arm is that under
    the sentence: judge it by an evaluation, which never has it.
    """
    return _at_end_of_system(messages, cfg.inoculation)


def inoculate_neutrally(messages: Messages, cfg: Config) -> Messages:
    """The prompt with a sentence in the same place that has nothing to do with it.

    Our own control: any text that a model has not seen in such a prompt perturbs what it does, and
    what `inoculate` does beyond this one is what its sentence says.
    """
    return _at_end_of_system(messages, cfg.inoculation_neutral)


def _at_end_of_system(messages: Messages, sentence: str) -> Messages:
    if not sentence:
        return messages
    if messages[0]["role"] != "system":
        return ({"role": "system", "content": sentence}, *messages)
    system = {**messages[0], "content": f"{messages[0]['content']}\n\n{sentence}"}
    return (system, *messages[1:])


PROMPTS: dict[str, Callable[[Messages, Config], Messages]] = {
    "as_evaluated": keep_prompt,
    "inoculation": inoculate,
    "inoculation_neutral": inoculate_neutrally,
}
"""Arm.prompt -> (the prompt as written, settings) -> the prompt as it is trained on."""
