"""Packed data that grows during training, by one set of packed data at a time."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from megatron_dasd.data.alike import require_alike
from megatron_dasd.data.packed_dataset import LossCounts, PackedDataset
from megatron_dasd.data.rows import Row

_OPEN = 16
"""Most added sets whose files are kept open."""


class GrowingDataset:
    """The rows of a first set of packed data, followed by those of sets that are added later."""

    def __init__(
        self,
        first: PackedDataset,
        place: Callable[[int], tuple[int, int]],
        open_added: Callable[[int], PackedDataset],
    ) -> None:
        """Start with the first set.

        Args:
            place: maps an added row's number, from 0, to (number of its set, row in that set).
            open_added: opens an added set by its number.
        """
        self.first = first
        self.meta = first.meta
        self._place = place
        self._open_added = open_added
        self._added = lru_cache(_OPEN)(self._opened)

    def __len__(self) -> int:
        """Rows of the first set; numbers of added rows start here."""
        return len(self.first)

    def __getitem__(self, index: int) -> Row:
        """A row.

        Raises:
            UserError: its set does not fit the first one.
        """
        data, own = self._find(index)
        return data[own]

    def lengths(self, index: int) -> npt.NDArray[np.number]:
        """[documents] tokens of each document in a row."""
        data, own = self._find(index)
        return data.lengths(own)

    def loss_counts(self, index: int) -> LossCounts:
        """What of a row a loss is taken of."""
        data, own = self._find(index)
        return data.loss_counts(own)

    def padding_row(self) -> Row:
        """A row without documents, which adds nothing to the loss."""
        return self.first.padding_row()

    def _find(self, index: int) -> tuple[PackedDataset, int]:
        if index < len(self.first):
            return self.first, index
        number, own = self._place(index - len(self.first))
        return self._added(number), own

    def _opened(self, number: int) -> PackedDataset:
        data = self._open_added(number)
        require_alike(self.first.meta, data.meta, data.path)
        return data
