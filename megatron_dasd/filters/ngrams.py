"""Words, runs of words and their hashes: repetitions are found in linear time and exactly.

A hash only says where to look; every repetition returned has been compared word for word.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from megatron_dasd.arrays import Ints

Hashes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int32]
_Scalar = TypeVar("_Scalar", np.int64, np.float32)
# Chinese, Japanese, Korean; Thai and Lao, Myanmar, Khmer: scripts that put no space between words
_UNSPACED = (
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
)
# vowel signs and accents, which belong to the word that they stand in, though no letters
_MARKS = "".join(chr(c) for c in range(0x300, 0x1000) if unicodedata.category(chr(c))[0] == "M")
_WORDS = re.compile(rf"[^\W{_UNSPACED}](?:[^\W{_UNSPACED}]|[{_MARKS}])*|[{_UNSPACED}]|[^\w\s]+")
_ASCII_WORDS = re.compile(r"\w+|[^\w\s]+", re.ASCII)
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_DIGITS = re.compile(r"\d+")
_BASE = np.uint64(0x9E3779B97F4A7C15)
_LOOP_WINDOW = 65_536
"""Characters at the end of a text that are searched for a loop."""
_CHECKED = 8
"""Most hash matches that are compared in full; more false matches do not occur in practice."""
_NO_NUMBER = -1
_MOST_DIGITS = 15
"""Of a number that is compared with others; what is longer is a word."""
OTHER_SHARE = 0.2
"""What a digit or a mark counts in a loop, where a letter counts 1."""


def words_of(text: str) -> list[str]:
    """The words of a text, whatever its language.

    A run of letters and digits is a word, so is a run of punctuation, and every character of a
    script without spaces between words.
    """
    return (_ASCII_WORDS if text.isascii() else _WORDS).findall(text)


def numbered(words: Sequence[str]) -> Ints:
    """[words] the number of each word, from 1; equal words have equal numbers."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words), start=1)}
    return np.fromiter(map(numbers.__getitem__, words), dtype=np.int64, count=len(words))


@dataclass(frozen=True)
class Words:
    """The words of a text, with what each of them weighs in a repetition."""

    words: list[str]
    different: list[str]
    """Every different word once, in the order of ``ids``."""
    ids: Places
    """[words] index in ``different``."""

    @classmethod
    def of(cls, parts: Sequence[str], gap: int) -> Self:
        """The words of the parts; ``gap`` words that no text contains end each part."""
        words: list[str] = []
        for part in parts:
            words += words_of(part)
            words += [f"\n{len(words)} {place}" for place in range(gap)]
        numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
        ids = np.fromiter(map(numbers.__getitem__, words), dtype=np.int32, count=len(words))
        return cls(words, list(numbers), ids)

    @cached_property
    def shapes(self) -> Places:
        """[words] the number of each word's shape: words are alike but for their first number."""
        shapes = [w if w.isalpha() else _DIGITS.sub("\0", w, count=1) for w in self.different]
        return numbered(shapes).astype(np.int32)[self.ids]

    @cached_property
    def values(self) -> Ints:
        """[words] the first number in each word, -1 without any."""
        return self._each([_first_number(word) for word in self.different], np.int64)

    @cached_property
    def prose(self) -> Floats:
        """[words] 1 for a word of prose, 0.5 for one character of a script without spaces, else 0.

        A word of prose has two letters or more and follows another such word: the names and values
        of tables, logs, dumps and code stand between marks.
        """
        weights = self._each(
            [
                0.0 if not word[0].isalpha() else 0.5 if _IS_UNSPACED.match(word) else len(word) > 1
                for word in self.different
            ],
            np.float32,
        )
        weights[1:] *= weights[:-1] > 0
        weights[:1] = 0
        return weights

    @cached_property
    def loop_weights(self) -> Floats:
        """[words] what the characters of each word count in a loop."""
        return self._each([loop_weight(word) for word in self.different], np.float32)

    @cached_property
    def befores(self) -> dict[int, Places]:
        """By length of the runs: :func:`runs_before` of the shapes, filled on demand."""
        return {}

    def shapes_before(self, size: int) -> Places:
        """[runs] :func:`runs_before` of the words' shapes."""
        if size not in self.befores:
            self.befores[size] = runs_before(self.shapes, size)
        return self.befores[size]

    def numbers_that_jump(self, back: Places) -> Places:
        """Words whose number differs from the one ``back`` words before by another step than that.

        Args:
            back: [words] distance to the word to compare with; 0: none.
        """
        places = np.flatnonzero((self.values != _NO_NUMBER) & (back > 0)).astype(np.int32)
        steps = np.zeros(back.size, dtype=np.int64)
        earlier = places - back[places]
        steps[places] = self.values[places] - self.values[earlier]
        jumps: Places = places[(steps[places] != 0) & (steps[places] != steps[earlier])]
        return jumps

    def _each(self, values: Sequence[float], dtype: type[_Scalar]) -> npt.NDArray[_Scalar]:
        """[words] from a value for each different word."""
        return np.array(values, dtype=dtype)[self.ids]


