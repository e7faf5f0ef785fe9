"""What the kernels of Transformer Engine give back: shapes and types alone, on the meta device.

Each has its arguments as the compiled module has them (2.20.2, ``csrc/extensions``).  A kernel that
is not here raises by its name when it is called: see :mod:`.binding`.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformer_engine.pytorch.quantized_tensor import Quantizer

_TYPES = {4: torch.float32, 5: torch.float16, 6: torch.bfloat16}
"""By the number of ``DType``."""


@dataclass(frozen=True)
class Attention:
    """What reached the attention's kernel."""

    name: str
    query: tuple[int, ...]
    key: tuple[int, ...]
    dtype: str
    max_q: int
    max_kv: int
    layout: str
    mask: str
    num_borders: tuple[int, int, int, int]
    """Of ``cu_seqlens`` and ``cu_seqlens_padded`` of queries and of keys; 0: not given."""
    deterministic: bool


products: Counter[tuple[str, str, str]] = Counter()
"""Matrix products by the types of both sides and of the result."""
attention: list[Attention] = []
rotary: Counter[tuple[str, int, int]] = Counter()
"""Fused rotary embeddings by format, context-parallel ranks and rank."""
calls: Counter[str] = Counter()


def _size(tensor: object) -> torch.Size:
    """Of a tensor or of Transformer Engine's storage of a quantised one."""
    return torch.Size(tensor.shape if isinstance(tensor, Tensor) else tensor.size())


def _kind(tensor: object) -> str:
    """A tensor's type, or the name of its quantisation."""
    name = type(tensor).__name__
    if name.startswith(("Float8", "MXFP8")):
        return name.removesuffix("Storage").removesuffix("Tensor").removesuffix("Q")
    return str(tensor.dtype).removeprefix("torch.")


def _product_shape(a: object, transa: bool, b: object, transb: bool) -> tuple[int, ...]:
    """cuBLAS is column-major: the result is ``op(B) @ op(A)`` in rows."""
    size_a, size_b = _size(a), _size(b)
    rows_b, cols_b = math.prod(size_b[:-1]), size_b[-1]
    rows_a, cols_a = math.prod(size_a[:-1]), size_a[-1]
    inner_a, outer_a = (cols_a, rows_a) if transa else (rows_a, cols_a)
    inner_b = rows_b if transb else cols_b
    assert inner_a == inner_b, f"product of {size_a} ({transa}) and {size_b} ({transb})"
    return (cols_b, outer_a) if transb else (*size_b[:-1], outer_a)


def generic_gemm(
    A: object,
    transA: bool,
    B: object,
    transB: bool,
    D: Tensor | None,
    quantizer: object,
    output_dtype: int | None,
    bias: Tensor | None,
    bias_type: int,
    gelu: bool,
    gelu_in: Tensor | None,
    grad: bool,
    workspace: Tensor,
    workspace_size: int,
    accumulate: bool,
    use_split_accumulator: bool,
    extra_output: Tensor | None = None,
    **_: object,
) -> tuple[object, Tensor | None, None, Tensor | None]:
    """One matrix product, with the gradient of the bias where it is asked for."""
    calls["generic_gemm"] += 1
    assert not gelu, "no model here has GELU"
    shape = _product_shape(A, transA, B, transB)
    if D is None:
        dtype = _TYPES[int(output_dtype)] if output_dtype is not None else B.dtype
        D = torch.empty(shape, dtype=dtype, device="meta")
    assert D.numel() == math.prod(shape), (D.shape, shape)
    products[_kind(A), _kind(B), _kind(D)] += 1
    result: object = D if quantizer is None else quantize(D, quantizer)
    bias_grad = None
    if bias is not None and grad:
        bias_grad = torch.empty_like(bias)
    return result, bias_grad, None, extra_output


def te_general_grouped_gemm(
    A: Sequence[object],
    transa: bool,
    B: Sequence[object],
    transb: bool,
    out: Sequence[Tensor],
    out_dtype: int,
    m_splits: Sequence[int] | None,
    bias: Sequence[Tensor],
    bias_dtype: int,
    single_output: bool,
    *_: object,
) -> Sequence[Tensor]:
    """The experts' products, one for each pair."""
    calls["te_general_grouped_gemm"] += 1
    shapes = [_product_shape(a, transa, b, transb) for a, b in zip(A, B, strict=True)]
    if single_output:
        assert out[0].numel() == sum(map(math.prod, shapes))
    else:
        for tensor, shape in zip(out, shapes, strict=True):
            assert tensor.numel() == math.prod(shape), (tensor.shape, shape)
    for a, b in zip(A, B, strict=True):
        products[_kind(a), _kind(b), _kind(out[0])] += 1
    return bias


