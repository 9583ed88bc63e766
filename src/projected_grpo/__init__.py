"""GRPO on code with the hack directions projected out of the gradient (see docs/method.md)."""

from pathlib import Path

__version__ = "0.1.0"

# Model cards say `import projected_grpo.peft`: modules that have moved are still found by the names
# that they had.
__path__.append(str(Path(__file__).parent / "integrations" / "old_names"))
