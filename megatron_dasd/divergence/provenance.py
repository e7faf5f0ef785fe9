"""Sentence probabilities and provenance classes: arrays and texts in, arrays out.

METHOD: divergence-aware sampling; arXiv 2601.09088 and the provenance paper arXiv 2512.20908.
Models are in the order teacher, student, distilled student; the last is there after training only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import get_args

import numpy as np
import numpy.typing as npt

from megatron_dasd.records import Provenance, Span
from megatron_dasd.text.alignment import NO_SENTENCE, sentence_of_tokens
from megatron_dasd.text.sentences import split_sentences

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
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

    texts: list[str]
    """[sentences]"""
    totals: Floats
    """[models, sentences] sum of ln p over the sentence's tokens."""
    num_tokens: Ints
    """[models, sentences] the sentence's tokens, at least 1."""

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


def join_unmeasured(measured: npt.NDArray[np.bool_], part_of_sentence: Ints) -> Ints:
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
    pieces = [split_sentences(part) for part in parts]
    texts = [sentence for piece in pieces for sentence in piece]
    ends = list(accumulate(len(t) if t.isascii() else len(t.encode()) for t in texts))
    sums = [_sums(model, ends) for model in models]
    totals = np.array([total for total, _ in sums]).reshape(len(models), len(texts))
    num_tokens = np.array([count for _, count in sums], dtype=np.int64).reshape(totals.shape)
    measured = (num_tokens > 0).all(axis=0)
    if not measured.all():
        joined = join_unmeasured(measured, np.repeat(range(len(pieces)), [len(p) for p in pieces]))
        return _joined(texts, totals, num_tokens, joined)
    return Comparison(texts, totals, num_tokens)


def _sums(model: ModelTokens, ends: Sequence[int]) -> tuple[Floats, Ints]:
    """([sentences] sum of ln p, [sentences] tokens) of one model."""
    values = model.logprobs
    if not ((values <= 1e-6) & (values > -np.inf)).all():  # a little above 0 is rounding
        raise ValueError("logprobs: hold a value that is above 0 or not finite")
    index = sentence_of_tokens(model.num_bytes, model.text, model.spans, ends)
    # one place more, at the end, for what belongs to no sentence
    size = len(ends)
    index = np.where(index == NO_SENTENCE, size, index)
    total = np.bincount(index, weights=values, minlength=size + 1)
    return total[:size], np.bincount(index, minlength=size + 1)[:size]


def _joined(texts: Sequence[str], totals: Floats, num_tokens: Ints, joined: Ints) -> Comparison:
    """The comparison after :func:`join_unmeasured`."""
    size = int(joined.max(initial=NO_SENTENCE)) + 1
    joined_texts = [""] * size
    joined_totals = np.zeros((len(totals), size))
    joined_num_tokens = np.zeros((len(totals), size), dtype=np.int64)
    for sentence, index in enumerate(joined.tolist()):
        if index != NO_SENTENCE:
            joined_texts[index] += texts[sentence]
            joined_totals[:, index] += totals[:, sentence]
            joined_num_tokens[:, index] += num_tokens[:, sentence]
    return Comparison(joined_texts, joined_totals, joined_num_tokens)
