"""Divergence-aware sampling on texts and log-probs in memory."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from megatron_dasd.arrays import Ints
from megatron_dasd.config.selection import Strategy
from megatron_dasd.divergence.provenance import CLASSES, ModelTokens, classify, compare
from megatron_dasd.divergence.selection import best_of_each_group, best_within_budget
from megatron_dasd.divergence.strategies import scores
from megatron_dasd.records import Sentence, Span
from megatron_dasd.seeds import derive_seed


@dataclass(frozen=True)
class Reading:
    """A response as one model reads it, token by token."""

    tokens: Sequence[str | bytes | int]
    """What each token spells: its text, its bytes, or only how many UTF-8 bytes it adds."""
    logprobs: Sequence[float]
    """ln p(token | prefix) of each, untempered."""

    def num_bytes(self) -> Ints:
        """[tokens] UTF-8 bytes of each token."""
        sizes = [one if isinstance(one, int) else len(_encoded(one)) for one in self.tokens]
        return np.array(sizes, dtype=np.int64)


def compare_sentences(
    text: str,
    teacher: Reading,
    student: Reading,
    distilled: Reading | None = None,
    *,
    thinking: str = "",
    beta: float = 0.1,
    alpha: float | None = None,
) -> list[Sentence]:
    """Split a response into sentences and classify each as the teacher's, the student's or shared.

    A sentence's probability under a model is the geometric mean of its tokens' probabilities.  It
    is the teacher's where the teacher's exceeds the student's by more than ``beta``.

    Args:
        text: the response; every model's tokens spell it.
        teacher: the teacher's tokens and log-probs.
        student: the student's; it may have another tokenizer.
        distilled: the student's after training; tells boosted sentences apart.
        thinking: the thinking part that ``text`` begins with; no sentence crosses its end.
        beta: gap between two models' probabilities of a sentence from which on it is the one's.
        alpha: largest gap between any two of three models in a shared sentence; None: beta.

    Returns:
        The sentences in order; their texts joined are ``text``.

    Raises:
        ValueError: the tokens do not spell the text, or a log-prob is above 0 or not finite.

    Example:
        >>> teacher = Reading(["Yes. ", "It is."], [-0.1, -0.2])
        >>> student = Reading(["Yes.", " It is."], [-0.1, -2.0])
        >>> found = compare_sentences("Yes. It is.", teacher, student)
        >>> [(one.text, one.provenance) for one in found]
        [('Yes. ', 'shared'), ('It is.', 'teacher')]
    """
    if not text.startswith(thinking):
        raise ValueError("thinking: the text does not begin with it")
    parts = [thinking, text[len(thinking) :]] if thinking else [text]
    ends = np.cumsum([len(part.encode()) for part in parts]).tolist()
    spans = [Span(start=a, end=b) for a, b in pairwise([0, *ends])]
    readings = {"teacher": teacher, "student": student, "distilled": distilled}
    models = [_model(name, text, spans, one) for name, one in readings.items() if one is not None]
    comparison = compare(parts, models)
    probabilities = comparison.probabilities
    codes = classify(probabilities, beta, alpha).tolist()
    return [
        Sentence(
            text=one,
            teacher_probability=by_model[0],
            student_probability=by_model[1],
            provenance=CLASSES[code],
            distilled_probability=by_model[2] if distilled is not None else None,
        )
        for one, by_model, code in zip(
            comparison.texts, probabilities.T.tolist(), codes, strict=True
        )
    ]


def select(
    candidates: Sequence[Sequence[Sentence]],
    prompts: Sequence[Hashable],
    *,
    strategy: Strategy = "count",
    keep: int = 1,
    budget: int | None = None,
    num_tokens: Sequence[int] | None = None,
    seed: int = 1234,
) -> list[bool]:
    """Choose the candidate responses that teach most.

    Args:
        candidates: the sentences of each response, as :func:`compare_sentences` gives them.
        prompts: what each response answers; those of one prompt compete with each other.
        strategy: ``count`` is the method; ``ratio``, ``longest``, ``random`` and ``fewest`` are
            its controls.
        keep: candidates kept a prompt.
        budget: instead of ``keep``: tokens that all chosen candidates together may have.
        num_tokens: length of each response; needed for ``budget`` and ``longest``.
        seed: decides among equals.

    Returns:
        [candidates] whether each is kept.

    Raises:
        ValueError: lengths differ, or ``num_tokens`` is missing where it is needed.

    Example:
        >>> sure, unsure = Reading(["It is."], [-0.1]), Reading(["It is."], [-3.0])
        >>> teachers_own = compare_sentences("It is.", sure, unsure)
        >>> shared = compare_sentences("It is.", sure, sure)
        >>> select([shared, teachers_own], prompts=["q", "q"])
        [False, True]
    """
    if len(candidates) != len(prompts):
        raise ValueError(f"prompts: {len(prompts)} of them for {len(candidates)} candidates")
    if num_tokens is None and (budget is not None or strategy == "longest"):
        raise ValueError("num_tokens: needed for a budget and for strategy longest")
    lengths = np.array([0] * len(candidates) if num_tokens is None else num_tokens, dtype=np.int64)
    if lengths.size != len(candidates):
        raise ValueError(f"num_tokens: {lengths.size} of them for {len(candidates)} candidates")
    teacher = [sum(one.provenance == "teacher" for one in each) for each in candidates]
    counts = np.array([len(each) for each in candidates], dtype=np.int64)
    values = scores(strategy, np.array(teacher, dtype=np.int64), counts, lengths)
    ties = np.array([derive_seed(seed, "select", i) for i in range(counts.size)], dtype=np.int64)
    if budget is not None:
        kept = best_within_budget(values, ties, lengths, budget)
    else:
        numbers: dict[Hashable, int] = {}
        groups = [numbers.setdefault(prompt, len(numbers)) for prompt in prompts]
        kept = best_of_each_group(values, ties, np.array(groups, dtype=np.int64), keep)
    return [bool(one) for one in kept]


def _model(name: str, text: str, spans: Sequence[Span], reading: Reading) -> ModelTokens:
    if len(reading.tokens) != len(reading.logprobs):
        raise ValueError(f"{name}: {len(reading.tokens)} tokens, {len(reading.logprobs)} log-probs")
    pieces = [one for one in reading.tokens if not isinstance(one, int)]
    if len(pieces) == len(reading.tokens) and b"".join(map(_encoded, pieces)) != text.encode():
        raise ValueError(f"{name}: the tokens do not spell the text")
    logprobs = np.array(reading.logprobs, dtype=np.float64)
    return ModelTokens(text, spans, reading.num_bytes(), logprobs)


def _encoded(piece: str | bytes) -> bytes:
    return piece.encode() if isinstance(piece, str) else piece
