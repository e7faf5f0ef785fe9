"""Packed rows through the model: several documents in one row, attention inside each."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

Row = dict[str, np.ndarray]
Batch = dict[str, Tensor]
"""One row: ``tokens``, ``labels``, ``loss_mask``, ``position_ids`` of shape ``[1, seq]`` and
``document_ids`` of shape ``[seq]``, -1 for padding."""


def to_batch(row: Row) -> Batch:
    """A row ``[seq]`` as tensors on the current device."""
    batch = {name: torch.from_numpy(values) for name, values in row.items()}
    if torch.cuda.is_available():
        batch = {name: x.cuda(non_blocking=True) for name, x in batch.items()}
    return {name: x if name == "document_ids" else x.unsqueeze(0) for name, x in batch.items()}


def packed_seq_params(document_ids: Tensor) -> PackedSeqParams:
    """Borders of the documents of one row, as attention and rotary embedding want them.

    Padding counts as a document of its own: every token belongs to some segment, and the
    padding's loss mask is 0.

    Args:
        document_ids: ``[seq]``, the document of every token, -1 for padding.
    """
    changes = torch.nonzero(document_ids[1:] != document_ids[:-1]).flatten() + 1
    inner = [0, *changes.tolist(), document_ids.numel()]
    longest = max(end - start for start, end in pairwise(inner))
    borders = torch.tensor(inner, dtype=torch.int32, device=document_ids.device)
    # The longest document, not the row's length: Megatron takes rotary frequencies as long as the
    # row for positions that run on across documents.
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=borders,
        cu_seqlens_kv=borders,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


def forward(
    model: torch.nn.Module,
    batch: Batch,
    with_loss: bool = True,
    output_processor: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Run one packed row through this rank's pipeline stage.

    Args:
        output_processor: takes the place of the output layer and its loss, see
            ``losses.output_layer``.

    Returns:
        On the last stage what the output processor gives; without one the token losses
        -ln p(label), ``[1, seq]``, or without loss the logits, ``[1, seq, vocab/tp]``.  Elsewhere
        hidden states.
    """
    return model(  # type: ignore[no-any-return]
        batch["tokens"],
        batch["position_ids"],
        None,
        labels=batch["labels"] if with_loss else None,
        packed_seq_params=packed_seq_params(batch["document_ids"]),
        output_processor=output_processor,
    )
