"""What k answers to a question are worth, estimated without bias from n of them.

Both estimates are means over all subsets of k of the n answers, counted and not drawn.  They need
n >= k; for n = k there is one subset, and nothing is averaged.
"""

from collections.abc import Sequence
from math import comb


def pass_at(num_right: int, num_answers: int, k: int) -> float:
    """Share of the subsets of k answers that hold a right one.

    ``1 - C(n - c, k) / C(n, k)`` for c right of n answers (Chen et al., arXiv 2107.03374).

    Raises:
        ValueError: k is not between 1 and n.
    """
    _check(num_answers, k)
    return 1.0 - comb(num_answers - num_right, k) / comb(num_answers, k)


def majority_at(right: Sequence[int], wrong: Sequence[int], num_answers: int, k: int) -> float:
    """Mean over the subsets of k answers of the chance that their majority vote is right.

    The answer given most often in the subset wins; of several, each with the same chance.  Texts
    without an answer have no vote; a subset without any vote is wrong.

    Args:
        right: how often each right answer was given (several may be equal in value and not in
            their words).
        wrong: how often each wrong answer was given.
        num_answers: n, texts without an answer included.

    Raises:
        ValueError: k is not between 1 and n, or there are more votes than answers.
    """
    _check(num_answers, k)
    silent = num_answers - sum(right) - sum(wrong)
    if silent < 0:
        raise ValueError(f"num_answers: {num_answers} is less than the number of votes")
    counts = [*right, *wrong]
    won = 0.0
    for number in range(len(right)):
        others = counts[:number] + counts[number + 1 :]
        for votes in range(1, min(counts[number], k) + 1):
            subsets = comb(counts[number], votes)
            won += subsets * _ties(others, silent, votes, k - votes)
    return won / comb(num_answers, k)


def _ties(others: Sequence[int], silent: int, most: int, rest: int) -> float:
    """Ways to choose ``rest`` texts with at most ``most`` votes for any other answer.

    A way in which t other answers have ``most`` votes as well counts 1 / (t + 1).
    """
    # ways[drawn, tied]: to draw that many texts, with that many answers that have `most` votes
    ways = {(drawn, 0): comb(silent, drawn) for drawn in range(min(silent, rest) + 1)}
    for count in others:
        more: dict[tuple[int, int], int] = {}
        for (drawn, tied), number in ways.items():
            for votes in range(min(count, most, rest - drawn) + 1):
                key = drawn + votes, tied + (votes == most)
                more[key] = more.get(key, 0) + number * comb(count, votes)
        ways = more
    return sum(number / (tied + 1) for (drawn, tied), number in ways.items() if drawn == rest)


def _check(num_answers: int, k: int) -> None:
    if not 1 <= k <= num_answers:
        raise ValueError(f"k: {k} is not between 1 and the {num_answers} answers")
