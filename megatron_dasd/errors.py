"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """A mistake that the user can mend; shown as one line, without a traceback, with exit status 2.

    The message says what is wrong, where (file, record, field, rank) and what to do about it.
    """
