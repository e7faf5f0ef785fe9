"""FP8 numbers: formats, scales, rounding.  Pure functions on tensors.

A tensor x is held as FP8 ``data`` and a float32 ``scale`` with x ~ data / scale.  Rounding is to
the nearest, ties to even; what is beyond the largest finite number becomes that number.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_EXPONENT_AND_SIGN = -(2**23)
"""Mask of a float32's bits that leaves out the 23 bits of its mantissa."""

Block = tuple[int, int]
"""Rows and columns that share a scale."""


@dataclass(frozen=True)
class Format:
    """An 8-bit floating-point format."""

    dtype: torch.dtype
    max: float
    """The largest finite number."""


E4M3 = Format(torch.float8_e4m3fn, 448.0)
"""4 bits of exponent, 3 of mantissa: normal from 2^-6, subnormal down to 2^-9."""
E5M2 = Format(torch.float8_e5m2, 57344.0)
"""5 bits of exponent, 2 of mantissa: normal from 2^-14, subnormal down to 2^-16."""


@dataclass(frozen=True)
class Quantised:
    """A matrix in FP8 with its scales."""

    data: Tensor
    """FP8, ``[rows, columns]``."""
    scale: Tensor
    """float32: one number, or with blocks ``[ceil(rows / block rows), ceil(columns / ...)]``."""
    block: Block | None = None

    def dequantise(self) -> Tensor:
        """The numbers that the FP8 data stand for, float32, ``[rows, columns]``."""
        inverse = 1.0 / self.scale
        return self.data.float() * _spread(inverse, self.block, self.data)


def quantise(x: Tensor, form: Format, scale: Tensor, block: Block | None = None) -> Quantised:
    """Round ``x * scale`` to FP8.

    Args:
        x: ``[rows, columns]``, any floating-point type.
        scale: one number, or one a block as in :class:`Quantised`.
    """
    scaled = x.float() * _spread(scale, block, x)
    return Quantised(scaled.clamp(-form.max, form.max).to(form.dtype), scale, block)


def quantise_tensor(x: Tensor, form: Format) -> Quantised:
    """Quantise with one scale, such that the largest magnitude meets the format's largest."""
    return quantise(x, form, scale_from(amax(x), form))


def quantise_blocks(x: Tensor, form: Format, block: Block) -> Quantised:
    """Quantise with a power-of-two scale for every block; blocks at the edges may be cut off."""
    return quantise(x, form, scale_from(block_amax(x, block), form, power_of_two=True), block)


def scale_from(
    largest: Tensor, form: Format, power_of_two: bool = False, otherwise: Tensor | float = 1.0
) -> Tensor:
    """The scale at which a magnitude meets the format's largest number.

    At most the largest float32.

    Args:
        largest: float32, not negative, any shape.
        power_of_two: round the scale down to a power of two.
        otherwise: the scale where the magnitude is 0 or not finite.
    """
    # Not a number over a tensor, which torch takes as its product with a rounded reciprocal.
    scale = torch.full_like(largest, form.max) / largest
    scale = scale.clamp(max=torch.finfo(torch.float32).max)
    if power_of_two:
        scale = (scale.view(torch.int32) & _EXPONENT_AND_SIGN).view(torch.float32)
    return torch.where((largest > 0) & torch.isfinite(largest), scale, otherwise)


def amax(x: Tensor) -> Tensor:
    """The largest magnitude of a tensor as one float32; 0 of an empty one."""
    return x.abs().amax().float() if x.numel() else torch.zeros((), device=x.device)


def block_amax(x: Tensor, block: Block) -> Tensor:
    """The largest magnitude in every block of ``x``, ``[rows, columns]``; float32."""
    (rows, columns), (height, width) = x.shape, block
    padded = F.pad(x.abs().float(), (0, -columns % width, 0, -rows % height))
    tiles = padded.view(padded.shape[0] // height, height, padded.shape[1] // width, width)
    return tiles.amax(dim=(1, 3))


def _spread(scale: Tensor, block: Block | None, like: Tensor) -> Tensor:
    """A scale for every element of ``like``, ``[rows, columns]``, or one number as it is."""
    if block is None:
        return scale
    rows, columns = like.shape
    spread = scale.repeat_interleave(block[0], dim=0)[:rows]
    return spread.repeat_interleave(block[1], dim=1)[:, :columns]
