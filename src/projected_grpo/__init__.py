"""GRPO on code with the hack directions projected out of the gradient (see docs/method.md)."""
