"""Sentence probabilities and provenance classes: arrays and texts in, arrays out.

METHOD: divergence-aware sampling; arXiv 2601.09088 and the provenance paper arXiv 2512.20908.
Models are in the order teacher, student, distilled student; the last only after training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from megatron_dasd.arrays import Bools, Floats, Ints
from megatron_dasd.records import Provenance, Span
from megatron_dasd.text.alignment import NO_SENTENCE, sentence_of_tokens
from megatron_dasd.text.sentences import sentence_ends

CLASSES: tuple[Provenance, ...] = get_args(Provenance)
"""In the order of their codes."""
TEACHER, STUDENT, SHARED, BOOSTED = range(len(CLASSES))


@dataclass(frozen=True)
class ModelTokens:
    """A response as one model reads it."""

    text: str
    """What the tokens spell, delimiters included."""
    spans: Sequence[Span]
    """Bytes of the thinking part and of the answer in ``text``."""
    num_bytes: Ints
    """[tokens] UTF-8 bytes of ``text`` that each token adds."""
    logprobs: Floats
    """[tokens] ln p(token | prefix), untempered."""


@dataclass(frozen=True)
class Comparison:
    """The sentences of a response under each model."""

    parts: Sequence[str]
    """Thinking part and answer."""
    part_of_sentence: Ints
    """[sentences] 0 for thinking, 1 for the answer; ascending."""
    ends: Ints
    """[sentences] where each ends in its part, in characters; the next one begins there."""
    totals: Floats
    """[models, sentences] sum of ln p over the sentence's tokens."""
    num_tokens: Ints
    """[models, sentences] the sentence's tokens, at least 1."""

    @property
    def texts(self) -> list[str]:
        """[sentences]"""
        texts, before, start = [], -1, 0
        for part, end in zip(self.part_of_sentence.tolist(), self.ends.tolist(), strict=True):
            start = start if part == before else 0
            texts.append(self.parts[part][start:end])
            before, start = part, end
        return texts

    @property
    def probabilities(self) -> Floats:
        """[models, sentences] geometric mean of the token probabilities."""
        return geometric_mean(self.totals, self.num_tokens)

    @property
    def response_probabilities(self) -> Floats:
        """[models] geometric mean over all tokens of all sentences; NaN without any."""
        return geometric_mean(self.totals.sum(axis=1), self.num_tokens.sum(axis=1))


def geometric_mean(totals: Floats, num_tokens: Ints) -> Floats:
    """p = exp(mean of ln p(token | prefix)), at most 1; NaN where there is no token."""
    mean = np.full(totals.shape, np.nan)
    np.divide(totals, num_tokens, out=mean, where=num_tokens > 0)
    return np.minimum(np.exp(mean), 1.0)


def classify(probabilities: Floats, beta: float, alpha: float | None = None) -> Ints:
    """Provenance of each sentence, as an index of :data:`CLASSES`.

    Before training: ``teacher`` where p_T - p_S > beta, ``student`` where p_S - p_T > beta,
    ``shared`` otherwise.  After training: ``shared`` where all three are within alpha of each
    other, else ``teacher`` and ``student`` as before, else ``boosted``.

    Args:
        probabilities: [models, sentences] of the teacher, the student, and the distilled student
            where there is one.
        beta: the gap that must be exceeded; 0.1 was best (arXiv 2512.20908).
        alpha: the largest gap between any two models of a shared sentence; None: beta.
    """
    gap = probabilities[0] - probabilities[1]
    shared = np.zeros(gap.shape, dtype=np.bool_)
    other = SHARED
    if len(probabilities) > 2:
        within = beta if alpha is None else alpha
        shared = probabilities.max(axis=0) - probabilities.min(axis=0) <= within
        other = BOOSTED
    return np.select(
        [shared, gap > beta, -gap > beta], [SHARED, TEACHER, STUDENT], default=other
    ).astype(np.int64)


