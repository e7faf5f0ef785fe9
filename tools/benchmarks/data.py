"""Packing."""

from collections.abc import Iterator

import numpy as np

from benchmarks.figures import Row, at_most, seconds
from megatron_dasd.data.packing import best_fit_decreasing

NUM_DOCUMENTS = 500_000
SEQ_LENGTH = 65_536
PACKING_LIMIT_SECONDS = 10.0


def rows() -> Iterator[Row]:
    """Figures of the data room."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(9.0, 0.8, NUM_DOCUMENTS), 144, SEQ_LENGTH).astype(np.int64)
    yield at_most(
        1.0,
        name="packing half a million documents into rows of 65,536 tokens",
        unit="s",
        own=seconds(lambda: best_fit_decreasing(lengths, SEQ_LENGTH)),
        peer=[PACKING_LIMIT_SECONDS],
        peer_name="limit",
    )
