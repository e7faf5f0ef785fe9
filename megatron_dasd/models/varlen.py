"""Packed attention through torch's own kernel for sequences of unequal length, on a GPU.

For a GPU machine without Transformer Engine.  The kernel (FlashAttention) takes 16-bit types and
CUDA alone; ``models.layers.PackedAttention`` calls it there, and does the same by itself elsewhere.

Slots are its sequences, not documents: under a causal mask no token sees the padding behind it.
Under context parallelism a rank's two chunks of a slot are a sequence each, over the keys from the
slot's beginning to the chunk's end; the kernel aligns the mask at the end of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn.attention import varlen

from megatron_dasd.models.context_parallel import chunks

_CAUSAL = (-1, 0)
_DTYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class AttentionPlan:
    """What a context-parallel rank attends to, in the order in which it holds its positions."""

    queries: list[int]
    """Queries of each sequence."""
    keys: list[int]
    """Keys of each sequence."""
    first_keys: list[int]
    """Where each sequence's keys begin in the row."""
    num_real: list[int]
    """Queries of each sequence that are no padding; they come first."""


def plan(
    lengths: Sequence[int], borders: Sequence[int], rank: int = 0, size: int = 1
) -> AttentionPlan:
    """Sequences of one of ``size`` context-parallel ranks.

    Args:
        lengths: tokens of each document.
        borders: where the slots begin, and where the last one ends.
    """
    made = AttentionPlan([], [], [], [])
    for length, (start, end) in zip(lengths, pairwise(borders), strict=True):
        for first, last in chunks(end - start, rank, size):
            if last == first:
                continue
            made.queries.append(last - first)
            made.keys.append(last)
            made.first_keys.append(start)
            made.num_real.append(max(0, min(last, length) - first))
    return made


def takes(query: Tensor) -> bool:
    """Whether the kernel does."""
    return query.is_cuda and query.dtype in _DTYPES


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    made: AttentionPlan,
    scale: float | None,
    window: int | None = None,
) -> Tensor:
    """Causal attention of every sequence.

    Args:
        query: ``[T, H, D]``, this rank's positions.
        key: ``[T * C, G, D]``, of the whole row.
        value: ``[T * C, G, D]``.
        window: tokens that a token attends to, itself included; None: all that stand before it.

    Returns:
        ``[T, H, D]``, zeros on padding.
    """
    device = query.device
    if made.keys != made.queries:
        pairs = zip(made.first_keys, made.keys, strict=True)
        index = torch.cat([torch.arange(start, start + n) for start, n in pairs]).to(device)
        key, value = key.index_select(0, index), value.index_select(0, index)
    out = varlen.varlen_attn(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        _borders(made.queries, device),
        _borders(made.keys, device),
        max(made.queries),
        max(made.keys),
        scale=scale,
        window_size=(window - 1, 0) if window else _CAUSAL,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)  # no statistics were asked for
    counts = zip(made.queries, made.num_real, strict=True)
    padding = torch.cat([torch.arange(n) >= real for n, real in counts]).to(device)
    return out.masked_fill(padding[:, None, None], 0.0)


def _borders(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device)
