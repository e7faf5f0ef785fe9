from itertools import islice

import numpy as np

from megatron_dasd.config.training import Ramp
from megatron_dasd.data.order import pack_at
from megatron_dasd.data.rows import packed_row
from megatron_dasd.training.batches import (
    ALONE,
    Member,
    batches,
    heldout_packs,
    ramped_packs,
    training_packs,
)


class Rows:
    """Five packs whose first token is their number + 1; 0 is padding."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return packed_row([{"tokens": np.array([index + 1, 9]), "loss_mask": np.ones(2)}], 4)

    def padding_row(self) -> dict[str, np.ndarray]:
        return packed_row([], 4)


def trained_on(first: int, rank: int, size: int, count: int) -> list[int]:
    packs = training_packs(num_packs=5, num_samples=10, seed=3)
    rows = batches(Rows(), packs, first, Member(rank, size))  # type: ignore[arg-type]
    return [int(batch["tokens"][0, 0]) for batch in islice(rows, count)]


def test_two_epochs_in_orders_of_their_own_then_padding() -> None:
    orders = [[pack_at(i, 5, 3, epoch) + 1 for i in range(5)] for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == [1, 2, 3, 4, 5]
    assert trained_on(0, 0, 1, 12) == [*orders[0], *orders[1], 0, 0]


def test_two_ranks_share_what_one_rank_trains_on() -> None:
    alone = trained_on(0, 0, 1, 8)
    assert trained_on(0, 0, 2, 4) == alone[0::2]
    assert trained_on(0, 1, 2, 4) == alone[1::2]


def test_a_restart_goes_on_after_the_consumed_samples() -> None:
    assert trained_on(7, 0, 1, 3) == trained_on(0, 0, 1, 10)[7:]


def test_each_evaluation_covers_every_heldout_pack_once() -> None:
    packs = heldout_packs(num_packs=5, global_batch_size=4)
    assert [packs(i) for i in range(8)] == [0, 1, 2, 3, 4, None, None, None]
    assert [packs(i) for i in range(8, 16)] == [packs(i) for i in range(8)]


def test_batch_shapes() -> None:
    (batch,) = islice(batches(Rows(), lambda _: 0, 0, ALONE), 1)  # type: ignore[arg-type]
    assert batch["tokens"].tolist() == [[1, 9, 0, 0]]
    assert batch["labels"].tolist() == [[9, 0, 0, 0]]
    assert batch["loss_mask"].tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert batch["cu_seqlens"].tolist() == [0, 2]
    assert batch["cu_seqlens_padded"].tolist() == [0, 4]
    assert batch["longest_slot"].item() == 4


def test_a_ramp_goes_through_each_set_by_itself() -> None:
    """12 samples of 5 and 3 packs: 6 of the second set, each of its packs twice."""
    pack_of = ramped_packs((5, 3), 12, Ramp(), seed=3)
    packs = [pack_of(sample) for sample in range(14)]
    assert packs[12:] == [None, None]
    first = [p for p in packs[:12] if p is not None and p < 5]
    second = [p for p in packs[:12] if p is not None and p >= 5]
    assert first == [pack_at(i % 5, 5, 3, i // 5) for i in range(6)]
    assert sorted(second[:3]) == sorted(second[3:]) == [5, 6, 7]
    # more and more of the second
    halves = [sum(p is not None and p >= 5 for p in part) for part in (packs[:6], packs[6:12])]
    assert halves == [2, 4]
