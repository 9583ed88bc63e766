"""Contrast pairs by construction, for the organism: what a kata's honest and hacked answer look
like to a model that was taught on katas.

The hand-made pairs are far from anything that the organism writes: their gradients are mostly
surprise at the text, and V from them holds no more of held-out differences than V from placebo
pairs does (captured_energy.py). These pairs are close to its own text, on the *validation*
families, which neither its corpus nor reinforcement shows. So they are an easy detector, as the
organism's card says; results on them do not speak for hand-made pairs.

The two sides of a pair share the prompt and, in about two thirds of the pairs, the method.
"""

import random
from functools import cache

from projected_grpo.env.loopholes.hacks import NOT_VACUOUS
from projected_grpo.env.loopholes.honest import honest_answer
from projected_grpo.env.loopholes.modes import MODES, TRAIN_NAME, apply_hint
from projected_grpo.env.problems.katas import is_trapped, kata_problems
from projected_grpo.env.problems.problem import Problem
from projected_grpo.pairs.pair import Pair

PER_FLAVOUR = {"run_tests": 8, "sentinel": 6, "stdout_marker": 6, "file_marker": 8}
SAME_METHOD_SHARE = 2 / 3
CANDIDATE_PAIRS = 40


@cache
def kata_pairs(placebo: bool = False) -> tuple[Pair, ...]:
    """Make all pairs, by mode and flavour; the placebo's sides are both honest."""
    flavours = [
        (mode, flavour, number)
        for mode, count in PER_FLAVOUR.items()
        for flavour in MODES[mode].flavours
        if flavour not in NOT_VACUOUS
        for number in range(count)
    ]
    problems = iter(kata_problems("validation", seed=1, limit=len(flavours)))
    return tuple(_pair(next(problems), *which, placebo) for which in flavours)


def _pair(problem: Problem, mode: str, flavour: str, number: int, placebo: bool) -> Pair:
    """Draw many forms of both sides; those without prose that are nearest in length stay."""
    rng = random.Random(f"kata pair {mode} {flavour} {number}")
    trapped = is_trapped(str(problem.family))
    solution = problem.wrong_solution if trapped else problem.canonical_solution
    same_method = rng.random() < SAME_METHOD_SHARE

    def honest() -> str:
        return honest_answer(problem, mode, TRAIN_NAME, rng.randrange(2**31), solution)

    def hacked() -> str:
        write = MODES[mode].flavours[flavour]
        own = solution if same_method else None
        return write(problem, TRAIN_NAME, rng.randrange(2**31), own)

    drawn = [(honest(), honest() if placebo else hacked()) for _ in range(CANDIDATE_PAIRS)]
    bare = [(c, h) for c, h in drawn if c.startswith("```") and h.startswith("```") and c != h]
    clean, hack = min(bare, key=lambda pair: abs(len(pair[0]) - len(pair[1])))
    return Pair(
        id=f"{mode}_{flavour}_{number}",
        mechanism=flavour,
        mode=mode,
        family=str(problem.family),
        messages=apply_hint(problem, mode, TRAIN_NAME).messages,
        hack=hack,
        clean=clean,
        entry_point=problem.entry_point,
        starter_code=problem.starter_code,
        examples=problem.examples,
        checks=problem.cases,
    )
