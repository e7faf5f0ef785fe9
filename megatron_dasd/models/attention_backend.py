"""Transformer Engine's own choice of an attention kernel for packed rows, without a training step.

Rows with padding between their documents leave few kernels: cuDNN's fused attention, and
FlashAttention 3 where it is installed.  Which one it is depends on the GPU, on cuDNN's version, and
on the shapes.
"""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AttentionShape:
    """What one rank's attention is given of a packed row."""

    num_heads: int
    """Query heads of the rank."""
    num_groups: int
    """Key-value heads of the rank."""
    head_dim: int
    num_tokens: int
    """Positions of the row on the rank."""
    context_parallel: int


def chosen(shape: AttentionShape) -> str:
    """Ask Transformer Engine, on this machine's GPU and with its cuDNN.

    Returns:
        The kernel's name; empty: no kernel takes such rows.

    Raises:
        ImportError: Transformer Engine is not installed.
    """
    from transformer_engine.pytorch.attention.dot_product_attention import utils

    return name_of(utils.get_attention_backend(question(shape)))


def question(shape: AttentionShape) -> Any:
    """The question as Transformer Engine takes it, its ``AttentionParams``; raises as above."""
    from transformer_engine.pytorch.attention.dot_product_attention import utils

    return utils.AttentionParams(
        qkv_layout="thd_thd_thd",
        num_heads=shape.num_heads,
        num_gqa_groups=shape.num_groups,
        max_seqlen_q=shape.num_tokens,
        max_seqlen_kv=shape.num_tokens,
        num_tokens_q=shape.num_tokens,
        num_tokens_kv=shape.num_tokens,
        head_dim_qk=shape.head_dim,
        head_dim_v=shape.head_dim,
        attn_mask_type="padding_causal",
        window_size=(-1, 0),
        bottom_right_diagonal=False,
        core_attention_bias_requires_grad=False,
        softmax_scale=1 / math.sqrt(shape.head_dim),
        pad_between_seqs=True,
        context_parallel=shape.context_parallel > 1,
        cp_size=shape.context_parallel,
    )


def name_of(answer: tuple[Any, ...]) -> str:
    """Name the kernel in an answer of Transformer Engine's ``get_attention_backend``."""
    flash, flash_version, fused, _, unfused, _ = answer
    if flash:
        return f"FlashAttention {flash_version}"
    if fused:
        return "cuDNN's fused attention"
    return "unfused attention" if unfused else ""
