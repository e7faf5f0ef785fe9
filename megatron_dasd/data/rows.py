"""A packed row: documents one after another in ``seq`` positions, each in a slot of its own.

Position i of a slot holds token i of the document and, as label, token i + 1.  The last token of a
document predicts nothing, and no prediction crosses a border.  A slot is as long as its document,
rounded up to the alignment; the row's last slot reaches to the end of the row::

    align 4     a a a a a . . . b b b . . . . .      cu_seqlens         0, 5, 8
                slot of a       slot of b            cu_seqlens_padded  0, 8, 16

The rest of a slot behind its document is padding, which belongs to no document.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from megatron_dasd.data.meta import COMPANIONS, GROUPS, LOSS_MASK, TOKENS, Companion
from megatron_dasd.data.packing import aligned

Row = dict[str, npt.NDArray[np.number]]
"""``tokens``, ``labels``, ``position_ids`` int64 and ``loss_mask`` float32, all ``[seq]``;
companions ``[seq]`` in their own types, aligned with the labels as the mask is; numbers of
the documents' groups int16 ``[seq]``, 0: none;
``cu_seqlens`` and ``cu_seqlens_padded`` int32 ``[slots + 1]``: tokens of the documents, positions
of the slots, each summed up.  Padding: token 0, label 0, mask 0, companions unknown."""

BORDERS = ("cu_seqlens", "cu_seqlens_padded")
_FIELDS = COMPANIONS | {kind: Companion(np.int16, 0) for kind in GROUPS}


def packed_row(
    documents: Sequence[Mapping[str, npt.NDArray[np.number]]],
    seq_length: int,
    align: int = 1,
    companions: Iterable[str] = (),
) -> Row:
    """Lay documents into one row.

    Args:
        documents: each has ``tokens``, ``loss_mask`` and the companions, all ``[n]``.  The mask is
            1 where the token is a target, predicted from what precedes it.  The first token of a
            document has no prefix, so its mask and companions are ignored.
        seq_length: positions of the row.
        align: every document is padded to a multiple of this many positions.
        companions: names of the companions and kinds of groups that the row gets.

    Raises:
        ValueError: the documents are longer than the row.
    """
    lengths = np.array([len(document[TOKENS]) for document in documents] or [0], dtype=np.int64)
    starts = np.cumsum([0, *aligned(lengths, align)])
    if starts[-1] > seq_length:
        raise ValueError(f"{starts[-1]} positions do not fit into a row of {seq_length}")
    starts[-1] = seq_length
    row: Row = {
        "tokens": np.zeros(seq_length, dtype=np.int64),
        "labels": np.zeros(seq_length, dtype=np.int64),
        "loss_mask": np.zeros(seq_length, dtype=np.float32),
        "position_ids": np.arange(seq_length) - np.repeat(starts[:-1], np.diff(starts)),
        "cu_seqlens": np.cumsum([0, *lengths]).astype(np.int32),
        "cu_seqlens_padded": starts.astype(np.int32),
    }
    shifted = [LOSS_MASK, *companions]
    for name in companions:
        row[name] = np.full(seq_length, _FIELDS[name].unknown, _FIELDS[name].dtype)
    for document, start, length in zip(documents, starts[:-1].tolist(), lengths, strict=False):
        end = start + length
        row["tokens"][start:end] = document[TOKENS]
        row["labels"][start : end - 1] = document[TOKENS][1:]
        for name in shifted:
            row[name][start : end - 1] = document[name][1:]
    return row
