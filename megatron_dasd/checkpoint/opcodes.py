"""A pickle's opcodes, followed before any unpickler runs them.

An unpickler does what the opcodes say, at once: it allocates a table of 4 G entries for one memo
index, and hashes a tuple that is 40 references deep 2^40 times.  Here the opcodes are followed on
numbers alone.  A pickle whose cost is not bounded by its length is refused, and so is every opcode
that Python's pickler does not write under protocols 2 to 5, among them all that hold text.
"""

import pickle

_MAX_WEIGHT = 10_000
"""Values that a key may hold, and so what its hash costs; those inside its parts are counted."""
_MOST_MARKS = 1000
"""Containers that may be begun inside one another; Python's pickler cannot nest more."""
_ENOUGH = 10**9
"""Heavier values all weigh this."""
_EMPTY = frozenset(b"]}\x8f")
_PUSH = {
    **dict.fromkeys(b"N)\x88\x89", 0),
    **dict.fromkeys(b"K", 1),
    **dict.fromkeys(b"M", 2),
    **dict.fromkeys(b"J", 4),
    **dict.fromkeys(b"G", 8),
}
"""Opcodes that push a value; bytes that follow each."""
_PUSH_COUNTED = {
    **dict.fromkeys(b"C\x8a", 1),
    **dict.fromkeys(b"BX\x8b", 4),
    **dict.fromkeys(b"\x8d\x8e\x96", 8),
}
"""Opcodes that push a value; bytes of the count that follows each, and then that many bytes."""
_JOIN = {
    **dict.fromkeys(b"\x85Q", 1),
    **dict.fromkeys(b"\x86\x93R\x81", 2),
    **dict.fromkeys(b"\x87\x92", 3),
}
"""Opcodes that make one value of several; how many."""
_JOIN_TO_MARK = frozenset(b"tld\x91")
_PUT_IN = {ord("a"): 1, ord("s"): 2}
"""Opcodes that put values into the list or dict below them; how many."""
_PUT_IN_TO_MARK = frozenset(b"eu\x90")
_HASHED = {**dict.fromkeys(b"sud", 2), **dict.fromkeys(b"\x90\x91", 1)}
"""Opcodes that hash every second value, or all that they are given."""
_GET = {ord("j"): 4}
_PUT = {ord("q"): 1, ord("r"): 4}
_MEMOIZE, _BINGET, _SHORT_BINUNICODE = 0x94, ord("h"), 0x8C
_SKIP = {0x80: 1, 0x95: 8}
"""Protocol and frame."""
_ATOM = [1]
"""Stands for every value that holds no other."""


def check_opcodes(data: bytes, start: int = 0) -> int:
    """Follow one pickle.

    Args:
        data: bytes that hold it.
        start: where it begins.

    Returns:
        Where it ends.

    Raises:
        pickle.UnpicklingError: it is cut off, holds an opcode that is not admitted, or what it
            builds is not bounded by its length.
    """
    try:
        return _Follower(data, start).follow()
    except (IndexError, KeyError):
        raise pickle.UnpicklingError("holds a pickle that is cut off or damaged") from None


