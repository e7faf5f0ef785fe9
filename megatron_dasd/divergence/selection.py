"""Which of the candidate responses to keep, by what is known of all of them.

METHOD: divergence-aware sampling.  ``count`` is the method; the others are its controls, since the
length of a response and its count of teacher sentences go together.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from megatron_dasd.arrays import Ints

Scores = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Strategy = Literal["count", "ratio", "longest", "random", "fewest"]

_SCORES: dict[Strategy, Callable[[Ints, Ints, Ints], Scores]] = {
    "count": lambda num_teacher, num_sentences, length: num_teacher.astype(np.float64),
    "ratio": lambda num_teacher, num_sentences, length: num_teacher / np.maximum(num_sentences, 1),
    "longest": lambda num_teacher, num_sentences, length: length.astype(np.float64),
    "random": lambda num_teacher, num_sentences, length: np.zeros(length.size),
    "fewest": lambda num_teacher, num_sentences, length: -num_teacher.astype(np.float64),
}


def scores(
    strategy: Strategy, num_teacher_sentences: Ints, num_sentences: Ints, num_tokens: Ints
) -> Scores:
    """What makes a candidate good, the higher the better.

    Args:
        strategy: the number of teacher sentences (``count``), their share (``ratio``), the length
            (``longest``), nothing (``random``), or few teacher sentences (``fewest``).
        num_teacher_sentences: [candidates]
        num_sentences: [candidates]
        num_tokens: [candidates] length of the content in the teacher's tokens.

    Returns:
        [candidates]
    """
    return _SCORES[strategy](num_teacher_sentences, num_sentences, num_tokens)


def best_of_each_group(values: Scores, tie_break: Ints, group: Ints, keep: int) -> Mask:
    """The ``keep`` best candidates of every group.

    Args:
        values: [candidates] what makes them good.
        tie_break: [candidates] a seeded hash: of equal candidates the smallest goes first.
        group: [candidates] candidates of one number stand against each other.
        keep: how many of a group, at most.

    Returns:
        [candidates] whether each is kept.
    """
    order = np.lexsort((tie_break, -values, group))
    ordered = group[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: order.size])
    rank = np.arange(order.size) - np.repeat(first, np.diff(np.append(first, order.size)))
    kept = np.zeros(order.size, dtype=np.bool_)
    kept[order[rank < keep]] = True
    return kept


def best_within_budget(values: Scores, tie_break: Ints, costs: Ints, budget: int) -> Mask:
    """The best of all candidates that a budget is enough for.

    They are asked in order, the best first; one that the rest of the budget is not enough for is
    left out, and the next ones are asked.

    Args:
        values: [candidates] what makes them good.
        tie_break: [candidates] as in :func:`best_of_each_group`.
        costs: [candidates] what each takes of the budget.
        budget: what there is.

    Returns:
        [candidates] whether each is kept.
    """
    kept = np.zeros(values.size, dtype=np.bool_)
    for index in np.lexsort((tie_break, -values)).tolist():
        if costs[index] <= budget:
            budget -= int(costs[index])
            kept[index] = True
    return kept
