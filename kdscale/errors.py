"""The ways a command ends before its end; the launcher turns them into one sentence and an exit code."""


class UserError(ValueError):
    """Something the user can mend: a wrong recipe, unreadable data, a contradiction. Exit code 2.

    The message is one sentence that says what is wrong, where, and what to do.
    """


class RunFailure(RuntimeError):
    """Something failed that no change of the input mends: a crash, a full disk, NaN. Exit code 1."""


class NotFinite(RunFailure):
    """A loss became NaN or infinite. The steps are a function of the seed, so another start would end there again."""


class Stopped(Exception):
    """Asked to stop (SIGTERM, SIGUSR1, Ctrl-C): everything is saved, and the same command goes on from there.

    Exit code 130 after Ctrl-C, else 143.
    """

    interrupted = False
    """By Ctrl-C."""


def in_a_line(error: BaseException) -> str:
    """An error as part of a sentence: a failure's own words, else the exception's name and its first line."""
    if isinstance(error, UserError | RunFailure):
        return " ".join(str(error).split())
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
