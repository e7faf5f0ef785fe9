"""Which packed row each rank trains on at each step.

The order is a function of (seed, epoch, consumed samples) alone: at step t with a global batch of
G rows, samples t*G ... t*G + G-1 are used, sample t*G + i by data-parallel rank ``i mod dp``.  The
same rows meet in a step at any data-parallel size and after any restart.
"""

from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from megatron_dasd.config.choices import Loader
from megatron_dasd.config.training import Ramp
from megatron_dasd.data.blend import BlendedDataset, num_from_second
from megatron_dasd.data.growing import GrowingDataset
from megatron_dasd.data.order import pack_at
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.data.rows import Row
from megatron_dasd.data.teacher_top import with_top
from megatron_dasd.device import cpu_adapter
from megatron_dasd.models.packed import ROW_NUMBER, Batch, for_rank, to_batch
from megatron_dasd.seeds import derive_seed
from megatron_dasd.training.ahead import copied_ahead


class Member(NamedTuple):
    """A rank's place in a group of ranks."""

    rank: int
    size: int


ALONE = Member(0, 1)

RowSource = PackedDataset | BlendedDataset | GrowingDataset

PackOf = Callable[[int], int | None]
"""The pack behind a global sample index; None: a row of padding."""


def training_packs(num_packs: int, num_samples: int, seed: int) -> PackOf:
    """Every epoch in an order of its own; past ``num_samples``, in the last batch, padding."""

    def pack_of(sample: int) -> int | None:
        if sample >= num_samples:
            return None
        epoch, position = divmod(sample, num_packs)
        return pack_at(position, num_packs, seed, epoch)

    return pack_of


def ramped_packs(num_packs: tuple[int, int], num_samples: int, ramp: Ramp, seed: int) -> PackOf:
    """Packs of two sets, the second's numbered on from the first's; see ``data.blend``.

    Each set has epochs and orders of its own.
    """
    first, second = num_packs

    def pack_of(sample: int) -> int | None:
        if sample >= num_samples:
            return None
        before, after = (num_from_second(ramp, num_samples, sample + i) for i in (0, 1))
        if after > before:
            epoch, position = divmod(before, second)
            return first + pack_at(position, second, derive_seed(seed, "second"), epoch)
        epoch, position = divmod(sample - before, first)
        return pack_at(position, first, seed, epoch)

    return pack_of


def heldout_packs(num_packs: int, global_batch_size: int) -> PackOf:
    """The packs in their own order, over and over; each evaluation covers each exactly once."""
    padded = -(-num_packs // global_batch_size) * global_batch_size

    def pack_of(sample: int) -> int | None:
        position = sample % padded
        return position if position < num_packs else None

    return pack_of


def batches(
    data: RowSource,
    pack_of: PackOf,
    first_sample: int,
    data_parallel: Member,
    context_parallel: Member = ALONE,
    loader: Loader = "torch",
    distils: bool = False,
) -> Iterator[Batch]:
    """This rank's rows, one a micro-batch, from a global sample index on, without end.

    Args:
        data_parallel: this rank's place among those that have other rows.
        context_parallel: its place among those that share its rows.
        loader: what makes batches of rows; their values are the same.
        distils: whether rows have the teacher's likeliest tokens, be they unknown.
    """
    samples = count(first_sample + data_parallel.rank, data_parallel.size)
    packs = map(pack_of, samples)
    numbered = (_numbered_row(data, pack) for pack in packs)
    made = map(with_top, numbered) if distils else numbered
    rows = (for_rank(row, *context_parallel) for row in made)
    if loader == "dali":
        from megatron_dasd.training.dali import dali_batches  # an optional package

        return dali_batches(rows)
    return map(to_batch, rows) if cpu_adapter.needed() else copied_ahead(rows)


def _numbered_row(data: RowSource, pack: int | None) -> Row:
    row, number = (data.padding_row(), -1) if pack is None else (data[pack], pack)
    return row | {ROW_NUMBER: np.array([number])}
