"""Which of a prompt's candidate responses to keep.

METHOD: divergence-aware sampling.  ``count`` is the method; the others are its controls, since the
length of a response and its count of teacher sentences go together.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Strategy = Literal["count", "ratio", "longest", "random", "fewest"]

_SCORES: dict[Strategy, Callable[[Ints, Ints, Ints], Scores]] = {
    "count": lambda num_teacher, num_sentences, length: num_teacher.astype(np.float64),
    "ratio": lambda num_teacher, num_sentences, length: num_teacher / np.maximum(num_sentences, 1),
    "longest": lambda num_teacher, num_sentences, length: length.astype(np.float64),
    "random": lambda num_teacher, num_sentences, length: np.zeros(length.size),
    "fewest": lambda num_teacher, num_sentences, length: -num_teacher.astype(np.float64),
}


def select(
    strategy: Strategy,
    num_teacher_sentences: Ints,
    num_sentences: Ints,
    num_tokens: Ints,
    tie_break: Ints,
    keep: int,
) -> Ints:
    """Rank the candidates of one prompt and return the best.

    Args:
        strategy: what makes a candidate good: the number of teacher sentences (``count``), their
            share (``ratio``), the length (``longest``), nothing (``random``), or few teacher
            sentences (``fewest``).
        num_teacher_sentences: [candidates]
        num_sentences: [candidates]
        num_tokens: [candidates] length of the content in the teacher's tokens.
        tie_break: [candidates] a seeded hash: of equal candidates the smallest goes first.
        keep: how many to return, at most.

    Returns:
        [min(keep, candidates)] indices, the best first.
    """
    scores = _SCORES[strategy](num_teacher_sentences, num_sentences, num_tokens)
    return np.lexsort((tie_break, -scores))[:keep]
