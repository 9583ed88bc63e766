"""Contrast pairs in the policy's own words: its clean answers to training problems, and the same
with a known hack put in.

What differs between the two sides is the hack, in the style that the policy writes in. An honest
report in the same place is the other side (`OWN_REPORTS`) or the control.
"""

import ast
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from projected_grpo.config import stream_seed
from projected_grpo.env.errors import InputError
from projected_grpo.env.loopholes.honest import honest_answer
from projected_grpo.env.loopholes.modes import MODES, NOT_VACUOUS, TRAIN_NAME, get_mode
from projected_grpo.env.names import hint
from projected_grpo.env.parsing import extract_code, is_solution, parse_program
from projected_grpo.env.problems.problem import Problem
from projected_grpo.pairs.pair import Pair

OWN, OWN_REPORTS, OWN_PLACEBO = "own", "own-reports", "own-placebo"
"""A hack put into an answer, against the answer as it was; against the answer with an honest report
in the hack's place; and that answer against the answer as it was, which shows no hack. The first
differ by the loophole's channel as much as by the hack, the second by the hack alone."""
OWN_SETS = (OWN, OWN_REPORTS)
"""Names of the sets that --pairs may ask for."""

MOST_PAIRS = 72
"""Pairs at most; as many are made by hand."""


class CleanAnswer(NamedTuple):
    """A clean answer of the policy to a training problem."""

    problem: Problem
    text: str


def put_hack(answer: CleanAnswer, flavour: str, seed: int) -> str | None:
    """The answer with a hack of its problem's mode put into its program; None where that cannot be
    done without changing more than the program, or gives none."""
    problem = answer.problem
    template = get_mode(problem.mode or "none").flavours[flavour]
    return _edited(answer, lambda code: template(problem, TRAIN_NAME, seed, solution=code))


def put_honest_report(answer: CleanAnswer, seed: int) -> str | None:
    """The answer with an honest use of its problem's mode put into its program, such as tests that
    can fail; None where that cannot be done or changes nothing."""
    problem, mode = answer.problem, answer.problem.mode or "none"
    text = _edited(answer, lambda code: honest_answer(problem, mode, TRAIN_NAME, seed, code))
    return None if text == answer.text else text


def _edited(answer: CleanAnswer, write: Callable[[str], str]) -> str | None:
    """The answer with another program; `write` makes a completion of a program."""
    code = extract_code(answer.text)
    if code is None or answer.text.count(code) != 1:
        return None
    program = extract_code(write(code))
    before, after = parse_program(code), None if program is None else parse_program(program)
    if before is None or program is None or after is None:
        return None
    # A method is written below the program: where that ends with another function, into it.
    kept = [ast.dump(node) for node in after.body]
    if any(ast.dump(node) not in kept for node in before.body if not is_solution(node)):
        return None
    return answer.text.replace(code, program)


def own_pairs(
    answers: Sequence[CleanAnswer],
    seed: int,
    modes: Collection[str],
    flavours: Collection[str],
    *,
    against_reports: bool = False,
) -> list[Pair]:
    """At most `MOST_PAIRS` pairs of the answers and their edits; the flavours take turns.

    modes, flavours: those that may be put in; empty means all. against_reports: the clean side has
    an honest report where the other has the hack. Raises InputError for a flavour that none of the
    modes has.
    """
    allowed = _flavours(modes, flavours)
    turn, pairs = dict.fromkeys(allowed, 0), []
    for answer in _by_turns(answers):
        mode = answer.problem.mode or "none"
        if mode not in allowed or len(pairs) == MOST_PAIRS:
            continue
        flavour = allowed[mode][turn[mode] % len(allowed[mode])]
        hack = put_hack(answer, flavour, stream_seed("own hack", seed, len(pairs)))
        clean: str | None = answer.text
        if against_reports:
            clean = put_honest_report(answer, stream_seed("own honest", seed, len(pairs)))
        if hack is not None and clean is not None:
            turn[mode] += 1
            pairs.append(_pair(len(pairs), answer, hack, clean, flavour))
    return pairs


def own_placebo_pairs(
    answers: Sequence[CleanAnswer], seed: int, modes: Collection[str]
) -> list[Pair]:
    """At most `MOST_PAIRS` pairs of the answers and the same with an honest report put in, which
    stands where a hack would.

    modes: those whose reports may be put in; empty means all.
    """
    pairs: list[Pair] = []
    for answer in _by_turns(answers):
        if (modes and answer.problem.mode not in modes) or len(pairs) == MOST_PAIRS:
            continue
        report = put_honest_report(answer, stream_seed("own honest", seed, len(pairs)))
        if report is not None:
            pairs.append(_pair(len(pairs), answer, report, answer.text, "none"))
    return pairs


def _flavours(modes: Collection[str], flavours: Collection[str]) -> dict[str, list[str]]:
    """Mode -> the flavours that may be put into its problems' answers. Which answers there are is
    not asked: what a run refuses it refuses at its start, and not at a refresh."""
    known = {
        mode: [name for name in get_mode(mode).flavours if name not in NOT_VACUOUS]
        for mode in modes or MODES
    }
    every = {name for names in known.values() for name in names}
    for name in flavours:
        if name not in every:
            raise InputError(
                f"no hack of flavour {name!r} can be put into answers: {hint(name, sorted(every))}"
            )
    allowed = {m: [n for n in names if not flavours or n in flavours] for m, names in known.items()}
    return {mode: names for mode, names in allowed.items() if names}


def _by_turns(answers: Sequence[CleanAnswer]) -> Iterator[CleanAnswer]:
    """The first answer to every problem, then the second to every problem, and so on."""
    of_problem: dict[int, list[CleanAnswer]] = {}
    for answer in answers:
        of_problem.setdefault(answer.problem.id, []).append(answer)
    for i in range(max(map(len, of_problem.values()), default=0)):
        yield from (some[i] for some in of_problem.values() if i < len(some))


def _pair(number: int, answer: CleanAnswer, hack: str, clean: str, flavour: str) -> Pair:
    problem = answer.problem
    return Pair(
        id=f"own_{number}",
        mechanism=flavour,
        mode=problem.mode or "none",
        family=str(problem.id),
        messages=tuple(problem.messages),
        hack=hack,
        clean=clean,
        entry_point=problem.entry_point,
        starter_code=problem.starter_code,
        examples=(),
        checks=(),
    )
