"""Packing by lengths alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dasd.data.packing import aligned, best_fit_decreasing


def packs_of(lengths: list[int], capacity: int) -> list[list[int]]:
    packs = best_fit_decreasing(np.array(lengths, dtype=np.int64), capacity)
    return [packs[i].tolist() for i in range(len(packs))]


def test_each_document_goes_where_it_leaves_least_room() -> None:
    # by length: 0 (7), 3 (6), 1 (4), 4 (3), 5 (3), 2 (2)
    # 7 and 6 open packs with rooms 3 and 4; 4 fills the second; 3 fills the first; 3 and 2 are left
    assert packs_of([7, 4, 2, 6, 3, 3], 10) == [[0, 4], [3, 1], [5, 2]]


def test_equal_lengths_keep_their_order_and_full_documents_lie_alone() -> None:
    assert packs_of([5, 10, 5, 10, 5], 10) == [[1], [3], [0, 2], [4]]


def test_no_documents() -> None:
    assert packs_of([], 10) == []


@pytest.mark.parametrize("lengths", [[11], [3, 0]])
def test_documents_that_do_not_fit_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="between 1 and the capacity of 10"):
        packs_of(lengths, 10)


@given(st.lists(st.integers(1, 20), max_size=60))
def test_every_document_once_within_the_capacity_and_close_to_the_fewest(
    lengths: list[int],
) -> None:
    packs = packs_of(lengths, 20)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in pack) <= 20 for pack in packs)
    fewest = -(-sum(lengths) // 20)
    # no two packs could be one, so together any two hold more than a row
    sums = sorted(sum(lengths[i] for i in pack) for pack in packs)
    assert len(packs) < 2 or sums[0] + sums[1] > 20
    assert len(packs) <= max(1, 2 * fewest)


def test_aligned_by_hand() -> None:
    assert aligned(np.array([1, 4, 5, 8]), 4).tolist() == [4, 4, 8, 8]
    assert aligned(np.array([1, 5]), 1).tolist() == [1, 5]
