"""Repetition in a text: loops; lines, paragraphs, sentences; long stretches said again.

Each function counts over thinking part and answer together, in time linear in the text.  What is
said twice is never too often: an answer may repeat what the thinking part has found.
docs/filters.md shows the good and the degenerate texts by which the bounds were chosen.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from megatron_dasd.config.selection import Repetition
from megatron_dasd.filters.ngrams import (
    Words,
    longest_loop,
    longest_stretch,
    loop_at_end,
    loop_weight,
)
from megatron_dasd.text.sentences import split_sentences

MIN_WORDS = 3
"""Lines and sentences of fewer words are not counted: they repeat in good texts too."""
MIN_PARAGRAPH_WORDS = 10
_LETTERS = re.compile(r"[^\W\d_]{2}")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_NEW_COSTS = 2.0
"""A stretch goes on as long as more than two of its words are said again for each new one."""
_MOST_FREQUENT = 100
"""Lines or sentences that are looked at: those that are no prose may be the most frequent."""
_SHOWN = 80
"""Characters of a repeated text in the detail of a drop."""


def repeated_line(parts: Sequence[str], bounds: Repetition) -> str | None:
    """Describe the most frequent line, if it occurs too often."""
    lines = (line for part in parts for line in part.splitlines())
    return _too_often("line", lines, bounds.max_repeated_lines, bounds.max_share)


def repeated_paragraph(parts: Sequence[str], bounds: Repetition) -> str | None:
    """Describe the paragraph (text between blank lines) whose copies have too many words.

    Two copies of a paragraph are not counted, whatever their length.
    """
    found = [" ".join(text.split()) for part in parts for text in _BLANK_LINE.split(part)]
    for text, count in Counter(found).most_common():
        if count < 3:
            break
        num_words = sum(_is_word(word) for word in text.split())
        if num_words >= MIN_PARAGRAPH_WORDS and (count - 2) * num_words > bounds.max_copied_words:
            return (
                f"the paragraph {_shown(text)} occurs {count} times: {(count - 2) * num_words} "
                f"words beyond its second copy, at most {bounds.max_copied_words} allowed"
            )
    return None


def repeated_sentence(parts: Sequence[str], bounds: Repetition) -> str | None:
    """Describe the most frequent sentence, if it occurs too often."""
    sentences = (sentence for part in parts for sentence in split_sentences(part))
    return _too_often("sentence", sentences, bounds.max_repeated_sentences, bounds.max_share)


def repeated_ngram(parts: Sequence[str], bounds: Repetition) -> str | None:
    """Describe the longest stretch of prose that was said twice before, if it is too long.

    The stretch consists of runs of ``ngram_words`` words that occur twice before it, whatever
    their order, with few words between them; a counter in them does not make them new.  A run does
    not cross from the thinking part into the answer.
    """
    words = _words(tuple(parts), bounds.ngram_words)
    length, start, end = longest_stretch(words, bounds.ngram_words, _NEW_COSTS)
    if length <= bounds.max_stretch:
        return None
    text = " ".join(words.words[start:end])
    return (
        f"{_shown(text)} begins a stretch of {end - start} words that were said before: {length:g} "
        f"of prose, at most {bounds.max_stretch} allowed"
    )


def ends_in_loop(parts: Sequence[str], bounds: Repetition) -> str | None:
    """Describe the piece that follows itself over and over, at the end of a part or before it."""
    for part in parts:
        piece = _loop_at_end(part, bounds)
        if piece is not None:
            return f"ends with {_shown(piece)} over and over"
    words = _words(tuple(parts), bounds.ngram_words)
    for word in words.different:
        piece = _loop_at_end(word, bounds) if len(word) >= bounds.loop_characters else None
        if piece is not None:
            return f"contains {_shown(piece)} over and over"
    length, start, period = longest_loop(words, bounds.ngram_words, bounds.loop_repeats)
    if length < bounds.loop_characters:
        return None
    return f"contains {_shown(' '.join(words.words[start : start + period]))} over and over"


@lru_cache(maxsize=1)
def _words(parts: tuple[str, ...], gap: int) -> Words:
    """The words of a response, which two rules look at one after the other."""
    return Words.of(parts, gap)


def _loop_at_end(text: str, bounds: Repetition) -> str | None:
    piece = loop_at_end(text, bounds.loop_repeats, bounds.loop_characters)
    if piece is None:
        return None
    # what the end repeats, as long as it goes on before the part that was looked at
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)[::-1]
    different = np.flatnonzero(codes[len(piece) :] != codes[: -len(piece)])
    size = len(piece) + (int(different[0]) if different.size else codes.size - len(piece))
    return piece if loop_weight(text[-size:]) >= bounds.loop_characters else None


def _too_often(what: str, texts: Iterable[str], limit: int, max_share: float) -> str | None:
    # a text of fewer characters than this has fewer words than are counted
    counts = Counter(" ".join(text.split()) for text in texts if len(text) >= 2 * MIN_WORDS - 1)
    limit = max(limit, int(max_share * counts.total()))
    for text, count in counts.most_common(_MOST_FREQUENT):
        if count > limit and sum(map(_is_word, text.split())) >= MIN_WORDS:
            return f"the {what} {_shown(text)} occurs {count} times, at most {limit} allowed"
    return None


def _is_word(text: str) -> bool:
    return _LETTERS.search(text) is not None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
