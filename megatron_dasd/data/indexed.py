"""Token ids and loss masks as two aligned datasets in Megatron's indexed format.

Stock ``IndexedDataset`` opens both: sequence i is document i, and ``loss_mask[i][k] == 1`` says
that token k of the document is a target, predicted at position k - 1.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import (
    DType,
    IndexedDatasetBuilder,
    get_bin_path,
    get_idx_path,
)

from megatron_dasd.data.meta import (
    LOSS_MASK,
    META,
    PACK_DOCUMENTS,
    PACK_OFFSETS,
    TOKENS,
    DataMeta,
    Document,
)
from megatron_dasd.data.packing import best_fit_decreasing
from megatron_dasd.errors import UserError


class PackedDataWriter:
    """Writes documents one by one, then packs them; in memory are their lengths only."""

    def __init__(self, folder: Path, seq_length: int, vocab_size: int, eod_id: int) -> None:
        """Begin.

        Args:
            folder: an empty folder, where the files of ``data.meta`` go.
            seq_length: tokens of a row.
            vocab_size: token ids must be below it.
            eod_id: the token that ends an assistant turn.
        """
        self.documents: list[Document] = []
        self._folder, self._seq_length = folder, seq_length
        self._vocab_size, self._eod_id = vocab_size, eod_id
        self._tokens = IndexedDatasetBuilder(
            get_bin_path(str(folder / TOKENS)), dtype=DType.optimal_dtype(vocab_size)
        )
        self._mask = IndexedDatasetBuilder(get_bin_path(str(folder / LOSS_MASK)), dtype=np.uint8)

    def add(self, name: str, token_ids: Sequence[int], loss_mask: Sequence[int]) -> None:
        """Append a document.

        Args:
            name: where the document comes from.
            token_ids: [tokens] at most a row's length.
            loss_mask: [tokens] 1 for the tokens that are targets; the first never is, since
                nothing precedes it.

        Raises:
            UserError: a token id outside the vocabulary.
            ValueError: mask and tokens do not fit each other or the row.
        """
        if not len(token_ids) == len(loss_mask) <= self._seq_length or loss_mask[0]:
            raise ValueError(f"{name}: {len(token_ids)} tokens, mask of {len(loss_mask)}")
        if not 0 <= min(token_ids) <= max(token_ids) < self._vocab_size:
            raise UserError(
                f"{name}: token id {max(token_ids)} is outside the model's vocabulary of "
                f"{self._vocab_size}; tokenizer and model do not belong together"
            )
        for builder, values in ((self._tokens, token_ids), (self._mask, loss_mask)):
            builder.add_item(torch.tensor(values))
            builder.end_document()
        self.documents.append(
            Document(name=name, num_tokens=len(token_ids), num_loss_tokens=sum(loss_mask))
        )

    def finish(self) -> DataMeta:
        """Pack the documents and close the files."""
        for builder, name in ((self._tokens, TOKENS), (self._mask, LOSS_MASK)):
            builder.finalize(get_idx_path(str(self._folder / name)))
        lengths = np.array([document.num_tokens for document in self.documents], dtype=np.int64)
        packs = best_fit_decreasing(lengths, self._seq_length)
        np.save(self._folder / PACK_DOCUMENTS, packs.documents)
        np.save(self._folder / PACK_OFFSETS, packs.offsets)
        num_tokens = int(lengths.sum())
        meta = DataMeta(
            seq_length=self._seq_length,
            num_documents=lengths.size,
            num_tokens=num_tokens,
            num_loss_tokens=sum(document.num_loss_tokens for document in self.documents),
            num_packs=len(packs),
            fill=num_tokens / max(1, len(packs) * self._seq_length),
            vocab_size=self._vocab_size,
            eod_id=self._eod_id,
            file_bytes={p.name: p.stat().st_size for p in sorted(self._folder.iterdir())},
        )
        (self._folder / META).write_text(json.dumps(asdict(meta), indent=2))
        return meta
