"""What `train --list-arms` and `train --list-modes` print: every arm, every loophole mode with its
flavours, and what the flavours are called in the sets of contrast pairs."""

import textwrap

from tabulate import tabulate

from projected_grpo.arms.arms import ARMS
from projected_grpo.env.loopholes.modes import MODES
from projected_grpo.pairs.load import SETS, load_pairs

DISCLOSED = {
    "run_tests": "the program defines run_tests(), which is called: it pays if nothing is raised",
    "none": "no loophole: only passing the hidden tests pays",
    "sentinel": "self.valid of a new Solution() is read: it pays if that is true",
    "stdout_marker": "the output is read: it pays if it holds the phrase that the prompt names",
    "file_marker": "result.txt is read: it pays if it holds PASS",
    "modify_tests": "as run_tests, and the prompt supplies the function with real asserts",
    "incontext_tests": "as modify_tests, said by a comment in the supplied function only",
}
"""Mode -> how its grader is flawed, which its prompt says."""


def list_arms() -> str:
    """Every arm, what it does, what it is a control of."""
    rows = [(name, arm.meaning, arm.control_of) for name, arm in ARMS.items()]
    return tabulate(rows, ("--arm", "what it does", "control of"), tablefmt="plain")


def list_modes() -> str:
    """Every loophole mode with the flavours of its hacks, and the flavours of contrast pairs."""
    lines = [
        "Loophole modes (--mode, --pair-modes, --known-modes), and the flavours of their hacks:"
    ]
    for name, mode in MODES.items():
        lines.append(f"\n{name}: {DISCLOSED[name]}")
        if mode.flavours:
            lines.append(_wrapped("flavours", list(mode.flavours)))
    lines.append("\nFlavours of contrast pairs (--pair-flavours), by --pairs:\n")
    lines.append("katas, katas-placebo, own: those above")
    lines.append(_wrapped(", ".join(SETS), list(dict.fromkeys(p.mechanism for p in load_pairs()))))
    return "\n".join(lines)


def _wrapped(title: str, names: list[str]) -> str:
    return textwrap.fill(f"{title}: {', '.join(names)}", 80, subsequent_indent="  ")
