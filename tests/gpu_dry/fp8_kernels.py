"""Transformer Engine's kernels of quantised tensors, by shapes; see :mod:`.kernels`."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tests.gpu_dry.seen import TYPES, calls, size

if TYPE_CHECKING:
    from transformer_engine.pytorch.quantized_tensor import Quantizer


def quantize(
    tensor: Tensor, quantizer: object, output: object = None, noop: Tensor | None = None
) -> object:
    """A quantised tensor, as the quantizer's own Python makes an empty one."""
    calls["quantize"] += 1
    if output is not None:
        return output
    return create_empty_quantized_tensor(quantizer, tensor.shape, tensor.dtype)


def create_empty_quantized_tensor(
    quantizer: "Quantizer", shape: Sequence[int], dtype: torch.dtype, *_: object
) -> object:
    """Room for a quantised tensor: Transformer Engine's own Python says what lies in one."""
    if type(quantizer).__name__ == "Float8Quantizer":
        return _with_delayed_scaling(quantizer, torch.Size(shape), dtype)
    made = quantizer.create_metadata(shape, dtype=dtype)
    tensors = quantizer.alloc_tensors(shape, device="meta")
    size = torch.Size(shape)
    return made["cls"].__tensor_unflatten__(tensors, made, size, _strides(size))


def _with_delayed_scaling(quantizer: "Quantizer", shape: torch.Size, dtype: torch.dtype) -> object:
    """The one quantizer that does not say what lies in its tensors."""
    from transformer_engine.pytorch.tensor.float8_tensor import Float8Tensor
    from transformer_engine.pytorch.tensor.storage.float8_tensor_storage import Float8TensorStorage

    data, transpose = None, None
    if quantizer.rowwise_usage:
        data = torch.empty(shape, dtype=torch.uint8, device="meta")
    if quantizer.columnwise_usage:
        turned = (shape[-1], *shape[:-1])
        transpose = torch.empty(turned, dtype=torch.uint8, device="meta")
    given = {
        "data": data,
        "data_transpose": transpose,
        "fp8_scale_inv": torch.empty(1, dtype=torch.float32, device="meta"),
        "fp8_dtype": quantizer.dtype,
        "quantizer": quantizer,
        "fake_dtype": dtype,
    }
    if quantizer.internal:
        return Float8TensorStorage(**given)
    return Float8Tensor(shape=shape, dtype=dtype, device=torch.device("meta"), **given)


def _strides(size: torch.Size) -> tuple[int, ...]:
    return torch.empty(size, device="meta").stride()


def bgrad_quantize(tensor: Tensor, quantizer: object) -> tuple[Tensor, object]:
    """The bias's gradient, and the gradient quantised."""
    calls["bgrad_quantize"] += 1
    bias = torch.empty(tensor.shape[-1], dtype=tensor.dtype, device="meta")
    return bias, quantize(tensor, quantizer)


def split_quantize(
    tensor: Tensor,
    split_sections: Sequence[int],
    quantizer_list: Sequence[object],
    disable_bulk_allocation: bool = False,
) -> list[object]:
    """Each expert's tokens, quantised."""
    calls["split_quantize"] += 1
    parts = torch.split(tensor, list(split_sections))
    return [quantize(part, q) for part, q in zip(parts, quantizer_list, strict=True)]


def fp8_transpose(input: Tensor, dtype: int, *, out: Tensor | None = None) -> Tensor:
    """The bytes of a matrix, transposed."""
    if out is not None:
        return out
    rows, columns = math.prod(input.shape[:-1]), input.shape[-1]
    return torch.empty((columns, rows), dtype=torch.uint8, device="meta")


def dequantize(input: object, otype: int) -> Tensor:
    """In the type asked for."""
    return torch.empty(size(input), dtype=TYPES[int(otype)], device="meta")
