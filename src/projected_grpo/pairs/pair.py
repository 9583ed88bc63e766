"""What a contrast pair is."""

from dataclasses import dataclass, field

from projected_grpo.env.loopholes.modes import flavour_of
from projected_grpo.env.parsing import extract_code
from projected_grpo.env.problems.problem import Case, Messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A pair is one prompt with two whole completions."""

    id: str
    mechanism: str
    """How the hack gets past the grader (finer than a mode: weak_predicate, print_only, ...). In
    the control sets, that of the built-in pair on the same task."""
    mode: str
    """The loophole mode whose hint the prompt carries."""
    family: str
    """Pairs of one family are on the same task or variants of it, and are held out together."""
    messages: Messages = field(repr=False)
    """System and user turn, exactly as a training prompt under `mode` has them."""
    hack: str = field(repr=False)
    clean: str = field(repr=False)
    entry_point: str
    starter_code: str = field(repr=False)
    examples: tuple[Case, ...] = field(repr=False)
    """The cases that the description shows."""
    checks: tuple[Case, ...] = field(repr=False)
    """Cases that it does not show."""

    @property
    def flavour(self) -> str | None:
        """Name the form of the hack as rollouts are labelled; None where `flavour_of` sees none."""
        code = extract_code(self.hack)
        return None if code is None else flavour_of(code, self.entry_point, mode=self.mode)
