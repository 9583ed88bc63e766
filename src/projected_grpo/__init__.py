"""GRPO on code with the hack directions projected out of the gradient (see docs/method.md)."""

__version__ = "0.1.0"
