"""What can go wrong with a run's folder."""


class RunError(ValueError):
    """A run that cannot be begun, gone on with, or read; the message says what to do."""


class SaidElsewhere(Exception):  # noqa: N818
    """The launch's first process has met the error and tells of it; this one only ends."""
