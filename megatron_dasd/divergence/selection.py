"""Which candidates to keep, given the score of each (``divergence.strategies``)."""

import numpy as np

from megatron_dasd.arrays import Bools, Floats, Ints


def best_of_each_group(values: Floats, tie_break: Ints, group: Ints, keep: int) -> Bools:
    """Choose the ``keep`` best candidates of every group.

    Args:
        values: [candidates] scores, the highest is the best.
        tie_break: [candidates] a seeded hash; of equal candidates the smallest comes first.
        group: [candidates] candidates with the same number compete with each other.
        keep: largest number of candidates to keep in a group.

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


def best_within_budget(values: Floats, tie_break: Ints, costs: Ints, budget: int) -> Bools:
    """Choose the best of all candidates until a budget is used up.

    Candidates are taken in order, the best first.  One that exceeds the rest of the budget is
    skipped, and the next ones are tried.

    Args:
        values: [candidates] scores, the highest is the best.
        tie_break: [candidates] as in :func:`best_of_each_group`.
        costs: [candidates] what each takes of the budget.
        budget: the sum that the costs may reach.

    Returns:
        [candidates] whether each is kept.
    """
    kept = np.zeros(values.size, dtype=np.bool_)
    for index in np.lexsort((tie_break, -values)).tolist():
        if costs[index] <= budget:
            budget -= int(costs[index])
            kept[index] = True
    return kept
