"""A reward of one's own in the place of the grader's: `--reward=module:function`.

The function gets a completion's text, its problem and its grade, and returns a number. It runs in
the trainer's process and is trusted as the trainer is; the text it gets is a model's.
"""

import hashlib
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from projected_grpo.env.errors import InputError
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.names import nearest
from projected_grpo.env.problems.problem import Problem
from projected_grpo.env.sandbox.sandbox import Outcome

OwnReward = Callable[[str, Problem, Grade], float]


@cache
def load_reward(name: str) -> OwnReward | None:
    """The function that module:function names, its module found as a script in this folder would
    find it; None where the name is "". Raises InputError where it is not there; what the module
    itself raises is passed on."""
    if not name:
        return None
    module_name, _, function_name = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise InputError(
                f"--reward={name}: there is no module {error.name} in {here} or among the "
                "installed packages"
            ) from error
        raise InputError(
            f"--reward={name}: {module_name} imports {error.name}, which is not installed"
        ) from error
    except SyntaxError as error:
        raise InputError(f"--reward={name}: {module_name} is not Python: {error}") from error
    found = getattr(module, function_name, None)
    if not callable(found):
        near = nearest(function_name, vars(module))
        said = f"; did you mean {near}?" if near else ""
        raise InputError(f"--reward={name}: {module_name} has no function {function_name}{said}")
    try:
        inspect.signature(found).bind("text", None, None)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"--reward={name}: it is called with (text, problem, grade), which it does not take: "
            f"{error}"
        ) from error
    return cast(OwnReward, found)


def paid_by(own: OwnReward, text: str, problem: Problem, grade: Grade) -> Grade:
    """The grade with one's own reward; as it is where the grader itself failed. Raises InputError
    where the reward is no finite number."""
    if grade.outcome == Outcome.INFRA_ERROR:
        return grade
    reward = own(text, problem, grade)
    number = isinstance(reward, int | float) or hasattr(reward, "__float__")
    if not number or not math.isfinite(float(reward)):
        raise InputError(
            f"the reward of {own.__module__}:{own.__qualname__} for an answer to problem "
            f"{problem.id} is {reward!r}: it must be a finite number"
        )
    return replace(grade, reward=float(reward))


def describe_reward(name: str) -> dict[str, Any] | None:
    """What run.json says of it: its name, and sha256 of the file that it is in, None where it has
    none; None of the grader's own."""
    own = load_reward(name)
    if own is None:
        return None
    file = inspect.getsourcefile(own) if inspect.isfunction(own) else None
    digest = file and hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return {"name": name, "file": file, "sha256": digest}
