"""A packed row: documents one after another in ``seq`` positions, padding at the end.

Position i holds token i of its document and, as label, token i + 1 of the same document.  The last
token of a document predicts nothing, and nothing reaches over a border.
"""

from collections.abc import Sequence

import numpy as np

Row = dict[str, np.ndarray]
"""``tokens``, ``labels``, ``position_ids``, ``document_ids`` int64 and ``loss_mask`` float32, all
``[seq]``.  Padding: token 0, label 0, mask 0, document -1."""

PADDING = -1
"""Document id of padding."""


def packed_row(documents: Sequence[tuple[np.ndarray, np.ndarray]], seq_length: int) -> Row:
    """Lay documents into one row.

    Args:
        documents: of each, its token ids ``[n]`` and its target mask ``[n]``: 1 where the token is
            to be learnt from what precedes it.  The first token of a document has no prefix, so
            its mask counts for nothing.
        seq_length: positions of the row.

    Raises:
        ValueError: the documents are longer than the row.
    """
    lengths = [len(tokens) for tokens, _ in documents]
    if sum(lengths) > seq_length:
        raise ValueError(f"{sum(lengths)} tokens do not fit into a row of {seq_length}")
    row: Row = {
        "tokens": np.zeros(seq_length, dtype=np.int64),
        "labels": np.zeros(seq_length, dtype=np.int64),
        "loss_mask": np.zeros(seq_length, dtype=np.float32),
        "position_ids": np.zeros(seq_length, dtype=np.int64),
        "document_ids": np.full(seq_length, PADDING, dtype=np.int64),
    }
    start = 0
    for number, (tokens, mask) in enumerate(documents):
        end = start + len(tokens)
        row["tokens"][start:end] = tokens
        row["labels"][start : end - 1] = tokens[1:]
        row["loss_mask"][start : end - 1] = mask[1:]
        row["position_ids"][start:end] = np.arange(len(tokens))
        row["document_ids"][start:end] = number
        start = end
    row["position_ids"][start:] = np.arange(seq_length - start)
    return row
