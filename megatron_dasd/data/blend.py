"""Two sets of packed data in one training; the share of the second changes as training goes on.

Of the first i samples W(i) should come from the second set, the sum of its share w from 0 to i:

    w(x) = start + (end - start) min(x, r) / r        r: length of the ramp in samples
    W(i) = start m + (end - start) m^2 / 2 r + end (i - m)        m = min(i, r)

and floor(W(i) + 1/2) do.  So a sample's set, and its place in that set, depend on its number alone:
they are the same at any data-parallel size and after any restart, and W is met within a sample.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_dasd.config.training import Ramp
from megatron_dasd.data.alike import require_alike
from megatron_dasd.data.packed_dataset import LossCounts, PackedDataset
from megatron_dasd.data.rows import Row


def num_from_second(ramp: Ramp, num_samples: int, sample: int) -> int:
    """Number of samples before ``sample`` that come from the second set.

    Uses exact fractions: with rounding a sample might be skipped where the share is 1.

    Args:
        ramp: the second set's share.
        num_samples: samples of the whole training.
    """
    start, end = Fraction(ramp.start), Fraction(ramp.end)
    length = Fraction(ramp.over) * num_samples
    on_ramp = min(Fraction(sample), length)
    wanted = start * on_ramp + (end - start) * on_ramp * on_ramp / (2 * length)
    wanted += end * (sample - on_ramp)
    return int((2 * wanted + 1) // 2)


class BlendedDataset:
    """The rows of two sets of packed data; numbers of the second follow those of the first."""

    def __init__(self, first: PackedDataset, second: PackedDataset, path: Path) -> None:
        """Join two sets.

        Args:
            path: of the second set, for error messages.

        Raises:
            UserError: their rows differ in shape or vocabulary.
        """
        self.sets = (first, second)
        self.meta = first.meta
        require_alike(first.meta, second.meta, path)

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    def __getitem__(self, index: int) -> Row:
        data, own = self._place(index)
        return data[own]

    def lengths(self, index: int) -> npt.NDArray[np.number]:
        """[documents] tokens of each document in a row."""
        data, own = self._place(index)
        return data.lengths(own)

    def loss_counts(self, index: int) -> LossCounts:
        """What of a row a loss is taken of."""
        data, own = self._place(index)
        return data.loss_counts(own)

    def padding_row(self) -> Row:
        """A row without documents, which adds nothing to the loss."""
        return self.sets[0].padding_row()

    def _place(self, index: int) -> tuple[PackedDataset, int]:
        num_first = len(self.sets[0])
        return (self.sets[0], index) if index < num_first else (self.sets[1], index - num_first)
