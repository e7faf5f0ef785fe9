"""Packed rows through the model: several documents in one row, attention inside each."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from megatron.core import mpu
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.utils import get_attr_wrapped_model
from torch import Tensor

from megatron_dasd.data.rows import BORDERS, Row
from megatron_dasd.models.context_parallel import own_positions, slot_multiple

Batch = dict[str, Tensor]
"""One row: ``tokens``, ``labels``, ``loss_mask``, ``position_ids`` and companions of shape
``[1, seq]``; the borders ``cu_seqlens`` and ``cu_seqlens_padded`` of shape ``[slots + 1]``; on the
CPU ``longest_slot``, a single number (:func:`longest_slot`); and under context parallelism
``own_positions``, int64 ``[seq / cp]``."""

OWN = "own_positions"
ROW_NUMBER = "row_number"
"""int64 ``[1]``: which row of the data it is, -1 for padding; there in training."""
_OF_THE_ROW = (*BORDERS, "longest_slot", OWN, ROW_NUMBER)
"""What is no field of every position."""


def for_rank(row: Row, rank: int, size: int) -> Row:
    """The whole row, and the positions that one of ``size`` context-parallel ranks has of it."""
    if size == 1:
        return row
    return row | {OWN: own_positions(row["cu_seqlens_padded"], rank, size)}


def own_share(batch: Batch) -> Batch:
    """What this context-parallel rank has of a batch: all fields ``[1, seq / cp]``."""
    if OWN not in batch:
        return batch
    own = batch[OWN]
    return {name: x if name in _OF_THE_ROW else x.index_select(1, own) for name, x in batch.items()}


def longest_slot(row: Row) -> int:
    """A bound for the row's slots, one of few: the next power of two, below the row's length.

    Tables of the rotary embedding and choices of kernels are kept by this number.  It is the row's
    length for a row of one slot alone: Megatron takes rotary frequencies as long as the row for
    positions that run on across documents.
    """
    borders = row["cu_seqlens_padded"]
    length, longest = int(borders[-1]), int(np.diff(borders).max())
    if longest == length:
        return length
    multiple = slot_multiple(length // len(row[OWN]) if OWN in row else 1)
    power = 1 << (longest - 1).bit_length()
    # The other slots have at least the positions that all are multiples of.
    return min(-(-power // multiple) * multiple, length - int(np.gcd.reduce(borders)))


def to_batch(row: Row) -> Batch:
    """A row (see ``data.rows``) as tensors on the current device.

    On a GPU they come from pinned memory, so that no copy makes the host wait.
    """
    batch = {name: torch.from_numpy(values) for name, values in row.items()}
    if torch.cuda.is_available():
        batch = {name: x.pin_memory().cuda(non_blocking=True) for name, x in batch.items()}
    return {
        "longest_slot": torch.tensor(longest_slot(row)),
        **{name: x if name in _OF_THE_ROW else x.unsqueeze(0) for name, x in batch.items()},
    }


def packed_seq_params(batch: Batch) -> PackedSeqParams:
    """Borders of the documents of one row, as attention and rotary embedding take them.

    Attention goes by the documents (``cu_seqlens``) inside their slots (``cu_seqlens_padded``),
    positions by the slots alone.  Under context parallelism too they are those of the whole row.
    """
    true, padded = (batch[name] for name in BORDERS)
    # A row of nothing but padding has one document of no token: cuDNN takes no empty one.
    true = torch.cat((true[:1], true[1:].clamp(min=1)))
    # The longest slot, not the row's length: Megatron takes rotary frequencies as long as the
    # row for positions that run on across documents.
    longest = int(batch["longest_slot"])
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=true,
        cu_seqlens_kv=true,
        cu_seqlens_q_padded=padded,
        cu_seqlens_kv_padded=padded,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        # Said, not left for Transformer Engine to find out: it would not look at the last slot,
        # and its kernels for rows without padding leave padding as they found it.
        pad_between_seqs=True,
    )


def padding_of(batch: Batch, size: int) -> Tensor:
    """What of a row, or of this rank's share of it, belongs to no document.

    Args:
        size: positions of the share.

    Returns:
        ``[1, size]``, True: padding, as the body of Megatron's router takes it (several of its
        docstrings say the reverse).
    """
    true, padded = (batch[name] for name in BORDERS)
    positions = batch[OWN] if OWN in batch else torch.arange(size, device=padded.device)
    slot = torch.searchsorted(padded[1:].long(), positions.long(), right=True)
    return (positions - padded[slot] >= true.diff()[slot]).unsqueeze(0)


def _router_mask(model: torch.nn.Module, batch: Batch) -> Tensor | None:
    """Padding as this rank's experts' routers want it; None where there is no expert."""
    part = get_attr_wrapped_model(model, "pre_process", return_model_obj=True)
    if not part.config.num_moe_experts:
        return None
    mask = padding_of(batch, batch["tokens"].shape[1])
    if part.config.sequence_parallel and not part.pre_process:
        # Megatron divides it where the embedding is, and nowhere else.
        rank, size = (
            mpu.get_tensor_model_parallel_rank(),
            mpu.get_tensor_model_parallel_world_size(),
        )
        mask = mask.chunk(size, dim=1)[rank].contiguous()
    return mask


def forward(
    model: torch.nn.Module,
    batch: Batch,
    with_loss: bool = True,
    output_processor: Callable[..., object] | None = None,
) -> Any:
    """Run one packed row, or this rank's share of it, through this rank's pipeline stage.

    Args:
        batch: see :func:`own_share`.
        output_processor: takes the place of the output layer and its loss, see
            ``losses.output_layer``.

    Returns:
        On the last stage what the output processor gives; without one the token losses
        -ln p(label), ``[1, seq]``, or without loss the logits, ``[1, seq, vocab/tp]``.  Elsewhere
        hidden states.
    """
    return model(
        batch["tokens"],
        batch["position_ids"],
        None,
        labels=batch["labels"] if with_loss else None,
        packed_seq_params=packed_seq_params(batch),
        output_processor=output_processor,
        padding_mask=_router_mask(model, batch),
    )
