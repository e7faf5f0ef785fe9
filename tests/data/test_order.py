"""The order of the packs: a permutation, one place at a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dasd.data.order import pack_at


@given(st.integers(1, 300), st.integers(0, 2**40), st.integers(0, 5))
def test_every_pack_comes_once(num_packs: int, seed: int, epoch: int) -> None:
    order = [pack_at(i, num_packs, seed, epoch) for i in range(num_packs)]
    assert sorted(order) == list(range(num_packs))


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = {
        tuple(pack_at(i, 20, seed, epoch) for i in range(20)) for seed in (1, 2) for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_the_order_stays_what_it_was() -> None:
    """A run that is resumed under another version goes on in the same order."""
    assert [pack_at(i, 8, seed=1234, epoch=0) for i in range(8)] == [0, 5, 2, 6, 3, 4, 1, 7]
    assert pack_at(7_654_321, 10_000_000, seed=1234, epoch=3) == 196_991


def test_no_place_is_favoured() -> None:
    """Over many seeds each of five packs comes first a fifth of the time: 400 +- 5 deviations."""
    counts = [0] * 5
    for seed in range(2000):
        counts[pack_at(0, 5, seed, 0)] += 1
    assert all(abs(count - 400) < 5 * (2000 * 0.2 * 0.8) ** 0.5 for count in counts)


def test_a_position_beyond_the_packs() -> None:
    with pytest.raises(IndexError, match="position 5 of 5"):
        pack_at(5, 5, 1, 0)
