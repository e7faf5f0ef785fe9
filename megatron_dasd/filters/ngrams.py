"""Words, runs of words and their hashes: repetitions are found in linear time and exactly.

A hash only says where to look; every repetition returned has been compared word for word.
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_dasd.arrays import Ints

Hashes = npt.NDArray[np.uint64]
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORDS = re.compile(rf"[^\W{_CJK}]+|[{_CJK}]|[^\w\s]+")
_ASCII_WORDS = re.compile(r"\w+|[^\w\s]+", re.ASCII)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_LOOP_WINDOW = 65_536
"""Characters at the end of a text that are searched for a loop."""
_CHECKED = 8
"""Hash matches that are compared in full; so many false matches do not occur in practice."""


def words_of(text: str) -> list[str]:
    """The words of a text, whatever its language.

    A run of letters and digits is a word, so is a run of punctuation, and every CJK character.
    """
    return (_ASCII_WORDS if text.isascii() else _WORDS).findall(text)


def numbered(words: Sequence[str]) -> Ints:
    """[words] the number of each word, from 1; equal words have equal numbers."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words), start=1)}
    return np.fromiter(map(numbers.__getitem__, words), dtype=np.int64, count=len(words))


def run_hashes(numbers: Ints, size: int) -> Hashes:
    """[runs] a hash of every run of ``size`` numbers; equal runs have equal hashes."""
    num_runs = max(0, numbers.size - size + 1)
    hashes = np.zeros(num_runs, dtype=np.uint64)
    mixed = numbers.astype(np.uint64) * _BASE
    mixed ^= mixed >> np.uint64(31)
    for place in range(size):
        hashes *= _BASE
        hashes += mixed[place : place + num_runs]
    return hashes


def most_frequent_run(numbers: Ints, size: int) -> tuple[int, int]:
    """How often the most frequent run of ``size`` numbers occurs, and where it begins first.

    Occurrences may overlap.  (0, 0) without any run.
    """
    hashes = run_hashes(numbers, size)
    if not hashes.size:
        return 0, 0
    ordered = np.sort(hashes)
    borders = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    counts = np.diff(np.append(borders, ordered.size))
    alike = np.flatnonzero(hashes == ordered[borders[counts.argmax()]])
    start = int(alike[0])
    runs = numbers[alike[:, None] + np.arange(size)]
    return int((runs == numbers[start : start + size]).all(axis=1).sum()), start


def loop_at_end(text: str, repeats: int, characters: int) -> str | None:
    """Find the piece that a text ends with, repeated at least ``repeats`` times.

    Args:
        repeats: at least 2.
        characters: the repetition must be at least this long.

    Returns:
        The shortest such piece; None when the text does not end in a loop.
    """
    end = text[-_LOOP_WINDOW:]
    codes = np.frombuffer(end.encode("utf-32-le"), dtype=np.uint32)[::-1].astype(np.int64)
    size = codes.size
    period = np.arange(1, size // repeats + 1)
    times = np.maximum(repeats, -(-characters // period))
    period, times = (array[period * times <= size] for array in (period, times))
    if not period.size:
        return None
    # The end has period p over n characters when its first n - p equal its last n - p; their
    # polynomial hashes modulo 2**64 show for all p at once where that is possible.
    powers = np.cumprod(np.append(np.uint64(1), np.full(size, _BASE, dtype=np.uint64)))
    sums = np.append(np.uint64(0), np.cumsum((codes + 1).astype(np.uint64) * powers[:-1]))
    length = period * (times - 1)
    hit = sums[length] * powers[period] == sums[length + period] - sums[period]
    for p, n in zip(period[hit][:_CHECKED].tolist(), length[hit][:_CHECKED].tolist(), strict=True):
        if np.array_equal(codes[:n], codes[p : p + n]):
            return text[-p:]
    return None
