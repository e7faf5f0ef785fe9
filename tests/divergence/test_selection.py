"""Selection strategies on candidates whose ranks are known."""

import numpy as np
import pytest

from megatron_dasd.divergence.selection import Strategy, select

#            candidate:      0  1   2   3
NUM_TEACHER = np.array([3, 5, 1, 5])
NUM_SENTENCES = np.array([4, 20, 1, 10])
NUM_TOKENS = np.array([90, 80, 10, 85])
TIE_BREAK = np.array([7, 9, 1, 4])


@pytest.mark.parametrize(
    ("strategy", "ranking"),
    [
        ("count", [3, 1, 0, 2]),  # 5 (tie-break 4), 5 (9), 3, 1
        ("ratio", [2, 0, 3, 1]),  # 1, 0.75, 0.5, 0.25
        ("longest", [0, 3, 1, 2]),
        ("random", [2, 3, 0, 1]),  # by tie-break alone
        ("fewest", [2, 0, 3, 1]),
    ],
)
def test_ranking(strategy: Strategy, ranking: list[int]) -> None:
    for keep in (1, 3, 9):
        chosen = select(strategy, NUM_TEACHER, NUM_SENTENCES, NUM_TOKENS, TIE_BREAK, keep)
        assert chosen.tolist() == ranking[:keep]


def test_a_response_without_sentences_ranks_last_by_ratio() -> None:
    chosen = select("ratio", np.array([0, 1]), np.array([0, 9]), np.ones(2), np.arange(2), keep=1)
    assert chosen.tolist() == [1]
