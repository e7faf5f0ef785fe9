"""JSON lines and JSON arrays, compressed or not: the text of one record after the other."""

import io
import json
import lzma
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pyarrow as pa

from megatron_dasd.errors import UserError

JSON_KINDS = (".jsonl", ".ndjson", ".json")
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
_BUFFER_BYTES = 1 << 20
_BLOCK = 1 << 20
"""Characters of an array that are read at a time."""
_BLANK = re.compile(r"\s*")
_decode = json.JSONDecoder().raw_decode


def kind_of(file: Path) -> str:
    """A file's suffix in lower case, without a compression's: ``.jsonl`` of ``a.jsonl.gz``."""
    suffix = file.suffix.lower()
    return Path(file.stem).suffix.lower() if suffix in COMPRESSIONS else suffix


def is_plain_lines(file: Path) -> bool:
    """Whether a file is uncompressed JSON lines, of which a range of bytes can be read alone."""
    if file.suffix.lower() in COMPRESSIONS or kind_of(file) not in (*JSON_KINDS, ""):
        return False
    with _open(file) as lines:
        return not _is_array(lines)


def json_rows(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the text of each record with its number from 1; blank lines count and are left out.

    Raises:
        UserError: the file is not UTF-8, its compression is damaged, or it is an array that is no
            JSON.
    """
    with _open(file) as lines:
        if _is_array(lines):
            text = io.TextIOWrapper(lines, encoding="utf-8-sig", newline="")
            yield from enumerate(_elements(file, text), start=1)
            return
        for number, line in enumerate(lines, start=1):
            try:
                text_of_line = line.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{file}: record {number}: not UTF-8 text ({error.reason} at byte "
                    f"{error.start} of the line)"
                ) from None
            if text_of_line.strip("\ufeff \t\r\n"):
                _check_one_line(file, number, text_of_line)
                yield number, text_of_line.rstrip("\r\n")


def count_json_rows(file: Path) -> int:
    """How many records a file holds, malformed ones included; raises as :func:`json_rows`."""
    if is_plain_lines(file):
        with file.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    return sum(1 for _ in json_rows(file))


def _check_one_line(file: Path, number: int, line: str) -> None:
    if number == 1 and line.strip("\ufeff \t\r\n") == "{":
        raise UserError(
            f"{file}: record 1: bad JSON (an object over several lines; expected an object a line, "
            "or an array of objects)"
        )


@contextmanager
def _open(file: Path) -> Iterator["io.BufferedReader[io.RawIOBase]"]:
    """The file's bytes, decompressed.

    Raises:
        UserError: here or while it is read: the file cannot be read, or is UTF-16.
    """
    try:
        with io.BufferedReader(_decompressed(file), _BUFFER_BYTES) as stream:
            encoding = json.detect_encoding(stream.peek(4)[:4])
            if not encoding.startswith("utf-8"):
                raise UserError(
                    f"{file}: {encoding.upper()} text; convert it: "
                    f"iconv -f {encoding.upper()} -t UTF-8"
                )
            yield stream
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable ({error})") from None


def _decompressed(file: Path) -> io.RawIOBase:
    if file.suffix.lower() == ".xz":  # the one that Arrow lacks
        return cast(io.RawIOBase, lzma.open(file))
    return cast(io.RawIOBase, pa.input_stream(str(file), compression="detect"))


def _is_array(stream: "io.BufferedReader[io.RawIOBase]") -> bool:
    return stream.peek(1).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _elements(file: Path, text: io.TextIOWrapper) -> Iterator[str]:
    """Yield the elements of an array; memory holds one of them and a block of text."""
    array, number = _Array(text), 0
    try:
        while (element := array.next_element()) is not None:
            number += 1
            yield element
        array.check_end()
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: record {number + 1}: bad JSON ({error.msg})") from None
    except RecursionError:
        raise UserError(f"{file}: record {number + 1}: bad JSON (nested too deep)") from None


class _Array:
    """An array's text, of which a window is held."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._window, self._at = text, "", 0
        self._skip_blank()
        self._before = self._window[self._at]  # the bracket, then the comma before each element
        self._at += 1

    def next_element(self) -> str | None:
        """The text of the next element; None at the end of the array."""
        mark = self._skip_blank()
        if mark == "]":
            self._at += 1
            return None
        if self._before == ",":
            if mark != ",":
                raise json.JSONDecodeError("Expecting ',' between two records", "", 0)
            self._at += 1
            self._skip_blank()
        self._before = ","
        return self._decoded()

    def check_end(self) -> None:
        """Check that nothing follows the array."""
        if self._skip_blank():
            raise json.JSONDecodeError("text follows the end of the array", "", 0)

    def _decoded(self) -> str:
        while True:
            try:
                _, end = _decode(self._window, self._at)
            except json.JSONDecodeError:
                if not self._read_more():
                    raise
                continue
            # a number that ends with the window may go on after it
            if end < len(self._window) or not self._read_more():
                element, self._at = self._window[self._at : end], end
                return element

    def _skip_blank(self) -> str:
        """Skip whitespace; returns the character that follows, none at the end of the file."""
        while True:
            blank = _BLANK.match(self._window, self._at)
            assert blank is not None
            self._at = blank.end()
            if self._at < len(self._window) or not self._read_more():
                return self._window[self._at : self._at + 1]

    def _read_more(self) -> bool:
        rest = self._window[self._at :]
        more = self._text.read(max(_BLOCK, len(rest)))
        if more:
            self._window, self._at = rest + more, 0
        return bool(more)
