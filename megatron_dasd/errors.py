"""How a run ends before its end: by a user's mistake, or because it was asked to stop."""

MISTAKE_STATUS = 2
UNEXPECTED_STATUS = 70
"""Of a run that an error ended that nobody expected (EX_SOFTWARE)."""
CLOSED_PIPE_STATUS = 141
"""Of a run whose standard output was closed early (128 + SIGPIPE)."""
INTERRUPTED_STATUS = 130
"""Of a run that Ctrl-C ended."""
STOPPED_STATUS = 75
"""Exit status of a run that stopped with its work kept; start it again (EX_TEMPFAIL)."""


class UserError(Exception):
    """A mistake that the user can fix; shown as one line, without a traceback, with exit status 2.

    The message says what is wrong, where (file, record, field, rank) and what to do about it.
    """


class NothingLeftError(UserError):
    """Every record has been dropped on the way: there is nothing to make data of."""


class UnexpectedError(UserError):
    """An error that nobody expected, in another process, whose log holds the traceback.

    Shown as one line like any other; the exit status is 70.
    """


class Stopped(KeyboardInterrupt):
    """The run was asked to stop (SIGTERM, SIGUSR1, a time limit) and resumes when started again.

    Like Ctrl-C, and unlike an error, it passes through whatever deals with errors.
    """
