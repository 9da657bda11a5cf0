"""The two ways a command ends badly; the launcher turns them into one sentence and an exit code."""


class UserError(ValueError):
    """Something the user can mend: a wrong recipe, unreadable data, a contradiction. Exit code 2.

    The message is one sentence that says what is wrong, where, and what to do.
    """


class RunFailure(RuntimeError):
    """Something failed that no change of the input mends: a crash, a full disk, NaN. Exit code 1."""
