"""Losses that replace Megatron's output layer: hidden states in, a few numbers per token out.

``GPTModel.forward(output_processor=...)`` calls these on the last pipeline stage instead of its
output layer, whose weights and settings they use.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor

from megatron_dasd.errors import UserError
from megatron_dasd.losses.linear_logprobs import VocabShard, linear_logprobs
from megatron_dasd.losses.linear_loss import linear_loss
from megatron_dasd.losses.slices import default_bytes


class OutputLayerConfig(Protocol):
    """The part of Megatron's ``TransformerConfig`` that is read here."""

    defer_embedding_wgrad_compute: bool
    gradient_accumulation_fusion: bool


class OutputLayer(Protocol):
    """The part of Megatron's ``ColumnParallelLinear`` that is read here."""

    weight: Tensor
    config: OutputLayerConfig
    tp_group: torch.distributed.ProcessGroup
    sequence_parallel: bool
    gtp_remat_size: int
    _forward_pre_hooks: Mapping[int, Callable[..., object]]
    """Of ``torch.nn.Module``."""


def token_losses(
    *,
    vocab_size: int,
    hidden_states: Tensor,
    output_layer: OutputLayer,
    output_weight: Tensor | None,
    labels: Tensor,
    scale_logits: Callable[[Tensor], Tensor],
    slice_mib: int | None = None,
    **_: object,
) -> Tensor:
    """-ln p(label) of every token, ``[batch, seq]``, as Megatron's model returns it.

    Args:
        vocab_size: true size of the vocabulary; the padding after it is left out of the softmax.
        hidden_states: ``[seq, batch, hidden]``, under sequence parallelism this rank's part of
            ``seq``.
        output_layer: Megatron's ``ColumnParallelLinear``.
        output_weight: the embedding's weight if it is shared; None: the layer's own.
        labels: ``[batch, seq]``.
        scale_logits: Megatron's scaling of the logits; a factor, so it may come before them.
        slice_mib: MiB of logits to hold at a time; None: by the device, see ``losses.slices``.
    """
    batch, seq = labels.shape
    token_ids = labels.t().reshape(-1, 1)
    logprobs, _rest = output_logprobs(
        scale_logits(hidden_states), output_layer, output_weight, token_ids, vocab_size, slice_mib
    )
    return -logprobs.view(seq, batch).t().contiguous()


def summed_loss(
    *,
    vocab_size: int,
    factors: Tensor,
    hidden_states: Tensor,
    output_layer: OutputLayer,
    output_weight: Tensor | None,
    labels: Tensor,
    scale_logits: Callable[[Tensor], Tensor],
    slice_mib: int | None = None,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the token losses by ``losses.linear_loss``.

    Args:
        vocab_size: true size of the vocabulary.
        factors: ``[batch, seq]``, the weight of each loss.
        hidden_states: and all that follows, as in :func:`token_losses`.

    Returns:
        The sum, and the losses ``[batch, seq]``, which have no gradient.
    """
    layer = _layer(scale_logits(hidden_states), output_layer, output_weight, vocab_size, slice_mib)
    total, losses = linear_loss(
        layer.hidden,
        layer.weight,
        labels.t().reshape(-1),
        factors.t().reshape(-1),
        layer.shard,
        layer.into_main_grad,
    )
    return total, losses.view(labels.t().shape).t().contiguous()


def output_logprobs(
    hidden_states: Tensor,
    output_layer: OutputLayer,
    output_weight: Tensor | None,
    token_ids: Tensor,
    vocab_size: int,
    slice_mib: int | None = None,
) -> tuple[Tensor, Tensor]:
    """``linear_logprobs`` of chosen tokens with the weights and under the layout of a layer.

    Args:
        hidden_states: as in :func:`token_losses`.
        token_ids: ``[seq * batch, K]``, see ``linear_logprobs``.
        slice_mib: as in :func:`token_losses`.

    Raises:
        UserError: Megatron's output layer has a setting that is not supported here.
    """
    layer = _layer(hidden_states, output_layer, output_weight, vocab_size, slice_mib)
    return linear_logprobs(layer.hidden, layer.weight, token_ids, layer.shard, layer.into_main_grad)


class _Layer(NamedTuple):
    """The operands of the output projection on this rank."""

    hidden: Tensor
    """``[seq * batch, hidden]``, of the whole row, also under sequence parallelism."""
    weight: Tensor
    shard: VocabShard
    into_main_grad: bool


def _layer(
    hidden_states: Tensor,
    output_layer: OutputLayer,
    output_weight: Tensor | None,
    vocab_size: int,
    slice_mib: int | None,
) -> _Layer:
    weight = output_layer.weight if output_weight is None else output_weight
    group = output_layer.tp_group
    if output_layer.config.defer_embedding_wgrad_compute or output_layer.gtp_remat_size > 1:
        raise UserError(
            "the chunked loss does not support defer-embedding-wgrad-compute and generalized "
            "tensor parallelism; leave them out of the megatron flags, or set chunked_loss: false"
        )
    # Megatron waits for gathered weights (overlap-param-gather) where a layer is called, and this
    # layer never is.
    for hook in output_layer._forward_pre_hooks.values():
        hook(output_layer, ())
    # In the backward pass these mappings sum the ranks' shares of the gradient.
    if output_layer.sequence_parallel:
        hidden_states = gather_from_sequence_parallel_region(hidden_states, group=group)
    else:
        hidden_states = copy_to_tensor_model_parallel_region(hidden_states, group=group)
    first_id = group.rank() * len(weight)
    num_ids = max(0, min(len(weight), vocab_size - first_id))
    slice_bytes = slice_mib * 2**20 if slice_mib else _bytes_of_device(weight)
    shard = VocabShard(first_id, num_ids, group, slice_bytes)
    # By the config, not by the layer's own flag, which is off where only apex's kernel is missing.
    fused = output_layer.config.gradient_accumulation_fusion and hasattr(weight, "main_grad")
    return _Layer(hidden_states.flatten(0, 1), weight, shard, fused)


def _bytes_of_device(weight: Tensor) -> int:
    if weight.device.type == "cpu":
        return default_bytes(None)
    return default_bytes(torch.cuda.get_device_properties(weight.device).total_memory)