class _Follower:
    """The stack and the memo, each value a list of one number: its weight.

    A value in the memo is the same list, so what an object is given later counts everywhere.
    """

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._at = data, start
        self._stack: list[list[int]] = []
        self._below_marks: list[list[list[int]]] = []
        self._memo: dict[int, list[int]] = {}

    def follow(self) -> int:
        data, memo = self._data, self._memo
        while True:
            # the opcodes that a large checkpoint's metadata is made of, without a call
            opcode = data[self._at]
            self._at += 1
            if opcode == _MEMOIZE:
                memo[len(memo)] = self._stack[-1]
            elif opcode in _PUSH:
                self._at += _PUSH[opcode]
                self._stack.append(_ATOM)
            elif opcode == _BINGET:
                self._stack.append(memo[data[self._at]])
                self._at += 1
            elif opcode == _SHORT_BINUNICODE:
                self._at += 1 + data[self._at]
                self._stack.append(_ATOM)
            elif opcode in _JOIN:
                self._join(_JOIN[opcode])
            elif opcode in _EMPTY:
                self._stack.append([1])
            elif opcode == ord("("):
                if len(self._below_marks) == _MOST_MARKS:
                    raise pickle.UnpicklingError(f"nests over {_MOST_MARKS:,} values: refused")
                self._below_marks.append(self._stack)
                self._stack = []
            elif opcode in _PUT_IN_TO_MARK:
                self._fill(opcode, self._to_mark())
            elif opcode == ord("b"):
                self._put_in([self._stack.pop()])
            elif opcode == ord("."):
                return self._at
            else:
                self._rarer(opcode)

    def _put_in(self, values: list[list[int]]) -> None:
        """The value on top takes others: items, or an object its state."""
        target = self._stack[-1]
        if target is _ATOM:
            raise IndexError
        target[0] = min(_ENOUGH, target[0] + sum(value[0] for value in values))

    def _rarer(self, opcode: int) -> None:
        """Follow an opcode that is none of the most frequent."""
        if opcode in _PUSH_COUNTED:
            self._skip(self._number(_PUSH_COUNTED[opcode]))
            self._stack.append(_ATOM)
        elif opcode in _GET:
            self._stack.append(self._memo[self._number(_GET[opcode])])
        elif opcode in _PUT:
            self._put(self._number(_PUT[opcode]))
        elif opcode in _JOIN_TO_MARK:
            values = self._to_mark()
            _check_hashed(opcode, values)
            self._make(values)
        elif opcode == ord("1"):
            self._to_mark()
        elif opcode in _PUT_IN:
            values = self._stack[-_PUT_IN[opcode] :]
            del self._stack[-_PUT_IN[opcode] :]
            self._fill(opcode, values)
        elif opcode == ord("c"):  # GLOBAL: two lines
            for _ in range(2):
                end = self._data.find(b"\n", self._at)
                if end < 0:
                    raise IndexError
                self._at = end + 1
            self._stack.append(_ATOM)
        elif opcode in _SKIP:
            self._skip(_SKIP[opcode])
        elif opcode == ord("0"):
            self._stack.pop()
        else:
            raise pickle.UnpicklingError(
                f"holds pickle opcode {bytes((opcode,))!r}, which no checkpoint needs: refused"
            )

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise IndexError

    def _number(self, num_bytes: int) -> int:
        start = self._at
        self._skip(num_bytes)
        return int.from_bytes(self._data[start : self._at], "little")

    def _put(self, index: int) -> None:
        if index > len(self._memo):
            raise pickle.UnpicklingError(f"holds a memo index of {index:,}: refused")
        self._memo[index] = self._stack[-1]

    def _fill(self, opcode: int, values: list[list[int]]) -> None:
        """Add items to the container on top of the stack."""
        _check_hashed(opcode, values)
        self._put_in(values)

    def _join(self, count: int) -> None:
        values = self._stack[-count:]
        if len(values) < count:
            raise IndexError
        del self._stack[-count:]
        self._make(values)

    def _make(self, values: list[list[int]]) -> None:
        self._stack.append([min(_ENOUGH, 1 + sum(value[0] for value in values))])

    def _to_mark(self) -> list[list[int]]:
        values, self._stack = self._stack, self._below_marks.pop()
        return values


def _check_hashed(opcode: int, values: list[list[int]]) -> None:
    """Bound what it costs to hash the keys of a dict or the items of a set."""
    for (weight,) in values[:: _HASHED[opcode]] if opcode in _HASHED else ():
        if weight > _MAX_WEIGHT:
            raise pickle.UnpicklingError(f"holds a key of over {_MAX_WEIGHT:,} values: refused")
