"""Tokens to sentences by byte offsets, whichever tokenizer cut the text.

A token belongs wholly to the sentence that contains its first non-whitespace byte.  A token of
whitespace alone belongs to the sentence before it (METHOD: divergence-aware sampling).  Delimiters
and the whitespace around them exist in one model's text only: their tokens belong to no sentence,
and neither do tokens that add no byte (special tokens).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_dasd.arrays import Bools, Ints
from megatron_dasd.records import Span

NO_SENTENCE = -1
_IS_WHITESPACE = np.array([chr(i).isspace() for i in range(0x3002)], dtype=np.bool_)
"""[code points] up to one beyond the last whitespace character, which stands for all others."""


def sentence_of_tokens(
    num_bytes: npt.ArrayLike, text: str, spans: Sequence[Span], sentence_ends: npt.ArrayLike
) -> Ints:
    """Sentence of every token.

    Args:
        num_bytes: [tokens] UTF-8 bytes of ``text`` that each token adds; they sum to the text's.
        text: what the tokens spell.
        spans: bytes of the content in ``text``, in order, not overlapping.
        sentence_ends: [sentences] byte offsets, in the spans laid end to end, at which each
            sentence ends; whitespace after a sentence belongs to it, as in ``split_sentences``.

    Returns:
        [tokens] index of the sentence, :data:`NO_SENTENCE` for none.  Whitespace that opens a span
        belongs to the span's first sentence, since it has none before.

    Raises:
        ValueError: ``num_bytes`` or ``sentence_ends`` do not fit the text and spans.
    """
    whitespace = _whitespace_bytes(text)
    sizes = np.asarray(num_bytes, dtype=np.int64)
    if sizes.min(initial=0) < 0:
        raise ValueError("num_bytes: holds a negative value")
    ends = np.cumsum(sizes)
    size = int(ends[-1]) if ends.size else 0
    if size != whitespace.size:
        raise ValueError(f"num_bytes: sum to {size}, the text has {whitespace.size} bytes")
    borders = np.asarray(sentence_ends, dtype=np.int64)
    content = sum(span.end - span.start for span in spans)
    if (borders[-1] if borders.size else 0) != content:
        raise ValueError(f"sentence_ends: do not cover the content of {content} bytes")

    anchors = _anchors(ends - sizes, ends, whitespace)
    sentences = np.full(sizes.size, NO_SENTENCE, dtype=np.int64)
    before = 0  # bytes of content before the span
    for span in spans:
        length = span.end - span.start
        first, last = np.searchsorted(borders, [before, before + length], side="right")
        last = min(int(last), borders.size - 1)
        here = borders[first:last] - before + span.start  # where the span's next sentences begin
        tokens = np.searchsorted(anchors, [span.start, *here, span.end])
        sentences[tokens[0] : tokens[-1]] = np.repeat(
            first + np.arange(here.size + 1), np.diff(tokens)
        )
        before += length
    sentences[sizes == 0] = NO_SENTENCE
    return sentences


def _anchors(starts: Ints, ends: Ints, whitespace: Bools) -> Ints:
    """The byte by which each token is placed: its first non-whitespace one, else its first one.

    The first byte places a token of whitespace alone in the sentence before, to which the
    whitespace after a sentence belongs.  Anchors ascend, as the tokens do.
    """
    anchors = starts.copy()
    blank = np.append(whitespace, False)
    waiting = np.flatnonzero(blank[starts] & (starts < ends))  # most often: one space, then a word
    second = starts[waiting] + 1
    found = ~blank[second]
    inside = second < ends[waiting]
    anchors[waiting[found & inside]] = second[found & inside]
    waiting = waiting[~found & inside]
    if waiting.size:
        visible = np.append(np.flatnonzero(~whitespace), whitespace.size)
        first_visible = visible[np.searchsorted(visible, starts[waiting])]
        anchors[waiting] = np.where(first_visible < ends[waiting], first_visible, starts[waiting])
    return anchors


def _whitespace_bytes(text: str) -> Bools:
    """[bytes] whether each byte is of a whitespace character, ``str.isspace`` deciding."""
    if text.isascii():
        ascii_codes = np.frombuffer(text.encode(), dtype=np.uint8)
        return np.asarray(_IS_WHITESPACE[ascii_codes])
    code_points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    whitespace = _IS_WHITESPACE[np.minimum(code_points, _IS_WHITESPACE.size - 1)]
    starts = (np.frombuffer(text.encode(), dtype=np.uint8) & 0xC0) != 0x80
    return np.asarray(whitespace[np.cumsum(starts) - 1])
