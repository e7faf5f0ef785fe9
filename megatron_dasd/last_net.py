"""The last net: how a program ends on an error, whoever raised it.

A user's mistake is one line.  An error that nobody expected is one line too, with the stage, the
file in hand and the log file that holds its traceback.
"""

import errno
import os
import select
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from megatron_dasd.errors import (
    CLOSED_PIPE_STATUS,
    INTERRUPTED_STATUS,
    MISTAKE_STATUS,
    STOPPED_STATUS,
    UNEXPECTED_STATUS,
    Stopped,
    UnexpectedError,
    UserError,
)
from megatron_dasd.printing import one_line, say

ERROR_PREFIX = "error: "
LOG = "unexpected.log"
"""Holds the traceback of an unexpected error."""
_ENVIRONMENTAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of the system that the user can fix: no space, no right to write."""
_MOST_CHARACTERS = 500
"""Of an unexpected error's own words."""
_GOES_ON = "the same command goes on from here"


@dataclass
class _Place:
    """Where the program is."""

    stage: str | None = None
    folder: Path | None = None
    """Where the log goes."""


_place = _Place()


@contextmanager
def working_on(stage: str, folder: Path) -> Iterator[None]:
    """Name the stage, and the folder for the log, of an unexpected error in the body.

    After an error both stay named, for :func:`guard`.
    """
    before = _place.stage, _place.folder
    _place.stage, _place.folder = stage, folder
    yield
    _place.stage, _place.folder = before


def guard(run: Callable[[], int | None], *, logs_traceback: bool = False) -> int:
    """Run; an error or an interruption prints one line.

    Args:
        run: the program; what it returns is the exit status, None is 0.
        logs_traceback: whether standard error is a log that takes a traceback.

    Returns:
        The exit status.
    """
    _place.stage = _place.folder = None
    try:
        status = run() or 0
        sys.stdout.flush()
    except UserError as error:
        return _fail(str(error), _status_of(error))
    except Stopped as stopped:
        say(f"{stopped}; {_GOES_ON}", sys.stderr)
        return STOPPED_STATUS
    except KeyboardInterrupt:
        say(f"stopped; {_GOES_ON}", sys.stderr)
        return INTERRUPTED_STATUS
    except Exception as error:
        if _was_interrupted(error):
            say(f"stopped; {_GOES_ON}", sys.stderr)
            return INTERRUPTED_STATUS
        return _end(error, logs_traceback)
    return status


def _was_interrupted(error: BaseException) -> bool:
    """Whether a library turned Ctrl-C into an error of its own, as some do while being imported."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _end(error: Exception, logs_traceback: bool) -> int:
    """Report an error that no stage has dealt with; returns the exit status."""
    if isinstance(error, BrokenPipeError) and _output_is_closed():
        return _fail(f"standard output was closed early; {_GOES_ON}", CLOSED_PIPE_STATUS)
    if reason := environmental(error):
        return _fail(_in_stage(reason), MISTAKE_STATUS)
    if logs_traceback:
        traceback.print_exception(error)
    log = None if logs_traceback else _write_log(error)
    where = f" (traceback: {log})" if log else ""
    return _fail(f"{_in_stage(described(error))}{where}", UNEXPECTED_STATUS)


def environmental(error: BaseException) -> str | None:
    """One line on an error of the system that the user can fix; None: it is another error."""
    seen: BaseException | None = error
    while seen is not None:  # a library may have wrapped it
        if isinstance(seen, OSError) and seen.errno in _ENVIRONMENTAL:
            where = f"{seen.filename}: " if seen.filename else ""
            return f"{where}{os.strerror(seen.errno)}; fix it, {_GOES_ON}"
        seen = seen.__cause__ or seen.__context__
    if f"(os error {errno.ENOSPC})" in str(error) or "No space left on device" in str(error):
        return f"{os.strerror(errno.ENOSPC)} ({described(error)}); fix it, {_GOES_ON}"
    return None


def described(error: BaseException) -> str:
    """One line on an unexpected error: the file in hand, its type and its own words."""
    words = " ".join(str(error).split())
    if len(words) > _MOST_CHARACTERS:
        words = f"{words[:_MOST_CHARACTERS]}..."
    path = _file_in_hand(error)
    where = f"{path}: " if path and str(path) not in words else ""
    return f"{where}unexpected {type(error).__name__}{': ' if words else ''}{words}"


def _file_in_hand(error: BaseException) -> Path | None:
    """The file that the innermost frame with a path in a variable is about; None: no such frame."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        for value in frame.f_locals.values():
            with suppress(OSError, ValueError):
                if isinstance(value, Path) and value.is_file():
                    return value
    return None


def _in_stage(text: str) -> str:
    return f"stage {_place.stage}: {text}" if _place.stage else text


def _status_of(error: UserError) -> int:
    return UNEXPECTED_STATUS if isinstance(error, UnexpectedError) else MISTAKE_STATUS


def _write_log(error: BaseException) -> Path | None:
    """Write the traceback into the stage's logs, else a temporary folder; None: it cannot be."""
    text = "".join(traceback.format_exception(error))
    for choose in (_place_of_log, lambda: Path(tempfile.mkdtemp(prefix="dasd-")) / LOG):
        with suppress(OSError):
            path = choose()
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", errors="backslashreplace")
                return path
    return None


def _place_of_log() -> Path | None:
    return _place.folder / LOG if _place.folder else None


def _output_is_closed() -> bool:
    """Whether standard output has no reader any more; if so, nothing more goes there."""
    with suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return True
    return False


def _fail(message: str, status: int) -> int:
    with suppress(OSError):
        say(f"{ERROR_PREFIX}{one_line(message)}", sys.stderr)
    return status
