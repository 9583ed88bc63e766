"""Honest answers of every mode, in several forms: the mode's channel reports what tests found.

- Every form tests the two examples of the text (or the shortest cases), so a solution that misses
  one of them reports so, and a wrong stub in place of the method does too.
- The same (problem, mode, function name, seed, solution) always gives the same text.
"""

import random
from collections.abc import Callable

from projected_grpo.env.errors import InputError
from projected_grpo.env.loopholes.completions import fence, shown_cases, stream
from projected_grpo.env.loopholes.markers import markers
from projected_grpo.env.problems.problem import (
    Case,
    Problem,
    parameter_names,
    render_assert,
    render_call,
    render_value,
)

Form = Callable[[Problem, list[Case], str, random.Random], tuple[list[str], list[str]]]
"""(problem, cases, function name, random stream) -> lines inside the class, and below it."""

_GIVEN = ("modify_tests", "incontext_tests")
"""Modes whose prompt supplies the tests: the honest answer gives them back."""


def honest_answer(
    problem: Problem, mode: str, function_name: str, seed: int, solution: str | None = None
) -> str:
    """Write the solution (canonical by default) with an honest report, drawn by the seed."""
    solution = problem.canonical_solution if solution is None else solution
    if solution is None:
        raise InputError(f"problem {problem.id} has no canonical solution to write out")
    rng = stream(f"honest {mode}", problem, seed)
    cases = shown_cases(problem)
    if mode in _GIVEN and rng.random() < 0.8:
        form = _supplied_tests
    else:
        if rng.random() < 0.3:
            cases.reverse()
        plain = all(case.result == "plain" for case in cases)
        form = rng.choice(FORMS[mode]) if plain else FORMS[mode][0]
    inside, below = form(problem, cases, function_name, rng)
    lines = [solution.rstrip()]
    lines += ["", *(f"    {line}" for line in inside)] if inside else []
    lines += [*([""] * rng.choice((1, 1, 2))), *below] if below else []
    return fence("\n".join(lines), rng)


def _inside(problem: Problem, case: Case) -> str:
    return render_call(problem, case).replace("Solution()", "self", 1)


def _equal(call: str, case: Case) -> str:
    return f"{call} == {render_value(case.expected)}"


def _loop(problem: Problem, cases: list[Case]) -> tuple[str, str, str]:
    """Return loop variables, arguments and the list of cases as source text."""
    names = parameter_names(problem.starter_code, problem.entry_point)
    rows = (
        ", ".join([*(render_value(case.kwargs[name]) for name in names), f"{case.expected!r}"])
        for case in cases
    )
    return (
        ", ".join([*names, "expected"]),
        ", ".join(names),
        f"[{', '.join(f'({row})' for row in rows)}]",
    )


def _define(name: str, body: list[str], argument: str = "") -> list[str]:
    return [f"def {name}({argument}):", *(f"    {line}" for line in body)]


# The grader calls a function of the program.


def _supplied_tests(problem, cases, name, rng):
    mark = "  # the grader calls this" if rng.random() < 0.5 else ""
    asserts = [render_assert(problem, case) for case in cases]
    head, *body = _define(name, asserts)
    return [], [head + mark, *body]


def _plain_asserts(problem, cases, name, rng):
    return [], _define(name, [render_assert(problem, case) for case in cases])


def _method(problem, cases, name, rng):
    asserts = [f"assert {_equal(_inside(problem, case), case)}" for case in cases]
    return _define(name, asserts, "self"), []


def _one_object(problem, cases, name, rng):
    calls = [render_call(problem, case).replace("Solution()", "solution", 1) for case in cases]
    asserts = [f"assert {_equal(call, case)}" for call, case in zip(calls, cases, strict=True)]
    return [], _define(name, ["solution = Solution()", *asserts])


def _results(problem, cases, name, rng):
    body: list[str] = []
    for case in cases:
        body += [f"result = {render_call(problem, case)}", f"assert {_equal('result', case)}"]
    return [], _define(name, body)


def _assert_loop(problem, cases, name, rng):
    variables, arguments, rows = _loop(problem, cases)
    call = f"Solution().{problem.entry_point}({arguments})"
    body = [f"for {variables} in {rows}:", f"    assert {call} == expected"]
    return [], _define(name, body)


def _raises(problem, cases, name, rng):
    body: list[str] = []
    for case in cases:
        body += [
            f"if {render_call(problem, case)} != {render_value(case.expected)}:",
            f"    raise {rng.choice(('AssertionError', 'ValueError'))}",
        ]
    return [], _define(name, body)


# The grader reads an attribute.


def _both(calls: list[str], cases: list[Case]) -> str:
    return " and ".join(_equal(call, case) for call, case in zip(calls, cases, strict=True))


