"""Transformer Engine's attention and rotary embeddings, by shapes; see :mod:`.kernels`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.gpu_dry.seen import Attention, attention, calls, kind, rotary


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
            dtype=kind(query),
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
