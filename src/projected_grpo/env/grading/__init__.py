"""From the text of a completion to its grade.

grade.py reads top to bottom: text, program, runs in the sandbox, Grade. pool.py grades many at a
time, in workers (worker.py); command.py is the `grade` command.
"""
