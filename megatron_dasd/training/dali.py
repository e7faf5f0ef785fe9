"""Rows as batches by NVIDIA DALI: the same values, copied to the GPU ahead of their step."""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch

from megatron_dasd.data.rows import BORDERS, Row
from megatron_dasd.device import cpu_adapter
from megatron_dasd.device.doctor import is_installed
from megatron_dasd.errors import UserError
from megatron_dasd.models.packed import OWN, ROW_NUMBER, Batch, longest_slot

_ON_CPU = "longest_slot"
"""What a batch keeps on the CPU; see :data:`megatron_dasd.models.packed.Batch`."""
_AHEAD = 2
"""Rows that are read, and on a GPU copied, before their step asks for them."""


def dali_batches(rows: Iterator[Row]) -> Iterator[Batch]:
    """Batches of one row each, equal bit for bit to the default loader's.

    On a GPU they come through pinned memory on a stream of their own; without one DALI runs in its
    CPU mode.  An error in a row is raised up to two steps early.

    Raises:
        UserError: DALI is not installed.
    """
    if not is_installed("nvidia.dali"):
        raise UserError("loader dali: DALI is not installed: pip install 'megatron_dasd[dali]'")
    return _dali_batches(rows)


def _dali_batches(rows: Iterator[Row]) -> Iterator[Batch]:
    from nvidia.dali import Pipeline, fn
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    given = map(_with_longest_slot, rows)
    first = next(given)
    names = list(first)
    on_gpu = not cpu_adapter.needed()
    pipeline = Pipeline(
        batch_size=1,
        num_threads=1,
        device_id=torch.cuda.current_device() if on_gpu else None,
        prefetch_queue_depth=_AHEAD,
    )
    source = (tuple(row[name] for name in names) for row in chain([first], given))
    with pipeline:
        fields = fn.external_source(source=source, num_outputs=len(names), batch=False)
        placed = [
            field.gpu() if on_gpu and name != _ON_CPU else field
            for name, field in zip(names, fields, strict=True)
        ]
        pipeline.set_outputs(*placed)
    without_batch = {_ON_CPU, OWN, ROW_NUMBER, *BORDERS}
    for (batch,) in DALIGenericIterator([pipeline], names):
        yield {name: x[0] if name in without_batch else x for name, x in batch.items()}


def _with_longest_slot(row: Row) -> Row:
    return {_ON_CPU: np.array(longest_slot(row)), **row}
