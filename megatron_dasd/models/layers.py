"""Layers for machines without Transformer Engine: packed attention and RMSNorm.

Shapes: T tokens of a packed row on one of C context-parallel ranks, H query heads, G key-value
heads, D channels a head.
"""

from itertools import pairwise

import numpy as np
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import is_layer_window_attention
from torch import Tensor
from torch.nn import functional as F

from megatron_dasd.models import varlen
from megatron_dasd.models.context_parallel import chunks, row_order

_ON_HOST = "dasd_borders"
"""Attribute of Megatron's ``PackedSeqParams`` that keeps the borders as numbers."""


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm whose weight carries Megatron's sequence-parallel mark.

    Megatron's own torch norm refuses sequence parallelism.  Some families scale by 1 + weight; the
    sum is taken in float32, as transformers and Transformer Engine do.
    """

    zero_centred: bool | None = None
    """Whether it scales by 1 + weight; None: as the model's config says."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: object
    ) -> None:
        super().__init__()
        self.eps = eps
        if self.zero_centred is None:
            self.zero_centred = config.layernorm_zero_centered_gamma
        start = float(not self.zero_centred)
        self.weight = torch.nn.Parameter(
            torch.full((hidden_size,), start, dtype=config.params_dtype)
        )
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; ``x`` is ``[..., hidden]``."""
        if self.zero_centred or self.weight.dtype != x.dtype:
            scale = self.weight.float() + float(bool(self.zero_centred))
            return F.rms_norm(x.float(), (x.shape[-1],), scale, self.eps).to(x.dtype)
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class StandaloneRMSNorm(RMSNorm):
    """An RMSNorm that Transformer Engine fuses into no projection.

    It is a module of its own there, one with an extra state, which every checkpoint holds and every
    load asks for.  Without FP8 that state is empty.
    """

    def get_extra_state(self) -> None:
        """Nothing, as Megatron's own layers have it; the key is what counts."""

    def set_extra_state(self, state: object) -> None:
        """What a checkpoint holds of it is not needed here."""


class PackedAttention(torch.nn.Module):
    """Causal attention inside each document of a packed row, never across their borders.

    A layer with a sliding window looks back as far as that alone.

    Stands where Transformer Engine's attention stands on a GPU, behind the same arguments.
    Megatron's own ``DotProductAttention`` refuses packed rows and context parallelism.  Ranks hold
    their shares of the row as ``models.context_parallel`` divides it, and gather the keys and
    values of all of it.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: object,
        attention_type: str,
        softmax_scale: float | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        **_: object,
    ) -> None:
        super().__init__()
        self.softmax_scale = softmax_scale
        self.window: int | None = None
        """Tokens that a token attends to, itself included; None: all that stand before it."""
        if is_layer_window_attention(
            config.window_size, config.window_attn_skip_freq, layer_number
        ):
            self.window = config.window_size[0] + 1
        self.group = None
        if config.context_parallel_size > 1:
            assert pg_collection is not None, "Megatron hands its groups to every attention"
            self.group = pg_collection.cp

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
        **_: object,
    ) -> Tensor:
        """Attend.

        Args:
            query: ``[T, H, D]``.
            key: ``[T, G, D]``.
            value: ``[T, G, D]``.
            packed_seq_params: of the whole row, the documents' lengths (``cu_seqlens_q``) and slots
                (``cu_seqlens_q_padded``, from 0 to T * C).

        Returns:
            ``[T, H * D]``, zeros on padding.
        """
        assert packed_seq_params is not None, "PackedAttention needs packed rows"
        lengths, borders = _on_host(packed_seq_params)
        rank, size = (self.group.rank(), self.group.size()) if self.group else (0, 1)
        if self.group:
            # Megatron's own mapping: backwards it sums all ranks' gradients of a key or value.
            shares = gather_from_sequence_parallel_region(
                torch.cat([key, value], dim=1), group=self.group
            )
            key, value = shares[row_order(np.array(borders), size)].chunk(2, dim=1)
        if varlen.takes(query):
            sequences = varlen.plan(lengths, borders, rank, size)
            return varlen.attend(
                query, key, value, sequences, self.softmax_scale, self.window
            ).flatten(1)
        parts, done = [], 0
        for length, (start, end) in zip(lengths, pairwise(borders), strict=True):
            document = slice(start, start + length)
            for first, last in chunks(end - start, rank, size):
                queries = query[done : done + max(0, min(last, length) - first)]
                attended = self._attend(queries, key[document], value[document], first)
                parts.append(F.pad(attended, (0, 0, 0, last - first - len(queries))))
                done += last - first
        return torch.cat(parts, dim=1).transpose(0, 1).flatten(1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, first: int) -> Tensor:
        """Attention of some of a document's tokens, the first of which is token ``first``.

        Returns:
            ``[H, tokens, D]``.
        """
        seen = first + len(query)
        window = self.window or seen
        # the first token that any of them sees
        start = max(0, first + 1 - window)
        q, k, v = (
            x.transpose(0, 1).unsqueeze(0) for x in (query, key[start:seen], value[start:seen])
        )
        mask = None
        if first or seen > window:
            mask = torch.ones(len(query), k.shape[2], dtype=torch.bool, device=q.device)
            mask = mask.tril(first - start).triu(first - start + 1 - window)
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.softmax_scale,
            enable_gqa=query.shape[1] != key.shape[1],
        ).squeeze(0)


def _on_host(params: PackedSeqParams) -> tuple[list[int], list[int]]:
    """Lengths of the documents and borders of their slots; read once for all layers.

    On a GPU the host waits for them.
    """
    found: tuple[list[int], list[int]] | None = getattr(params, _ON_HOST, None)
    if found is None:
        found = (params.cu_seqlens_q.diff().tolist(), params.cu_seqlens_q_padded.tolist())
        setattr(params, _ON_HOST, found)
    return found
