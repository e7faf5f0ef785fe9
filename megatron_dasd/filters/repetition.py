"""Repetition in a text: loops at the end; lines, paragraphs, sentences, runs of words.

Each function counts over thinking part and answer together, in time linear in the text.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from megatron_dasd.config.selection import Repetition
from megatron_dasd.filters.ngrams import loop_at_end, most_frequent_run, numbered, words_of
from megatron_dasd.text.sentences import split_sentences

MIN_WORDS = 3
"""Lines and sentences of fewer words are not counted: they repeat in good texts too."""
MIN_PARAGRAPH_WORDS = 10
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_SHOWN = 80
"""Characters of a repeated text in the detail of a drop."""


def repeated_line(parts: Sequence[str], bounds: Repetition) -> str | None:
    """Describe the most frequent line, if it occurs too often."""
    lines = (line for part in parts for line in part.splitlines())
    return _too_often("line", lines, MIN_WORDS, bounds.max_repeated_lines, bounds.max_share)


def repeated_paragraph(parts: Sequence[str], bounds: Repetition) -> str | None:
    """Describe the most frequent paragraph (text between blank lines), if it occurs too often."""
    found = (paragraph for part in parts for paragraph in _BLANK_LINE.split(part))
    limit = bounds.max_repeated_paragraphs
    return _too_often("paragraph", found, MIN_PARAGRAPH_WORDS, limit, bounds.max_share)


def repeated_sentence(parts: Sequence[str], bounds: Repetition) -> str | None:
    """Describe the most frequent sentence, if it occurs too often."""
    sentences = (sentence for part in parts for sentence in split_sentences(part))
    limit = bounds.max_repeated_sentences
    return _too_often("sentence", sentences, MIN_WORDS, limit, bounds.max_share)


def repeated_ngram(parts: Sequence[str], bounds: Repetition) -> str | None:
    """Describe the most frequent run of words, if it occurs too often.

    A run does not cross from the thinking part into the answer.
    """
    size = bounds.ngram_words
    words: list[str] = []
    for part in parts:
        # between the parts stand words that no text contains, so that no run crosses
        words += [*words_of(part), *(f"\n{len(words)} {place}" for place in range(size))]
    count, start = most_frequent_run(numbered(words), size)
    num_words = len(words) - len(parts) * size
    limit = _limit(bounds.max_ngram_count, bounds.max_share, num_words / size)
    if count <= limit:
        return None
    return _describe("run of words", " ".join(words[start : start + size]), count, limit)


def ends_in_loop(parts: Sequence[str], bounds: Repetition) -> str | None:
    """Describe the piece that ends the thinking part or the answer over and over."""
    for part in parts:
        piece = loop_at_end(part, bounds.loop_repeats, bounds.loop_characters)
        if piece is not None:
            return f"ends with {_shown(piece)} over and over"
    return None


def _too_often(
    what: str, texts: Iterable[str], min_words: int, limit: int, max_share: float
) -> str | None:
    # a text of fewer characters than this has fewer words than min_words
    words = [text.split() for text in texts if len(text) >= 2 * min_words - 1]
    counts = Counter(" ".join(w) for w in words if len(w) >= min_words)
    text, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
    limit = _limit(limit, max_share, len(words))
    return _describe(what, text, count, limit) if count > limit else None


def _limit(limit: int, max_share: float, number: float) -> int:
    """How often one of ``number`` items may occur: the fixed limit or the share, if larger."""
    return max(limit, int(np.floor(max_share * number)))


def _describe(what: str, text: str, count: int, limit: int) -> str:
    return f"the {what} {_shown(text)} occurs {count} times, at most {limit} allowed"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
