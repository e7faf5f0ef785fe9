"""How each recipe scales the three operands of a linear layer: input, weight, output's gradient.

Input X ``[tokens, in]``, weight W ``[out, in]`` and gradient G ``[tokens, out]`` meet in three
products::

    Y = X W^T    contracted over in        dX = G W    over out        dW = G^T X    over tokens

With blocks along the contracted dimension, X and G are quantised twice, each time from the
unquantised tensor: for the product over their columns and for the one over their rows.
"""

from argparse import Namespace
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_dasd.precision.quantisation import (
    E4M3,
    E5M2,
    Format,
    Quantised,
    amax,
    quantise,
    quantise_blocks,
    quantise_tensor,
    scale_from,
)

BLOCK = 128
"""Length of a block along the contracted dimension; weights have square blocks of this side."""


class Operand(NamedTuple):
    """A matrix ``[tokens, channels]``, quantised for two products."""

    over_channels: Quantised
    over_tokens: Quantised


class Scaling(Protocol):
    """The quantiser of one layer."""

    def input(self, x: Tensor) -> Operand:
        """Quantise the layer's input, ``[tokens, in]``."""
        ...

    def weight(self, weight: Tensor) -> Quantised:
        """Quantise the layer's weight, ``[out, in]``."""
        ...

    def gradient(self, gradient: Tensor) -> Operand:
        """Quantise the gradient of the layer's output, ``[tokens, out]``."""
        ...

    def state(self) -> Tensor | None:
        """The state that a checkpoint must hold for an exact resume; None: there is none."""
        ...

    def load_state(self, state: Tensor | None) -> None:
        """Restore what :meth:`state` returned; None: start from the beginning."""
        ...


class _Stateless:
    """A recipe whose scales come from the tensor itself."""

    def __init__(self, gradient_format: Format) -> None:
        self._gradient_format = gradient_format

    def state(self) -> None:
        """Nothing to keep."""

    def load_state(self, state: Tensor | None) -> None:
        """Nothing to load."""


class Blockwise(_Stateless):
    """Power-of-two scales: 1 x 128 along the contraction for X and G, 128 x 128 for W."""

    def input(self, x: Tensor) -> Operand:
        """See :class:`Scaling`."""
        return self._both_ways(x, E4M3)

    def weight(self, weight: Tensor) -> Quantised:
        """See :class:`Scaling`.  Square blocks serve both of W's products."""
        return quantise_blocks(weight, E4M3, (BLOCK, BLOCK))

    def gradient(self, gradient: Tensor) -> Operand:
        """See :class:`Scaling`."""
        return self._both_ways(gradient, self._gradient_format)

    def _both_ways(self, x: Tensor, form: Format) -> Operand:
        return Operand(quantise_blocks(x, form, (1, BLOCK)), quantise_blocks(x, form, (BLOCK, 1)))


class Tensorwise(_Stateless):
    """One scale a tensor, from its own largest magnitude ("current scaling")."""

    def input(self, x: Tensor) -> Operand:
        """See :class:`Scaling`."""
        return Operand(*[quantise_tensor(x, E4M3)] * 2)

    def weight(self, weight: Tensor) -> Quantised:
        """See :class:`Scaling`."""
        return quantise_tensor(weight, E4M3)

    def gradient(self, gradient: Tensor) -> Operand:
        """See :class:`Scaling`."""
        return Operand(*[quantise_tensor(gradient, self._gradient_format)] * 2)


