"""Log-probs and sentence classes of a response's tokens, matched by the bytes each token adds."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from megatron_dasd.arrays import Floats, Ints
from megatron_dasd.records import Span
from megatron_dasd.text.alignment import NO_SENTENCE, sentence_of_tokens
from megatron_dasd.text.encoding import token_bytes


class TokenBytes:
    """For every id of a vocabulary, the bytes that it adds and the place of its first visible one.

    Ids beyond the vocabulary, which models with a padded embedding can draw, add none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        pieces = [*token_bytes(tokenizer, range(max(tokenizer.get_vocab().values()) + 1)), b""]
        self._num_bytes = np.array([len(piece) for piece in pieces], dtype=np.int64)
        self._visible = np.array([_first_visible(piece) for piece in pieces], dtype=np.int64)

    def num_bytes(self, ids: Ints) -> Ints:
        """[tokens] bytes that each token adds."""
        return np.take(self._num_bytes, ids, mode="clip")

    def first_visible(self, ids: Ints) -> Ints:
        """[tokens] place of the first visible byte in each token, 0 without one.

        A part of a character counts as visible, which holds unless the character is a space.
        """
        return np.take(self._visible, ids, mode="clip")


def _first_visible(piece: bytes) -> int:
    if not piece or 0x20 < piece[0] < 0x80:  # most, and a vocabulary is large
        return 0
    visible = piece.decode(errors="surrogateescape").lstrip()
    return len(piece) - len(visible.encode(errors="surrogateescape")) if visible else 0


_IS_WIDE_SPACE = np.array([i >= 0x80 and chr(i).isspace() for i in range(0x10000)], dtype=np.bool_)
"""[UTF-16 code units] whether each is a space of several bytes in UTF-8; surrogates are not."""


def _has_wide_space(text: str) -> bool:
    """Whether a text has a space of several bytes, of which a token may hold a part."""
    if text.isascii():
        return False
    units = np.frombuffer(text.encode("utf-16-le", errors="surrogatepass"), np.uint16)
    return bool(_IS_WIDE_SPACE[units].any())


class ResponseTokens:
    """The tokens of one response and their places in its text."""

    def __init__(self, output: str, ids: Ints, table: TokenBytes, spans: Sequence[Span]) -> None:
        """Locate the tokens.

        Args:
            output: the response.
            ids: [tokens] of the response, end of turn included.
            table: of the vocabulary.
            spans: bytes of thinking part and answer in ``output``.

        Raises:
            ValueError: the spans are not in order within the output.
        """
        self._output, self._ids, self._table, self._spans = output, ids, table, spans
        self._num_bytes = table.num_bytes(ids)
        self._ends = np.cumsum(self._num_bytes)
        size = len(output) if output.isascii() else len(output.encode())
        borders = [0, *(edge for span in spans for edge in (span.start, span.end)), size]
        if borders != sorted(borders):
            raise ValueError(f"output_spans: do not lie in the output of {size} bytes in order")

    def teacher_logprobs(
        self,
        spans: Sequence[Span],
        ids: Ints,
        num_bytes: Ints,
        logprobs: Floats,
    ) -> npt.NDArray[np.float32]:
        """Log-probs of the tokens that the teacher also wrote: the same id at the same bytes.

        Args:
            spans: bytes of the same content in the teacher's text.
            ids: [teacher tokens] its ids.
            num_bytes: [teacher tokens] bytes of its text that each adds.
            logprobs: [teacher tokens] ln p(token | prefix), untempered.

        Returns:
            [tokens] ln p, NaN for all other tokens.

        Raises:
            ValueError: the spans hold other content, or reach beyond the tokens.
        """
        values = np.full(self._ids.size, np.nan, np.float32)
        # a continuation, of which the teacher wrote a part only, or a text that came without tokens
        if not spans or not ids.size:
            return values
        ends = np.cumsum(num_bytes)
        sizes = [span.end - span.start for span in spans]
        if sizes != [span.end - span.start for span in self._spans]:
            raise ValueError("text_spans: hold other content than output_spans")
        if ends.size == 0 or spans[-1].end > ends[-1]:
            raise ValueError("text_spans: reach beyond tokens.num_bytes")
        for here, there in zip(self._spans, spans, strict=True):
            own = _tokens_inside(self._ends, self._num_bytes, here)
            other = _tokens_inside(ends, num_bytes, there)
            if own.start >= own.stop or other.start >= other.stop:
                continue
            own_ends, other_ends = self._ends[own], ends[other] + (here.start - there.start)
            if own_ends[0] == other_ends[0] and np.array_equal(self._ids[own], ids[other]):
                values[own] = logprobs[other]  # one tokenizer: token for token
                continue
            place = own.start + np.searchsorted(own_ends, other_ends).clip(max=own_ends.size - 1)
            same = (
                (self._ends[place] == other_ends)
                & (self._num_bytes[place] == num_bytes[other])
                & (self._ids[place] == ids[other])
            )
            values[place[same]] = logprobs[other][same]
        return values

    def sentence_classes(
        self, num_bytes: Ints, classes: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """Class of the sentence that each token belongs to (as ``text.alignment`` has it).

        Args:
            num_bytes: [sentences] bytes of each; laid end to end they are the content.
            classes: [sentences] from 1.

        Returns:
            [tokens] 0 for a token in no sentence.

        Raises:
            ValueError: the sentences are not the content's.
        """
        values = np.zeros(self._ids.size, np.uint8)
        if not num_bytes.size:
            return values
        covered, edges = self._borders(num_bytes)
        if _has_wide_space(self._output):
            sentences = sentence_of_tokens(
                self._num_bytes.tolist(), self._output, covered, np.cumsum(num_bytes).tolist()
            )
            inside = sentences != NO_SENTENCE
            values[inside] = classes[sentences[inside]]
            return values
        anchors = self._ends - self._num_bytes + self._table.first_visible(self._ids)
        starts, ends = np.searchsorted(anchors, edges.T)
        sizes = ends - starts
        # tokens of the sentences one after the other: between the parts some belong to none
        places = np.arange(sizes.sum()) + np.repeat(starts - np.cumsum(sizes) + sizes, sizes)
        values[places] = np.repeat(classes, sizes)
        values[self._num_bytes == 0] = 0
        return values

    def _borders(self, num_bytes: Ints) -> tuple[list[Span], Ints]:
        """The spans that sentences cover, and [sentences, 2] first and last byte of each.

        A span in which no sentence could be measured is left out.
        """
        ends = np.cumsum(num_bytes)
        covered: list[Span] = []
        edges = np.empty((ends.size, 2), dtype=np.int64)
        first = before = 0
        for span in self._spans:
            wanted = before + span.end - span.start
            last = int(np.searchsorted(ends, wanted))
            if first < ends.size and last < ends.size and ends[last] == wanted:
                here = slice(first, last + 1)
                edges[here, 1] = ends[here] - before + span.start
                edges[here, 0] = edges[here, 1] - num_bytes[here]
                covered.append(span)
                first, before = last + 1, wanted
        if first != ends.size:
            raise ValueError("sentences: laid end to end are not the content of output_spans")
        return covered, edges


def _tokens_inside(ends: Ints, num_bytes: Ints, span: Span) -> slice:
    """The tokens that lie wholly in a span; tokens without bytes at its edges are left out."""
    first = int(np.searchsorted(ends, span.start, side="right"))
    if first < ends.size and ends[first] - num_bytes[first] < span.start:
        first += 1
    last = int(np.searchsorted(ends, span.end))
    return slice(first, last + 1 if last < ends.size and ends[last] == span.end else last)
