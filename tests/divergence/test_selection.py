"""Selection strategies on candidates whose ranks are known."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dasd.config.selection import Strategy
from megatron_dasd.divergence.selection import best_of_each_group, best_within_budget
from megatron_dasd.divergence.strategies import STRATEGIES, scores
from megatron_dasd.errors import UserError

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
    values = scores(strategy, NUM_TEACHER, NUM_SENTENCES, NUM_TOKENS)
    group = np.zeros(4, dtype=np.int64)
    for keep in (1, 2, 3, 9):
        kept = best_of_each_group(values, TIE_BREAK, group, keep)
        assert np.flatnonzero(kept).tolist() == sorted(ranking[:keep])


def test_a_name_that_nobody_registered_is_refused() -> None:
    with pytest.raises(UserError, match="unknown strategy 'shortest'; choose one of count, ratio"):
        scores("shortest", NUM_TEACHER, NUM_SENTENCES, NUM_TOKENS)  # type: ignore[arg-type]


def test_the_documentation_lists_the_strategies() -> None:
    document = (Path(__file__).parents[2] / "docs" / "divergence.md").read_text()
    assert "\n".join(f"| `{one.name}` | {one.description} |" for one in STRATEGIES) in document


def test_a_response_without_sentences_ranks_last_by_ratio() -> None:
    values = scores("ratio", np.array([0, 1]), np.array([0, 9]), np.ones(2, dtype=np.int64))
    assert values.tolist() == [0, 1 / 9]


def test_groups_are_ranked_apart_wherever_their_candidates_lie() -> None:
    values = np.array([1.0, 5.0, 2.0, 5.0, 9.0, 3.0])
    group = np.array([7, 2, 7, 2, 4, 2])
    tie_break = np.array([0, 8, 0, 3, 0, 0])
    kept = best_of_each_group(values, tie_break, group, 1)
    assert kept.tolist() == [False, False, True, True, True, False]
    kept = best_of_each_group(values, tie_break, group, 2)
    assert kept.tolist() == [True, True, True, True, True, False]


def test_nothing_to_choose_from() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert best_of_each_group(nothing.astype(float), nothing, nothing, 1).size == 0
    assert best_within_budget(nothing.astype(float), nothing, nothing, 5).size == 0


def test_a_budget_goes_to_the_best_of_all_that_it_is_enough_for() -> None:
    values = np.array([3.0, 9.0, 5.0, 1.0, 5.0])
    costs = np.array([10, 60, 50, 15, 20])
    tie_break = np.array([0, 0, 2, 0, 1])
    # in order: 1 (60 of 100), 4 (20), 2 (50: too much), 0 (10), 3 (15: too much)
    kept = best_within_budget(values, tie_break, costs, 100)
    assert kept.tolist() == [True, True, False, False, True]
    each = best_within_budget(values, tie_break, np.ones(5, dtype=np.int64), 3)
    assert each.tolist() == [False, True, True, False, True]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 9)), max_size=30),
    st.integers(1, 4),
)
def test_agrees_with_sorting_group_by_group(rows: list[tuple[int, int, int]], keep: int) -> None:
    expected = set()
    for number in range(4):
        members = [i for i, row in enumerate(rows) if row[0] == number]
        members.sort(key=lambda i: (-rows[i][1], rows[i][2]))
        expected |= set(members[:keep])
    group, value, tie_break = (np.array([row[k] for row in rows], dtype=np.int64) for k in range(3))
    kept = best_of_each_group(value.astype(float), tie_break, group, keep)
    assert set(np.flatnonzero(kept).tolist()) == expected
