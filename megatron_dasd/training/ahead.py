"""Rows copied to the GPU before their step, by a thread of their own."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch

from megatron_dasd.data.rows import Row
from megatron_dasd.models.packed import Batch, to_batch

ROWS_AHEAD = 2
"""Rows that are read and copied before their step asks for them."""


def copied_ahead(rows: Iterator[Row]) -> Iterator[Batch]:
    """Batches of one row each, as ``to_batch`` makes them, on a stream of their own.

    The thread that runs the step neither reads a row nor waits for a copy.  An error in a row is
    raised when its turn comes.
    """
    device, stream = torch.cuda.current_device(), torch.cuda.Stream()

    def copy() -> tuple[Batch, torch.cuda.Event] | None:
        torch.cuda.set_device(device)
        for row in islice(rows, 1):
            with torch.cuda.stream(stream):
                return to_batch(row), stream.record_event()
        return None

    with ThreadPoolExecutor(1, thread_name_prefix="rows") as thread:
        coming: list[Future[tuple[Batch, torch.cuda.Event] | None]] = [
            thread.submit(copy) for _ in range(ROWS_AHEAD)
        ]
        while (copied := coming.pop(0).result()) is not None:
            coming.append(thread.submit(copy))
            batch, event = copied
            # The step's kernels wait for the copy, the host does not.
            step = torch.cuda.current_stream()
            step.wait_event(event)
            for tensor in batch.values():
                if tensor.is_cuda:
                    tensor.record_stream(step)
            yield batch
