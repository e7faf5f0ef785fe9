"""Layers for machines without Transformer Engine: packed attention and RMSNorm.

Shapes: T tokens of a packed row, H query heads, G key-value heads, D channels a head.
"""

from itertools import pairwise
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import functional as F


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm whose weight carries Megatron's sequence-parallel mark.

    Megatron's own torch norm refuses sequence parallelism.
    """

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; ``x`` is ``[..., hidden]``."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class PackedAttention(torch.nn.Module):
    """Causal attention inside each document of a packed row, never across their borders.

    Stands where Transformer Engine's attention stands on a GPU, behind the same arguments.
    Megatron's own ``DotProductAttention`` refuses packed rows.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        softmax_scale: float | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
        **_: Any,
    ) -> Tensor:
        """Attend.

        Args:
            query: ``[T, H, D]``.
            key: ``[T, G, D]``.
            value: ``[T, G, D]``.
            packed_seq_params: the documents' lengths (``cu_seqlens_q``) and slots
                (``cu_seqlens_q_padded``, from 0 to T).

        Returns:
            ``[T, H * D]``, zeros on padding.
        """
        assert packed_seq_params is not None, "PackedAttention wants packed rows"
        lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
        slots = packed_seq_params.cu_seqlens_q_padded.tolist()
        grouped = query.shape[1] != key.shape[1]
        documents = []
        for length, (start, end) in zip(lengths, pairwise(slots), strict=True):
            q, k, v = (
                x[start : start + length].transpose(0, 1).unsqueeze(0) for x in (query, key, value)
            )
            attended = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=self.softmax_scale, enable_gqa=grouped
            )
            documents.append(F.pad(attended, (0, 0, 0, end - start - length)))
        return torch.cat(documents, dim=2).squeeze(0).transpose(0, 1).flatten(1)
