"""The environment: problems, loophole modes, the sandbox and the grader. Imports no torch."""
