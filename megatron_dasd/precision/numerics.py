"""What rounding to FP8 did to the numbers of a step."""

import torch
from torch import Tensor

from megatron_dasd.precision.quantisation import Quantised

_KINDS = ("input", "weight", "gradient")
_BEYOND = 1 + 2.0**-20
"""More than float32's own rounding of a scale."""


class Numerics:
    """Adds up what becomes of inputs, weights and output gradients until it is asked."""

    def __init__(self) -> None:
        self._sums = {kind: torch.zeros(5, dtype=torch.float64) for kind in _KINDS}

    def note(self, kind: str, x: Tensor, quantised: Quantised, dequantised: Tensor) -> None:
        """Count one tensor in.

        Args:
            kind: ``input``, ``weight`` or ``gradient``.
            x: before it was quantised, ``[rows, columns]``.
            dequantised: the numbers that its FP8 data stand for.
        """
        largest = torch.finfo(quantised.data.dtype).max
        present, values = x != 0, x.float()
        at_limit = quantised.data.float().abs() == largest
        counts = (
            present.sum(),
            (at_limit & (values.abs() > dequantised.abs() * _BEYOND)).sum(),
            (present & (dequantised == 0)).sum(),
            (values - dequantised).square().sum(),
            values.square().sum(),
        )
        self._sums[kind] += torch.stack([count.double() for count in counts]).cpu()

    def take(self) -> dict[str, dict[str, dict[str, float]]]:
        """The figures since they were last taken, under ``fp8``; empty: nothing was quantised.

        Per kind ``saturated`` and ``flushed``: shares of the numbers other than 0 that were cut to
        the format's largest, and that became 0; ``noise``: rounding error over signal, root mean
        square.
        """
        figures = {}
        for kind, sums in self._sums.items():
            present, saturated, flushed, error, signal = sums.tolist()
            if present:
                figures[kind] = {
                    "saturated": saturated / present,
                    "flushed": flushed / present,
                    "noise": (error / signal) ** 0.5,
                }
            sums.zero_()
        return {"fp8": figures} if figures else {}
