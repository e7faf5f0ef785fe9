"""Sentence probabilities and provenance classes.

METHOD: divergence-aware sampling; arXiv 2601.09088 and the provenance paper arXiv 2512.20908.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_dasd.records import Provenance, ScoredResponse, Sentence
from megatron_dasd.text.alignment import NO_SENTENCE, sentence_of_tokens
from megatron_dasd.text.sentences import split_sentences
from megatron_dasd.text.thinking import span_text

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
CLASSES: tuple[Provenance, ...] = ("teacher", "student", "shared")


def sentence_probabilities(
    logprobs: Sequence[float], sentence_of_token: Ints, num_sentences: int
) -> Floats:
    """Geometric mean of the token probabilities: p = exp(mean of ln p(token | prefix)).

    Args:
        logprobs: [tokens] natural logarithms, untempered.
        sentence_of_token: [tokens] sentence of each token; ``NO_SENTENCE`` for none.
        num_sentences: number of sentences.

    Returns:
        [sentences] probabilities in [0, 1]; NaN for a sentence without tokens.

    Raises:
        ValueError: a log-probability is above 0 or not finite.
    """
    values = np.asarray(logprobs, dtype=np.float64)
    if not np.all(np.isfinite(values) & (values <= 1e-6)):
        raise ValueError("logprobs: hold a value that is above 0 or not finite")
    inside = sentence_of_token != NO_SENTENCE
    index = sentence_of_token[inside]
    num_tokens = np.bincount(index, minlength=num_sentences)
    total = np.bincount(index, weights=values[inside], minlength=num_sentences)
    mean = np.full(num_sentences, np.nan)
    np.divide(total, num_tokens, out=mean, where=num_tokens > 0)
    return np.minimum(np.exp(mean), 1.0)


def classify(teacher: Floats, student: Floats, beta: float) -> list[Provenance]:
    """Provenance of each sentence: whose probability is more than ``beta`` above the other's.

    Args:
        teacher: [sentences] p_T.
        student: [sentences] p_S.
        beta: the gap that must be exceeded; 0.1 was best (arXiv 2512.20908).
    """
    gap = teacher - student
    return ["teacher" if g > beta else "student" if -g > beta else "shared" for g in gap.tolist()]


def join_unmeasured(measured: npt.NDArray[np.bool_], part_of_sentence: Ints) -> Ints:
    """Join sentences that a model has no token for to a neighbour that both models have tokens for.

    A token that begins in one sentence and ends in the next belongs to the first; a short next
    sentence can then be without any token in one model but not in the other.  Joined to the
    sentence before (to the next measured one at the start of a part), its tokens are compared too,
    and no probability is lost.

    Args:
        measured: [sentences] whether both models have tokens for the sentence.
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


def compare_sentences(response: ScoredResponse, beta: float) -> tuple[list[Sentence], int]:
    """Split a response into sentences and say of each which model finds it likely.

    Returns:
        (sentences with probabilities and class, number of the teacher's tokens in them)

    Raises:
        ValueError: tokens, spans and texts do not fit each other.
    """
    parts = [span_text(response.output, span) for span in response.output_spans]
    if parts != [span_text(response.text, span) for span in response.text_spans]:
        raise ValueError("text_spans: hold other content than output_spans")
    pieces = [split_sentences(part) for part in parts]
    texts = [sentence for piece in pieces for sentence in piece]
    ends = np.cumsum([len(text.encode()) for text in texts]).tolist()
    teacher, student = (
        sentence_of_tokens(tokens.num_bytes, text, spans, ends)
        for tokens, text, spans in (
            (response.tokens, response.text, response.text_spans),
            (response.student_tokens, response.output, response.output_spans),
        )
    )
    measured = np.isin(np.arange(len(texts)), teacher) & np.isin(np.arange(len(texts)), student)
    joined = join_unmeasured(measured, np.repeat(np.arange(len(pieces)), [len(p) for p in pieces]))
    teacher, student = (_renumber(index, joined) for index in (teacher, student))
    num_sentences = int(joined.max(initial=NO_SENTENCE)) + 1
    p_teacher = sentence_probabilities(response.tokens.logprobs, teacher, num_sentences)
    p_student = sentence_probabilities(response.student_tokens.logprobs, student, num_sentences)
    classes = classify(p_teacher, p_student, beta)
    joined_texts = [""] * num_sentences
    for text, index in zip(texts, joined.tolist(), strict=True):
        if index != NO_SENTENCE:
            joined_texts[index] += text
    sentences = [
        Sentence(
            text=joined_texts[index],
            teacher_probability=float(p_teacher[index]),
            student_probability=float(p_student[index]),
            provenance=classes[index],
        )
        for index in range(num_sentences)
    ]
    return sentences, int(np.count_nonzero(teacher != NO_SENTENCE))


def _renumber(sentence_of_token: Ints, joined: Ints) -> Ints:
    """Sentences of tokens after :func:`join_unmeasured`."""
    return np.where(sentence_of_token == NO_SENTENCE, NO_SENTENCE, joined[sentence_of_token])
