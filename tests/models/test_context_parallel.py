"""Positions of context-parallel ranks, against Transformer Engine's rule spelled out."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_dasd.data.rows import packed_row
from megatron_dasd.models.context_parallel import own_positions, row_order, slot_multiple
from megatron_dasd.models.packed import OWN, for_rank, own_share, to_batch


def by_the_rule(borders: list[int], rank: int, size: int) -> list[int]:
    """Chunks ``rank`` and ``2 * size - 1 - rank`` of each slot, one slot after the other."""
    positions = []
    for start, end in pairwise(borders):
        chunk = (end - start) // (2 * size)
        for number in (rank, 2 * size - 1 - rank):
            positions += range(start + number * chunk, start + (number + 1) * chunk)
    return positions


def test_worked_by_hand() -> None:
    borders = np.array([0, 8, 12])
    assert own_positions(borders, 0, 2).tolist() == [0, 1, 6, 7, 8, 11]
    assert own_positions(borders, 1, 2).tolist() == [2, 3, 4, 5, 9, 10]
    assert row_order(borders, 2).tolist() == [0, 1, 6, 7, 8, 9, 2, 3, 4, 10, 11, 5]


@given(st.integers(2, 4), st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_as_transformer_engine_divides(size: int, slots: list[int]) -> None:
    borders = np.cumsum([0, *(2 * size * slot for slot in slots)])
    shares = [own_positions(borders, rank, size) for rank in range(size)]
    for rank, share in enumerate(shares):
        assert share.tolist() == by_the_rule(borders.tolist(), rank, size)
    row = np.arange(borders[-1])
    laid = np.concatenate([row[share] for share in shares])
    assert laid[row_order(borders, size)].tolist() == row.tolist()


def test_slots_that_do_not_divide() -> None:
    assert [slot_multiple(size) for size in (1, 2, 3)] == [1, 4, 6]
    with pytest.raises(ValueError, match=r"slots of \[4, 6\] .* 2 context-parallel ranks: .* 4$"):
        own_positions(np.array([0, 4, 10]), 0, 2)


def test_a_rank_s_share_of_every_field() -> None:
    document = {"tokens": np.arange(1, 7), "loss_mask": np.ones(6)}
    row = packed_row([document, document], 16, align=8)
    assert OWN not in for_rank(row, 0, 1)
    batch = to_batch(for_rank(row, 1, 2))
    share = own_share(batch | {"pairs": torch.arange(32).view(1, 16, 2)})
    assert share["tokens"].tolist() == [[3, 4, 5, 6, 3, 4, 5, 6]]
    assert share["labels"].tolist() == [[4, 5, 6, 0, 4, 5, 6, 0]]
    assert share["position_ids"].tolist() == [[2, 3, 4, 5, 2, 3, 4, 5]]
    assert share["pairs"][0, :, 0].tolist() == [4, 6, 8, 10, 20, 22, 24, 26]
    # of the whole row, as attention wants them
    assert share["cu_seqlens"].tolist() == [0, 6, 12]
    assert share["cu_seqlens_padded"].tolist() == [0, 8, 16]
    assert share["longest_slot"].item() == 8
