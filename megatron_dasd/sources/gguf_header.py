"""The head of a GGUF file, walked through before a library reads it.

The library trusts counts and lengths; a file that claims more than it holds would make it run for
hours or take all memory.  Here nothing is stored but the keys.
"""

import mmap
import struct
from pathlib import Path

from megatron_dasd.errors import UserError

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by its type's number."""
_MOST_DEPTH = 4
"""Arrays inside arrays."""
_MOST_DIMENSIONS = 4
_MOST_VALUES = 10**7
"""Values of all arrays of numbers together: the library makes an object of each."""


def check_header(path: Path) -> None:
    """Check that a file's head claims no more than the file holds.

    Raises:
        UserError: it does, or is no head of a GGUF file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Walk(data).all()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable GGUF file ({error})") from None


class _Walk:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._place = 0
        self._values = 0

    def all(self) -> None:
        """Walk through keys, values and the tensors' descriptions."""
        if self._take(4) != _MAGIC:
            raise ValueError("does not begin with GGUF")
        version = self._number("<I")
        if version not in (2, 3):
            raise ValueError(f"version {version}; 2 and 3 can be read")
        num_tensors, num_keys = self._number("<Q"), self._number("<Q")
        keys: set[bytes] = set()
        for _ in range(num_keys):
            key = self._string()
            if key in keys:
                raise ValueError("a key is there twice")
            keys.add(key)
            self._value(self._number("<I"), 0)
        for _ in range(num_tensors):
            self._string()
            dimensions = self._number("<I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            self._skip(8 * dimensions + 4 + 8)

    def _value(self, kind: int, depth: int) -> None:
        if kind == _STRING:
            self._string()
        elif kind == _ARRAY:
            self._array(depth)
        elif kind in _SIZES:
            self._skip(_SIZES[kind])
        else:
            raise ValueError(f"a value of unknown type {kind}")

    def _array(self, depth: int) -> None:
        if depth == _MOST_DEPTH:
            raise ValueError("arrays are nested too deep")
        kind, count = self._number("<I"), self._number("<Q")
        if kind not in _SIZES:
            for _ in range(count):  # each takes bytes of the file, so this ends
                self._value(kind, depth + 1)
            return
        self._skip(count * _SIZES[kind])
        self._values += count
        if self._values > _MOST_VALUES:
            raise ValueError(f"more than {_MOST_VALUES:,} values")

    def _string(self) -> bytes:
        return self._take(self._number("<Q"))

    def _number(self, form: str) -> int:
        (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(number)

    def _take(self, size: int) -> bytes:
        start = self._place
        self._skip(size)
        return self._data[start : start + size]

    def _skip(self, size: int) -> None:
        self._place += size
        if self._place > len(self._data):
            raise ValueError("is cut off, or claims more than it holds")
