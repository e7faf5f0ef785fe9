"""What the kernels of Transformer Engine give back: shapes and types alone, on the meta device.

Each has its arguments as the compiled module has them (2.20.2, ``csrc/extensions``).  A kernel that
is not here raises by its name when it is called: see :mod:`.binding`.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tests.gpu_dry import attention_kernels, fp8_kernels
from tests.gpu_dry.seen import TYPES, calls, kind, products, size


def _product_shape(a: object, transa: bool, b: object, transb: bool) -> tuple[int, ...]:
    """cuBLAS is column-major: the result is ``op(B) @ op(A)`` in rows."""
    size_a, size_b = size(a), size(b)
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
        dtype = TYPES[int(output_dtype)] if output_dtype is not None else B.dtype
        D = torch.empty(shape, dtype=dtype, device="meta")
    assert D.numel() == math.prod(shape), (D.shape, shape)
    products[kind(A), kind(B), kind(D)] += 1
    result: object = D if quantizer is None else fp8_kernels.quantize(D, quantizer)
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
        products[kind(a), kind(b), kind(out[0])] += 1
    return bias


def get_num_cublas_streams() -> int:
    """As the compiled module has it."""
    return 4


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
    result: object = torch.empty(input.shape, dtype=TYPES[int(otype)], device="meta")
    if quantizer is not None:
        result = fp8_kernels.quantize(result, quantizer, ln_out)
    rows = math.prod(input.shape[:-1])
    return result, None, torch.empty(rows, dtype=torch.float32, device="meta")


def rmsnorm_bwd(
    dz: Tensor, x: Tensor, rsigma: Tensor, gamma: Tensor, sm_margin: int, zero_centered: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and of the weight."""
    calls["rmsnorm_bwd"] += 1
    assert dz.numel() == x.numel()
    return torch.empty_like(x), torch.empty_like(gamma)


def fused_topk_with_score_function_fwd(
    logits: Tensor, topk: int, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, which experts get a token, and what the backward pass needs."""
    calls["fused_topk_with_score_function_fwd"] += 1
    assert 0 < topk <= logits.shape[-1]
    return (
        torch.empty_like(logits),
        torch.empty(logits.shape, dtype=torch.bool, device="meta"),
        torch.empty(logits.shape, dtype=torch.float32, device="meta"),
    )


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


def _in_place(*_: object, **__: object) -> None:
    """Works in what it is given."""


KERNELS: dict[str, Callable[..., object]] = {
    "generic_gemm": generic_gemm,
    "te_general_grouped_gemm": te_general_grouped_gemm,
    "get_num_cublas_streams": get_num_cublas_streams,
    "rmsnorm_fwd": rmsnorm_fwd,
    "rmsnorm_bwd": rmsnorm_bwd,
    "fused_topk_with_score_function_fwd": fused_topk_with_score_function_fwd,
    "fused_topk_with_score_function_bwd": _in_place,
    "fused_rope_forward": attention_kernels.fused_rope_forward,
    "fused_rope_backward": attention_kernels.fused_rope_forward,
    "get_fused_attn_backend": attention_kernels.get_fused_attn_backend,
    "fused_attn_fwd": attention_kernels.fused_attn_fwd,
    "fused_attn_bwd": attention_kernels.fused_attn_bwd,
    "thd_read_half_tensor": attention_kernels.thd_read_half_tensor,
    "thd_read_second_half_lse": attention_kernels.thd_read_second_half_lse,
    "thd_out_correction": _in_place,
    "thd_second_half_lse_correction": _in_place,
    "thd_grad_correction": _in_place,
    "quantize": fp8_kernels.quantize,
    "create_empty_quantized_tensor": fp8_kernels.create_empty_quantized_tensor,
    "bgrad_quantize": fp8_kernels.bgrad_quantize,
    "split_quantize": fp8_kernels.split_quantize,
    "fp8_transpose": fp8_kernels.fp8_transpose,
    "swap_first_dims": _in_place,
    "dequantize": fp8_kernels.dequantize,
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