def join_unmeasured(measured: Bools, part_of_sentence: Ints) -> Ints:
    """Join sentences that a model has no token for to a neighbour that all models have tokens for.

    A token that begins in one sentence and ends in the next belongs to the first; a short next
    sentence can then be without any token in one model but not in the other.  Joined to the
    sentence before (to the next measured one at the start of a part), its tokens are compared too,
    and no probability is lost.

    Args:
        measured: [sentences] whether every model has tokens for the sentence.
        part_of_sentence: [sentences] 0 for thinking, 1 for the answer; ascending.

    Returns:
        [sentences] new index of each sentence; ``NO_SENTENCE`` where the whole part has no measured
        sentence, since sentences never cross from one part into another.
    """
    joined = np.full(measured.size, NO_SENTENCE, dtype=np.int64)
    first = 0
    for part in np.unique(part_of_sentence):
        here = part_of_sentence == part
        rank = np.cumsum(measured[here]) - 1
        if rank[-1] >= 0:
            joined[here] = first + np.maximum(rank, 0)
            first += int(rank[-1]) + 1
    return joined


def compare(parts: Sequence[str], models: Sequence[ModelTokens]) -> Comparison:
    """Split a response into sentences and add up each model's log-probs in them.

    Args:
        parts: the content, thinking part and answer; it is what every model's spans hold.
        models: two or three readings of it.

    Raises:
        ValueError: tokens, spans and texts do not fit each other, or a log-probability is above 0
            or not finite.
    """
    pieces = [np.array(sentence_ends(part), dtype=np.int64) for part in parts]
    ends = np.concatenate([*pieces, np.zeros(0, dtype=np.int64)])
    part_of_sentence = np.repeat(np.arange(len(pieces)), [piece.size for piece in pieces])
    byte_ends, before = [np.zeros(0, dtype=np.int64)], 0
    for part, piece in zip(parts, pieces, strict=True):
        in_bytes = _byte_offsets(part, piece)
        byte_ends.append(before + in_bytes)
        before += int(in_bytes[-1]) if in_bytes.size else 0
    sums = [_sums(model, np.concatenate(byte_ends)) for model in models]
    totals, num_tokens = (np.array(column) for column in zip(*sums, strict=True))
    comparison = Comparison(parts, part_of_sentence, ends, totals, num_tokens)
    measured = (num_tokens > 0).all(axis=0)
    if measured.all():
        return comparison
    return _joined(comparison, join_unmeasured(measured, part_of_sentence))


def _byte_offsets(text: str, offsets: Ints) -> Ints:
    """Offsets in characters as offsets in UTF-8 bytes."""
    if text.isascii():
        return offsets
    begins = (np.frombuffer(text.encode(), dtype=np.uint8) & 0xC0) != 0x80
    return np.append(np.flatnonzero(begins), begins.size)[offsets]


def _sums(model: ModelTokens, ends: Ints) -> tuple[Floats, Ints]:
    """([sentences] sum of ln p, [sentences] tokens) of one model."""
    values = model.logprobs
    if values.size and not (values.max() <= 1e-6 and values.min() > -np.inf):
        raise ValueError("logprobs: hold a value that is above 0 or not finite")
    # one place more, at the front, for what belongs to no sentence
    place = sentence_of_tokens(model.num_bytes, model.text, model.spans, ends) + 1
    places = len(ends) + 1
    total = np.bincount(place, weights=values, minlength=places)
    return total[1:], np.bincount(place, minlength=places)[1:]


def _joined(comparison: Comparison, joined: Ints) -> Comparison:
    """The comparison after :func:`join_unmeasured`."""
    # one place more, at the front, for what belongs to no sentence
    place, places = joined + 1, int(joined.max(initial=NO_SENTENCE)) + 2
    sums = [np.bincount(place, weights=row, minlength=places)[1:] for row in comparison.totals]
    counts = [
        np.bincount(place, weights=row, minlength=places)[1:] for row in comparison.num_tokens
    ]
    last = np.zeros(places, dtype=np.int64)
    last[place] = np.arange(place.size)  # of those that are joined, the last one stays
    return Comparison(
        comparison.parts,
        comparison.part_of_sentence[last[1:]],
        comparison.ends[last[1:]],
        np.array(sums),
        np.array(counts).astype(np.int64),
    )
