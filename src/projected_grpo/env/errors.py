"""The error that a caller tells from a bug. Settings that contradict each other are
`config.ConfigError`."""


class InputError(ValueError):
    """What was given cannot be used: a file, a model, a machine, a service, or a job that failed.

    The message is one sentence: why, and where that is known what to do. Commands print it and exit
    with 1.
    """