def get_num_cublas_streams() -> int:
    """As the compiled module has it."""
    return 4


# -- norms ---------------------------------------------------------------------------------------


def rmsnorm_fwd(
    input: Tensor,
    weight: Tensor,
    eps: float,
    ln_out: object,
    quantizer: object,
    otype: int,
    sm_margin: int,
    zero_centered_gamma: bool,
) -> tuple[object, None, Tensor]:
    """The norm, quantised at once where a quantizer is given, and 1 / root mean square."""
    calls["rmsnorm_fwd"] += 1
    assert input.shape[-1] == weight.shape[0]
    result: object = torch.empty(input.shape, dtype=_TYPES[int(otype)], device="meta")
    if quantizer is not None:
        result = quantize(result, quantizer, ln_out)
    rows = math.prod(input.shape[:-1])
    return result, None, torch.empty(rows, dtype=torch.float32, device="meta")


def rmsnorm_bwd(
    dz: Tensor, x: Tensor, rsigma: Tensor, gamma: Tensor, sm_margin: int, zero_centered: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and of the weight."""
    calls["rmsnorm_bwd"] += 1
    assert dz.numel() == x.numel()
    return torch.empty_like(x), torch.empty_like(gamma)


# -- attention -----------------------------------------------------------------------------------


def fused_rope_forward(
    input: Tensor,
    freqs: Tensor,
    start_positions: Tensor | None,
    qkv_format: object,
    interleaved: bool,
    cu_seqlens: Tensor | None,
    cp_size: int,
    cp_rank: int,
) -> Tensor:
    """Rotary embedding of ``[tokens, heads, channels]``."""
    rotary[str(getattr(qkv_format, "name", qkv_format)), cp_size, cp_rank] += 1
    return torch.empty_like(input)


def get_fused_attn_backend(params: object) -> tuple[object, str]:
    """cuDNN takes what it takes on an H100 from 9.12 on: 16 bits, heads of up to 128 channels.

    Raises:
        NotImplementedError: a question whose answer is not known here.
    """
    import transformer_engine_torch as compiled

    calls["get_fused_attn_backend"] += 1
    backends = compiled.NVTE_Fused_Attn_Backend
    if int(params.qkv_dtype) not in (5, 6):
        return backends.NVTE_No_Backend, "not of 16 bits"
    return backends.NVTE_F16_arbitrary_seqlen, ""


def fused_attn_fwd(*given: object) -> list[Tensor]:
    """The output, the statistics of the softmax, and the state of the random numbers."""
    (max_q, max_kv, _training, _scale, _dropout, _fill, layout, _o, _scales, _bias, mask) = given[
        :11
    ]
    cu_q, cu_kv, q, k, v, dtype, padded_q, padded_kv = given[14:22]
    assert isinstance(q, Tensor)
    assert isinstance(v, Tensor)
    _note_attention(
        "forward", max_q, max_kv, layout, mask, q, k, (cu_q, padded_q, cu_kv, padded_kv)
    )
    out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=dtype, device="meta")
    stats = torch.empty((*q.shape[:-1], 1), dtype=torch.float32, device="meta")
    return [out, stats, torch.empty(2, dtype=torch.int64, device="meta")]


def fused_attn_bwd(*given: object) -> list[Tensor | None]:
    """Gradients of queries, keys and values."""
    max_q, max_kv = given[:2]
    layout, mask, deterministic = given[5], given[12], given[16]
    cu_q, cu_kv, q, k, v = given[17:22]
    padded_q, padded_kv = given[26:28]
    borders = (cu_q, padded_q, cu_kv, padded_kv)
    _note_attention("backward", max_q, max_kv, layout, mask, q, k, borders, bool(deterministic))
    tensors = [torch.empty_like(x) for x in (q, k, v)]
    return [*tensors, None, None]


def _note_attention(
    name: str,
    max_q: object,
    max_kv: object,
    layout: object,
    mask: object,
    query: object,
    key: object,
    borders: Sequence[object],
    deterministic: bool = False,
) -> None:
    calls[f"fused_attn {name}"] += 1
    assert isinstance(query, Tensor)
    assert isinstance(key, Tensor)
    assert isinstance(max_q, int)
    assert isinstance(max_kv, int)
    counts = tuple(len(b) if isinstance(b, Tensor) else 0 for b in borders)
    attention.append(
        Attention(
            name=name,
            query=tuple(query.shape),
            key=tuple(key.shape),
            dtype=_kind(query),
            max_q=max_q,
            max_kv=max_kv,
            layout=str(getattr(layout, "name", layout)).removeprefix("NVTE_"),
            mask=str(getattr(mask, "name", mask)).removeprefix("NVTE_"),
            num_borders=counts,
            deterministic=deterministic,
        )
    )


def thd_read_half_tensor(tensor: Tensor, cu_seqlens: Tensor, half_idx: int) -> Tensor:
    """One half of every document."""
    return torch.empty((tensor.shape[0] // 2, *tensor.shape[1:]), dtype=tensor.dtype, device="meta")


def thd_read_second_half_lse(
    lse: Tensor, cu_seqlens: Tensor, lse_packed: bool, second_half_lse_seqlen: int
) -> Tensor:
    """The softmax's statistics of the second half of every document."""
    if lse_packed:
        shape = (lse.shape[0], lse.shape[1] // 2)
        if lse.shape[0] > lse.shape[1]:  # [tokens, heads]
            shape = (lse.shape[0] // 2, lse.shape[1])
    else:
        shape = (lse.shape[0], lse.shape[1], second_half_lse_seqlen)
    return torch.empty(shape, dtype=lse.dtype, device="meta")


def _in_place(*_: object, **__: object) -> None:
    """Works in what it is given."""


# -- FP8 -----------------------------------------------------------------------------------------


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
    return torch.empty(_size(input), dtype=_TYPES[int(otype)], device="meta")


# -- the optimizer -------------------------------------------------------------------------------


def multi_tensor_l2norm(
    chunk_size: int, overflow: Tensor, lists: Sequence[Sequence[Tensor]], per_tensor: bool = False
) -> tuple[Tensor, Tensor]:
    """Norm of all tensors together, and of each."""
    calls["multi_tensor_l2norm"] += 1
    return (
        torch.empty(1, dtype=torch.float32, device="meta"),
        torch.empty(len(lists[0]) if per_tensor else 0, dtype=torch.float32, device="meta"),
    )


def multi_tensor_scale(
    chunk_size: int, overflow: Tensor, lists: Sequence[Sequence[Tensor]], scale: object
) -> None:
    """Works in what it is given; both lists must pair."""
    calls["multi_tensor_scale"] += 1
    for source, target in zip(lists[0], lists[1], strict=True):
        assert source.shape == target.shape


def multi_tensor_adam(
    chunk_size: int, overflow: Tensor, lists: Sequence[Sequence[Tensor]], *_: object
) -> None:
    """One step in place: gradients, parameters, both moments and perhaps a copy of the weights."""
    calls["multi_tensor_adam"] += 1
    for tensors in zip(*lists, strict=True):
        assert len({tensor.numel() for tensor in tensors}) == 1


KERNELS: dict[str, Callable[..., object]] = {
    "generic_gemm": generic_gemm,
    "te_general_grouped_gemm": te_general_grouped_gemm,
    "get_num_cublas_streams": get_num_cublas_streams,
    "rmsnorm_fwd": rmsnorm_fwd,
    "rmsnorm_bwd": rmsnorm_bwd,
    "fused_rope_forward": fused_rope_forward,
    "fused_rope_backward": fused_rope_forward,
    "get_fused_attn_backend": get_fused_attn_backend,
    "fused_attn_fwd": fused_attn_fwd,
    "fused_attn_bwd": fused_attn_bwd,
    "thd_read_half_tensor": thd_read_half_tensor,
    "thd_read_second_half_lse": thd_read_second_half_lse,
    "thd_out_correction": _in_place,
    "thd_second_half_lse_correction": _in_place,
    "thd_grad_correction": _in_place,
    "quantize": quantize,
    "create_empty_quantized_tensor": create_empty_quantized_tensor,
    "bgrad_quantize": bgrad_quantize,
    "split_quantize": split_quantize,
    "fp8_transpose": fp8_transpose,
    "swap_first_dims": _in_place,
    "dequantize": dequantize,
    "fused_amax_and_scale_update_after_reduction": _in_place,
    "compute_amax": _in_place,
    "multi_tensor_l2norm": multi_tensor_l2norm,
    "multi_tensor_scale": multi_tensor_scale,
    "multi_tensor_scale_tensor": multi_tensor_scale,
    "multi_tensor_adam": multi_tensor_adam,
    "multi_tensor_adam_param_remainder": multi_tensor_adam,
}


def weight_gradient(input: Tensor, grad_output: Tensor, main_grad: Tensor) -> None:
    """apex's: a weight's gradient, added in place."""
    calls["apex weight gradient"] += 1
    assert main_grad.shape == (grad_output.shape[-1], input.shape[-1])