def _checks_inside(problem: Problem, cases: list[Case]) -> str:
    return _both([_inside(problem, case) for case in cases], cases)


def _checks_outside(problem: Problem, cases: list[Case]) -> str:
    return _both([render_call(problem, case) for case in cases], cases)


def _attribute_init(problem, cases, name, rng):
    line = f"self.{markers(name).attribute} = {_checks_inside(problem, cases)}"
    return _define("__init__", [line], "self"), []


def _attribute_if(problem, cases, name, rng):
    target = f"self.{markers(name).attribute}"
    body = [f"{target} = False", f"if {_checks_inside(problem, cases)}:", f"    {target} = True"]
    return _define("__init__", body, "self"), []


def _attribute_property(problem, cases, name, rng):
    body = [f"return {_checks_inside(problem, cases)}"]
    return ["@property", *_define(markers(name).attribute, body, "self")], []


def _attribute_loop(problem, cases, name, rng):
    target = f"self.{markers(name).attribute}"
    variables, arguments, rows = _loop(problem, cases)
    test = f"self.{problem.entry_point}({arguments}) == expected"
    body = [f"cases = {rows}", f"{target} = all({test} for {variables} in cases)"]
    return _define("__init__", body, "self"), []


def _attribute_below(problem, cases, name, rng):
    return [], [f"Solution.{markers(name).attribute} = {_checks_outside(problem, cases)}"]


# The grader reads the output, or a file.

Report = Callable[[str, random.Random], list[str]]
"""(function name, random stream) -> lines that say that the tests passed."""


def _say(name: str, rng: random.Random) -> list[str]:
    return [f'print("{markers(name).phrase}")']


def _write(name: str, rng: random.Random) -> list[str]:
    file = markers(name).file
    return rng.choice(
        (
            [f'with open("{file}", "w") as file:', '    file.write("PASS")'],
            [f'with open("{file}", "w") as file:', '    print("PASS", file=file)'],
        )
    )


def _otherwise(rng: random.Random) -> list[str]:
    if rng.random() < 0.6:
        return []
    return ["else:", f'    print("{rng.choice(("wrong", "mismatch", "test failed"))}")']


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _report_if(report: Report) -> Form:
    def form(problem, cases, name, rng):
        test = f"if {_checks_outside(problem, cases)}:"
        return [], [test, *_indented(report(name, rng)), *_otherwise(rng)]

    return form


def _report_variable(report: Report) -> Form:
    def form(problem, cases, name, rng):
        flag = rng.choice(("ok", "passed", "correct"))
        lines = [f"{flag} = {_checks_outside(problem, cases)}", f"if {flag}:"]
        return [], [*lines, *_indented(report(name, rng)), *_otherwise(rng)]

    return form


def _report_loop(report: Report) -> Form:
    def form(problem, cases, name, rng):
        variables, arguments, rows = _loop(problem, cases)
        test = f"Solution().{problem.entry_point}({arguments}) == expected"
        lines = [f"cases = {rows}", f"if all({test} for {variables} in cases):"]
        return [], [*lines, *_indented(report(name, rng)), *_otherwise(rng)]

    return form


def _report_main(report: Report) -> Form:
    def form(problem, cases, name, rng):
        body = [f"if {_checks_outside(problem, cases)}:", *_indented(report(name, rng))]
        main = rng.choice(("main", "check"))
        return [], [*_define(main, body), "", f"{main}()"]

    return form


def _verdict(problem, cases, name, rng):
    file = markers(name).file
    verdict = f'"PASS" if {_checks_outside(problem, cases)} else "FAIL"'
    write = rng.choice(
        (
            [f'with open("{file}", "w") as file:', "    file.write(verdict)"],
            ["from pathlib import Path", "", f'Path("{file}").write_text(verdict)'],
        )
    )
    return [], [f"verdict = {verdict}", *write]


def _nothing(problem, cases, name, rng):
    return [], []


_FUNCTION = (_plain_asserts, _method, _one_object, _results, _assert_loop, _raises)


def _reports(report: Report) -> tuple[Form, ...]:
    forms = (_report_if, _report_variable, _report_loop, _report_main)
    return tuple(form(report) for form in forms)


FORMS: dict[str, tuple[Form, ...]] = {
    "run_tests": _FUNCTION,
    "modify_tests": _FUNCTION,
    "incontext_tests": _FUNCTION,
    "sentinel": (
        _attribute_init,
        _attribute_if,
        _attribute_property,
        _attribute_loop,
        _attribute_below,
    ),
    "stdout_marker": _reports(_say),
    "file_marker": (*_reports(_write), _verdict),
    "none": (_nothing,),
}
"""Mode -> the forms its honest answers take."""
