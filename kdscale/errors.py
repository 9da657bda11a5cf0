"""The ways a command ends before its end; the launcher turns them into one sentence and an exit code."""


class UserError(ValueError):
    """Something the user can mend: a wrong recipe, unreadable data, a contradiction. Exit code 2.

    The message is one sentence that says what is wrong, where, and what to do.
    """


class RunFailure(RuntimeError):
    """Something failed that no change of the input mends: a crash, a full disk, NaN. Exit code 1."""


class Stopped(Exception):
    """Asked to stop (SIGTERM, SIGUSR1, Ctrl-C): everything is saved, and the same command goes on from there.

    Exit code 130 after Ctrl-C, else 143.
    """

    interrupted = False
    """By Ctrl-C."""
