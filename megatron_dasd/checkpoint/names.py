"""One table of names and transforms between Hugging Face and Megatron, for both directions.

A mapping pairs one Megatron tensor with the Hugging Face tensors that it is made of.  Shapes: V
vocabulary, H hidden, F feed-forward, Q query heads, G key-value heads, D channels a head.
Megatron's names are those of a whole model on one rank with the local layer spec: experts are
numbered over all, each with tensors of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from megatron_dasd.models.architecture import Architecture
from megatron_dasd.models.linear_attention import LinearAttention


@dataclass(frozen=True)
class TensorMapping:
    """One Megatron tensor and its Hugging Face tensors."""

    megatron: str
    hf: tuple[str, ...]
    join: Callable[[list[Tensor]], Tensor]
    """Hugging Face tensors, in order, to the Megatron tensor."""
    split: Callable[[Tensor], list[Tensor]]
    """The inverse, bit for bit."""
    wide: bool = False
    """Whether Megatron's tensor is float32 in a model of 16 bits too."""


def tensor_mappings(architecture: Architecture) -> Iterator[TensorMapping]:
    """All mappings of a model, in layer order; every tensor of either side occurs exactly once."""
    prefix = architecture.family.prefix
    embedding = "embedding.word_embeddings.weight"
    yield _vocabulary(embedding, f"{prefix}embed_tokens.weight", architecture)
    for layer in range(architecture.num_layers):
        yield from _layer_mappings(layer, architecture)
    yield _same("decoder.final_layernorm.weight", f"{prefix}norm.weight")
    if not architecture.tied_embeddings:
        yield _vocabulary("output_layer.weight", "lm_head.weight", architecture)


def _layer_mappings(layer: int, architecture: Architecture) -> Iterator[TensorMapping]:
    ours = f"decoder.layers.{layer}."
    theirs = f"{architecture.family.prefix}layers.{layer}."
    yield _same(ours + "input_layernorm.weight", theirs + "input_layernorm.weight")
    if architecture.linear and architecture.linear.layers[layer]:
        yield from _delta_net(
            ours + "self_attention.", theirs + "linear_attn.", architecture.linear
        )
    else:
        yield from _attention(ours + "self_attention.", theirs + "self_attn.", architecture)
    yield _same(ours + "pre_mlp_layernorm.weight", theirs + "post_attention_layernorm.weight")
    if architecture.experts is None:
        yield from _feed_forward(ours + "mlp.", theirs + "mlp.")
        return
    yield _same(ours + "mlp.router.weight", theirs + "mlp.gate.weight")
    if architecture.experts.shared_ffn_hidden_size:
        yield from _feed_forward(ours + "mlp.shared_experts.", theirs + "mlp.shared_expert.")
        yield _same(
            ours + "mlp.shared_experts.gate_weight", theirs + "mlp.shared_expert_gate.weight"
        )
    for expert in range(architecture.experts.num_experts):
        yield from _feed_forward(
            f"{ours}mlp.experts.local_experts.{expert}.", f"{theirs}mlp.experts.{expert}."
        )


def _attention(ours: str, theirs: str, architecture: Architecture) -> Iterator[TensorMapping]:
    has_biases = architecture.family.qkv_bias or architecture.attention_bias
    for part in ("weight", "bias") if has_biases else ("weight",):
        yield TensorMapping(
            f"{ours}linear_qkv.{part}",
            tuple(f"{theirs}{x}_proj.{part}" for x in "qkv"),
            lambda tensors: join_qkv(tensors, architecture),
            lambda tensor: split_qkv(tensor, architecture),
        )
    if architecture.family.qk_layernorm:
        for x in "qk":
            yield _same(f"{ours}{x}_layernorm.weight", f"{theirs}{x}_norm.weight")
    for part in ("weight", "bias") if architecture.attention_bias else ("weight",):
        yield _same(f"{ours}linear_proj.{part}", f"{theirs}o_proj.{part}")


def _delta_net(ours: str, theirs: str, sizes: LinearAttention) -> Iterator[TensorMapping]:
    """A gated delta net: four input projections above one another, all else as it is.

    ``models.delta_net`` says why two of its tensors are float32.
    """
    yield TensorMapping(
        ours + "in_proj.weight",
        tuple(f"{theirs}in_proj_{part}.weight" for part in ("qkv", "z", "b", "a")),
        torch.cat,
        lambda tensor: list(tensor.split(sizes.in_proj_sections)),
    )
    yield _same(ours + "conv1d.weight", theirs + "conv1d.weight")
    yield _same(ours + "dt_bias", theirs + "dt_bias")
    yield replace(_same(ours + "A_log", theirs + "A_log"), wide=True)
    yield replace(_same(ours + "out_norm.weight", theirs + "norm.weight"), wide=True)
    yield _same(ours + "out_proj.weight", theirs + "out_proj.weight")


def _feed_forward(ours: str, theirs: str) -> Iterator[TensorMapping]:
    """Gate above up, ``[2F, H]``, and down, ``[H, F]``."""
    yield TensorMapping(
        ours + "linear_fc1.weight",
        (theirs + "gate_proj.weight", theirs + "up_proj.weight"),
        torch.cat,
        lambda tensor: list(tensor.chunk(2)),
    )
    yield _same(ours + "linear_fc2.weight", theirs + "down_proj.weight")


def _same(megatron: str, hf: str) -> TensorMapping:
    return TensorMapping(megatron, (hf,), lambda tensors: tensors[0], lambda tensor: [tensor])


def _vocabulary(megatron: str, hf: str, architecture: Architecture) -> TensorMapping:
    """``[V, H]`` padded with rows of zeros, which belong to no token, and cropped again."""
    missing = architecture.padded_vocab_size - architecture.vocab_size
    return TensorMapping(
        megatron,
        (hf,),
        lambda tensors: torch.nn.functional.pad(tensors[0], (0, 0, 0, missing)),
        lambda tensor: [tensor[: architecture.vocab_size]],
    )


def join_qkv(tensors: list[Tensor], architecture: Architecture) -> Tensor:
    """Query, key and value projections to Megatron's, grouped by key-value head.

    Args:
        tensors: ``[Q*D, ...]``, ``[G*D, ...]``, ``[G*D, ...]``; with an output gate the first is
            ``[Q*2D, ...]``, for each head its query channels, its gate's channels.

    Returns:
        ``[(Q + 2G)*D, ...]``: for each group its Q/G query heads, its key head, its value head;
        with an output gate ``[(2Q + 2G)*D, ...]``, its Q/G gates behind its query heads.
    """
    groups, rest = architecture.num_query_groups, tensors[0].shape[1:]
    grouped = [t.reshape(groups, -1, *rest) for t in tensors]
    if architecture.linear:
        by_head = grouped[0].unflatten(1, (-1, 2, architecture.head_dim))
        grouped[0] = by_head.transpose(1, 2).flatten(1, 3)
    return torch.cat(grouped, dim=1).reshape(-1, *rest)


def split_qkv(tensor: Tensor, architecture: Architecture) -> list[Tensor]:
    """The inverse of :func:`join_qkv`."""
    groups, rest = architecture.num_query_groups, tensor.shape[1:]
    dim = architecture.head_dim
    queries = architecture.num_attention_heads // groups * dim * (2 if architecture.linear else 1)
    grouped = tensor.reshape(groups, queries + 2 * dim, *rest)
    parts = list(grouped.split([queries, dim, dim], dim=1))
    if architecture.linear:
        parts[0] = parts[0].unflatten(1, (2, -1, dim)).transpose(1, 2).flatten(1, 3)
    return [t.reshape(-1, *rest) for t in parts]
