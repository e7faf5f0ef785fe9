"""The ramp's counts, worked out by hand, and two sets of data as one."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dasd.config.training import Ramp
from megatron_dasd.data.blend import BlendedDataset, num_from_second
from megatron_dasd.errors import UserError

SHARE = st.floats(0, 1)


def counts(ramp: Ramp, num_samples: int) -> list[int]:
    return [num_from_second(ramp, num_samples, i) for i in range(num_samples + 1)]


def test_worked_by_hand() -> None:
    # i^2 / 20, rounded
    assert counts(Ramp(), 10) == [0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5]
    # i^2 / 10 up to 5, then every sample
    assert counts(Ramp(over=0.5), 10) == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert counts(Ramp(start=0.5, end=0.5), 6) == [0, 1, 1, 2, 2, 3, 3]
    assert counts(Ramp(start=1, end=1), 4) == [0, 1, 2, 3, 4]
    assert counts(Ramp(start=0, end=0), 4) == [0, 0, 0, 0, 0]


@given(SHARE, SHARE, st.floats(0.01, 1), st.integers(1, 60))
def test_a_sample_at_most_off_and_none_passed_over(
    start: float, end: float, over: float, num_samples: int
) -> None:
    found = counts(Ramp(start=start, end=end, over=over), num_samples)
    assert found[0] == 0
    assert set(np.diff(found).tolist()) <= {0, 1}
    length = Fraction(over) * num_samples
    wanted = Fraction(0)
    for sample in range(num_samples):
        edges = [Fraction(sample), min(max(length, Fraction(sample)), Fraction(sample + 1))]
        shares = [
            Fraction(start) + (Fraction(end) - Fraction(start)) * min(edge, length) / length
            for edge in edges
        ]
        wanted += (edges[1] - edges[0]) * sum(shares) / 2  # a trapezium, and then a rectangle
        wanted += (sample + 1 - edges[1]) * Fraction(end)
        assert abs(found[sample + 1] - wanted) <= Fraction(1, 2)


class Rows:
    def __init__(self, first: int, count: int, **meta: Any) -> None:
        self.rows = range(first, first + count)
        alike = {"seq_length": 8, "pack_align": 1, "vocab_size": 9, "companions": []}
        self.meta = SimpleNamespace(**(alike | meta))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return self.rows[index]

    def lengths(self, index: int) -> list[int]:
        return [self.rows[index]]

    def padding_row(self) -> str:
        return "padding"


def test_two_sets_as_one() -> None:
    first: Any = Rows(0, 3)
    second: Any = Rows(10, 2)
    data = BlendedDataset(first, second, Path("second"))
    assert len(data) == 5
    assert [data[i] for i in range(5)] == [0, 1, 2, 10, 11]
    assert data.lengths(4) == [11]
    assert data.padding_row() == "padding"


def test_sets_that_are_not_alike() -> None:
    first: Any = Rows(0, 3)
    second: Any = Rows(10, 2, pack_align=4)
    told = "^second: pack_align is 4, that of the data it is blended with 1; preprocess both alike$"
    with pytest.raises(UserError, match=told):
        BlendedDataset(first, second, Path("second"))