class History:
    """Largest magnitudes of the last uses of some tensors, and the scales derived from them.

    A use quantises with the scales of the uses before it.  Source: Transformer Engine's delayed
    scaling, ``scale = format's largest / amax / 2^margin``.
    """

    def __init__(
        self,
        form: Format,
        num_tensors: int,
        length: int,
        algorithm: str,
        margin: float,
        group: ProcessGroup | None,
    ) -> None:
        self.form = form
        self.amaxes = torch.zeros(length, num_tensors)
        """``[length, tensors]``; row 0 is the current use, the last row the one before it."""
        self.scales = torch.ones(num_tensors)
        self._most_recent = algorithm == "most_recent"
        self._margin = margin
        self._group = group

    def quantise(self, x: Tensor, index: int) -> Quantised:
        """Quantise tensor ``index`` with its current scale, and record its largest magnitude."""
        self.amaxes[0, index] = torch.maximum(self.amaxes[0, index], amax(x))
        return quantise(x, self.form, self.scales[index])

    def end_use(self) -> None:
        """Derive scales from the history, including the use that ends now, and begin the next."""
        if self._group is not None and self._group.size() > 1:
            torch.distributed.all_reduce(
                self.amaxes[0], op=torch.distributed.ReduceOp.MAX, group=self._group
            )
        largest = self.amaxes[0] if self._most_recent else self.amaxes.amax(dim=0)
        self.scales = scale_from(largest * 2.0**self._margin, self.form, otherwise=self.scales)
        self.amaxes = self.amaxes.roll(-1, dims=0)
        self.amaxes[0] = 0


class DelayedHistories:
    """The histories of all layers of a model chunk; a use of it is one micro-batch."""

    def __init__(
        self, args: Namespace, gradient_format: Format, num_layers: int, group: ProcessGroup | None
    ) -> None:
        history = partial(
            History,
            length=args.fp8_amax_history_len,
            algorithm=args.fp8_amax_compute_algo,
            margin=args.fp8_margin,
            group=group,
        )
        self.forward = history(E4M3, 2 * num_layers)
        """Input and weight of layer i are tensors 2i and 2i + 1."""
        self.backward = history(gradient_format, num_layers)

    def layer(self, index: int) -> "Delayed":
        """The quantiser of layer ``index``."""
        return Delayed(self, index)


class Delayed:
    """One scale a tensor, from the magnitudes of earlier micro-batches."""

    def __init__(self, histories: DelayedHistories, index: int) -> None:
        self._histories = histories
        self._index = index

    def input(self, x: Tensor) -> Operand:
        """See :class:`Scaling`."""
        return Operand(*[self._histories.forward.quantise(x, 2 * self._index)] * 2)

    def weight(self, weight: Tensor) -> Quantised:
        """See :class:`Scaling`."""
        return self._histories.forward.quantise(weight, 2 * self._index + 1)

    def gradient(self, gradient: Tensor) -> Operand:
        """See :class:`Scaling`."""
        return Operand(*[self._histories.backward.quantise(gradient, self._index)] * 2)

    def state(self) -> Tensor:
        """Magnitudes and, in the last row, scales of input, weight and gradient."""
        return torch.cat(
            [
                torch.cat([history.amaxes[:, columns], history.scales[None, columns]])
                for history, columns in self._parts()
            ],
            dim=1,
        )

    def load_state(self, state: Tensor | None) -> None:
        """See :class:`Scaling`; a history of another length starts empty and keeps the scales.

        Anything but a tensor of three columns comes from another program and is ignored.
        """
        if not isinstance(state, Tensor) or state.ndim != 2 or state.shape[1] != 3:
            return
        for (history, columns), part in zip(self._parts(), state.split([2, 1], dim=1), strict=True):
            history.scales[columns] = part[-1]
            if len(part) == len(history.amaxes) + 1:
                history.amaxes[:, columns] = part[:-1]

    def _parts(self) -> list[tuple[History, slice]]:
        i = self._index
        return [
            (self._histories.forward, slice(2 * i, 2 * i + 2)),
            (self._histories.backward, slice(i, i + 1)),
        ]


def gradient_format(args: Namespace) -> Format:
    """Megatron's ``hybrid`` has gradients in E5M2, ``e4m3`` everything in E4M3."""
    return E5M2 if args.fp8 == "hybrid" else E4M3
