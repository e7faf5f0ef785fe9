"""Packed rows as a model takes them."""

import numpy as np
import pytest

from megatron_dasd.models.packed import OWN, longest_slot


@pytest.mark.parametrize(
    ("borders", "expected"),
    [
        (
            [0, 64, 4096],
            4032,
        ),  # 4096 would be the row's length: what all slots are multiples of less
        ([0, 1984, 4096], 4032),
        ([0, 2048, 4096], 2048),
        ([0, 1088, 2112, 4096], 2048),
        ([0, 1024, 2048, 3072, 4096], 1024),
        ([0, 4096], 4096),  # one slot alone
    ],
)
def test_the_longest_slot_is_one_of_few_numbers(borders: list[int], expected: int) -> None:
    assert longest_slot({"cu_seqlens_padded": np.array(borders, np.int32)}) == expected


def test_it_divides_among_context_parallel_ranks() -> None:
    row = {"cu_seqlens_padded": np.array([0, 30, 60, 96], np.int32), OWN: np.arange(32)}
    # three ranks, six chunks: 64 is no multiple of 6
    assert longest_slot(row) == 66
