"""What is printed: texts of models, servers and files cannot steer the terminal."""

import sys
import time
from typing import TextIO

_KEPT = "\n\t"
_DIRECTIONS = (*range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Characters that change the direction of the text after them."""
_LINE_BREAKS = (0x2028, 0x2029)
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_ESCAPES = {
    code: _escape(code)
    for code in (*_CONTROLS, *_DIRECTIONS, *_LINE_BREAKS, *range(0xD800, 0xE000))
    if chr(code) not in _KEPT
}


def shown(text: str) -> str:
    """A text with its control characters written out, e.g. ``\\x1b``; tabs and line breaks stay."""
    return text.translate(_ESCAPES)


def one_line(text: str) -> str:
    """A text as one line that can be printed: line breaks become spaces."""
    return shown(" ".join(text.splitlines()))


def say(text: str, file: TextIO | None = None) -> None:
    """Print a text at once, its control characters written out.

    Args:
        text: one or more lines.
        file: None: standard output.
    """
    global _last_time
    print(shown(text), file=file or sys.stdout, flush=True)
    _last_time = time.monotonic()


def silent_seconds() -> float:
    """Seconds since :func:`say` last printed something in this process, or since it started."""
    return time.monotonic() - _last_time


_last_time = time.monotonic()
