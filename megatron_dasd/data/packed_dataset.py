"""Rows of packed documents, ready for the model."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_dasd.data.meta import (
    LOSS_MASK,
    META,
    PACK_DOCUMENTS,
    PACK_OFFSETS,
    TOKENS,
    data_folder,
    read_meta,
)
from megatron_dasd.data.packing import Packs
from megatron_dasd.data.rows import Row, packed_row
from megatron_dasd.errors import UserError

_AGAIN = "run the preprocessing stage again"


def sample_order(num_packs: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of the packs in one epoch: [packs], a function of the arguments alone.

    The generator is NumPy's legacy one, whose stream is frozen over NumPy's versions.
    """
    bits = np.random.MT19937(np.random.SeedSequence((seed, epoch)))
    return np.random.RandomState(bits).permutation(num_packs).astype(np.int64)


class PackedDataset:
    """The rows of a preprocessing stage's folder (see ``data.rows``), read through memory maps."""

    def __init__(self, path: Path) -> None:
        """Open and check the files.

        Raises:
            UserError: a file is missing, cut short, or does not fit the others.
        """
        self.meta = read_meta(path)
        self._folder = data_folder(path)
        self._check(self._misfits_of_files())
        try:
            self._tokens, self._mask = (
                IndexedDataset(str(self._folder / name)) for name in (TOKENS, LOSS_MASK)
            )
            documents, offsets = (
                np.load(self._folder / name, mmap_mode="r", allow_pickle=False)
                for name in (PACK_DOCUMENTS, PACK_OFFSETS)
            )
        except (AssertionError, OSError, ValueError) as error:
            raise UserError(f"{self._folder}: damaged ({error}); {_AGAIN}") from None
        self._packs = Packs(documents, offsets)
        self._check(self._misfits_of_contents())

    def __len__(self) -> int:
        return len(self._packs)

    def __getitem__(self, index: int) -> Row:
        """Return a row.

        Raises:
            IndexError: no such row.
            UserError: a token id is outside the vocabulary.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        documents = [
            (self._tokens[document], self._mask[document])
            for document in self._packs[index].tolist()
        ]
        row = packed_row(documents, self.meta.seq_length)
        if not 0 <= row["tokens"].min() <= row["tokens"].max() < self.meta.vocab_size:
            raise UserError(
                f"{self._folder}: row {index} holds a token id outside the vocabulary of "
                f"{self.meta.vocab_size}; {_AGAIN}"
            )
        return row

    def padding_row(self) -> Row:
        """A row without documents, which counts for nothing."""
        return packed_row([], self.meta.seq_length)

    def _check(self, misfits: Iterator[str]) -> None:
        for misfit in misfits:
            raise UserError(f"{self._folder}: {misfit}; {_AGAIN}")

    def _misfits_of_files(self) -> Iterator[str]:
        """Files that are missing or cut short."""
        for name, size in self.meta.file_bytes.items():
            file = self._folder / name
            if not file.is_file():
                yield f"{name} is missing"
            elif file.stat().st_size != size:
                yield f"{name} has {file.stat().st_size} bytes, {META} asks for {size}"

    def _misfits_of_contents(self) -> Iterator[str]:
        """What does not fit between the files; each line relies on those before it."""
        meta, packs, lengths = self.meta, self._packs, self._tokens.sequence_lengths
        if not np.array_equal(self._mask.sequence_lengths, lengths):
            yield f"{LOSS_MASK} and {TOKENS} differ in the lengths of their documents"
        if (lengths.size, lengths.sum()) != (meta.num_documents, meta.num_tokens):
            yield f"{TOKENS} and {META} differ in the number of documents or tokens"
        if not np.array_equal(np.sort(packs.documents), np.arange(lengths.size)):
            yield f"{PACK_DOCUMENTS} does not hold every document once"
        borders = packs.offsets
        if borders.size != meta.num_packs + 1 or borders[0] or borders[-1] != lengths.size:
            yield f"{PACK_OFFSETS} does not divide the documents into {meta.num_packs} packs"
        if np.diff(borders).min() <= 0:
            yield f"{PACK_OFFSETS} does not ascend"
        if np.add.reduceat(lengths[packs.documents], borders[:-1]).max() > meta.seq_length:
            yield f"{PACK_OFFSETS}: a pack is longer than {meta.seq_length} tokens"