def _first_number(word: str) -> int:
    digits = None if word.isalpha() else _DIGITS.search(word)
    return int(digits[0]) if digits and len(digits[0]) <= _MOST_DIGITS else _NO_NUMBER


def loop_weight(text: str) -> float:
    """The characters of a text as a loop counts them: letters 1, others :data:`OTHER_SHARE`."""
    visible = "".join(text.split())
    letters = len(visible) if visible.isalpha() else sum(map(str.isalpha, visible))
    return letters + OTHER_SHARE * (len(visible) - letters)


def run_hashes(numbers: npt.NDArray[np.integer], size: int) -> Hashes:
    """[runs] a hash of every run of ``size`` numbers; equal runs have equal hashes."""
    num_runs = max(0, numbers.size - size + 1)
    hashes = np.zeros(num_runs, dtype=np.uint64)
    mixed = numbers.astype(np.uint64) * _BASE
    mixed ^= mixed >> np.uint64(31)
    for place in range(size):
        hashes *= _BASE
        hashes += mixed[place : place + num_runs]
    return hashes


def runs_before(numbers: npt.NDArray[np.integer], size: int) -> Places:
    """[runs] where the last equal run before each run of ``size`` numbers begins; -1: nowhere."""
    hashes = run_hashes(numbers, size)
    before = np.full(hashes.size, -1, dtype=np.int32)
    # the upper bits of the hash and the place in one number, since values sort faster than places
    low_bits = np.uint64((1 << hashes.size.bit_length()) - 1)
    ordered = np.sort((hashes & ~low_bits) | np.arange(hashes.size, dtype=np.uint64))
    again = np.flatnonzero((ordered[1:] ^ ordered[:-1]) <= low_bits)
    order = (ordered & low_bits).astype(np.int32)
    here, earlier = order[again + 1], order[again]
    equal = np.ones(here.size, dtype=np.bool_)
    for place in range(size):
        equal &= numbers[here + place] == numbers[earlier + place]
    before[here[equal]] = earlier[equal]
    return before


def longest_stretch(words: Words, size: int, new_costs: float) -> tuple[float, int, int]:
    """The stretch of a text that says most of what was said at least twice before.

    A word is said again when it lies in a run of ``size`` words that occurs twice before.  Numbers
    are alike in this, but one that does not go on as it did before (by the same step, or not at
    all) is as new as a word.

    Returns:
        (words of prose said again, less ``new_costs`` times those that are new; first word of the
        stretch; the word after its last).
    """
    before = words.shapes_before(size)
    twice = np.flatnonzero((before >= 0) & (before[before] >= 0))
    if not twice.size:
        return 0.0, 0, 0
    # the run that shows each word to be said again: the last that begins no later than the word
    last = np.full(words.ids.size, -size, dtype=np.int32)
    last[twice] = twice
    np.maximum.accumulate(last, out=last)
    again = np.arange(last.size, dtype=np.int32) - last < size
    jumps = words.numbers_that_jump(np.where(again, last - before[last], 0))
    gains = words.prose.copy()
    gains[~again] *= -new_costs
    gains[jumps] = -new_costs
    sums = np.append(0.0, np.cumsum(gains, dtype=np.float64))
    rises = sums - np.minimum.accumulate(sums)
    end = int(rises.argmax())
    return float(rises[end]), int(sums[: end + 1].argmin()), end


def longest_loop(words: Words, size: int, repeats: int) -> tuple[float, int, int]:
    """The longest stretch in which one piece follows itself at least ``repeats`` times.

    Returns:
        (characters of the stretch as :func:`loop_weight` counts them, its first word, the words of
        the piece); zeros without one.
    """
    best = (0.0, 0, 0)
    # what repeats itself word for word has words of the same shapes too
    for start, end, _ in _periodic(words.shapes_before(size), size, repeats):
        before = runs_before(words.ids[start:end], size)
        for first, last, period in _periodic(before, size, repeats):
            weight = float(words.loop_weights[start + first : start + last].sum())
            best = max(best, (weight, start + first, period))
    return best


def _periodic(before: Places, size: int, repeats: int) -> list[tuple[int, int, int]]:
    """(first word, word after the last, period) of what repeats itself ``repeats`` times."""
    distances = np.where(before >= 0, np.arange(before.size, dtype=np.int32) - before, 0)
    borders = np.flatnonzero(np.append(True, distances[1:] != distances[:-1])[: distances.size])
    period = distances[borders]
    starts, ends = borders - period, np.append(borders[1:], distances.size) + size - 1
    long = np.flatnonzero((period > 0) & (ends - starts >= repeats * period))
    return [(int(starts[n]), int(ends[n]), int(period[n])) for n in long]


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
