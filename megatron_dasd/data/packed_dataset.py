"""Rows of packed documents, ready for the model.

Opening costs the same for any number of documents: it checks sizes and counts only.  What a row
depends on is checked when the row is read; ``data.integrity`` checks everything.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_dasd.data.groups import Names, renumbered
from megatron_dasd.data.indexed import index_bytes, index_head
from megatron_dasd.data.meta import (
    COMPANIONS,
    DOCUMENT_GROUPS,
    GROUPS,
    LOSS_MASK,
    META,
    PACK_DOCUMENTS,
    PACK_OFFSETS,
    SEQUENCE_WEIGHTS,
    TOKENS,
    data_folder,
    dtypes,
    read_meta,
)
from megatron_dasd.data.packing import Packs
from megatron_dasd.data.rows import Row, packed_row
from megatron_dasd.errors import UserError

_AGAIN = "run the preprocessing stage again"


class LossCounts(NamedTuple):
    """How much of a row counts."""

    tokens: int
    """Positions with a loss."""
    sequences: int
    """Documents with any."""


class PackedDataset:
    """The rows of a preprocessing stage's folder (see ``data.rows``), read through memory maps."""

    def __init__(
        self, path: Path, names: Names | None = None, companions: Sequence[str] | None = None
    ) -> None:
        """Open the files.

        Args:
            path: the stage's folder, or ``data`` in it.
            names: numbering of the documents' groups in the rows; default: this data set's own.
            companions: companions of the rows, unknown where this data set lacks one; default:
                its own.

        Raises:
            UserError: a file is missing, cut short, or does not fit the others.
        """
        self.path = path
        self.meta = read_meta(path)
        self._folder = data_folder(path)
        self._refuse(self._misfits_of_files())
        try:
            self.datasets = {n: IndexedDataset(str(self._folder / n)) for n in dtypes(self.meta)}
            documents, offsets = (
                np.load(self._folder / name, mmap_mode="r", allow_pickle=False)
                for name in (PACK_DOCUMENTS, PACK_OFFSETS)
            )
            self._weights, self._groups = (
                np.load(self._folder / name, mmap_mode="r", allow_pickle=False)
                if name in self.meta.file_bytes
                else None
                for name in (SEQUENCE_WEIGHTS, DOCUMENT_GROUPS)
            )
        except Exception as error:  # of damaged files numpy and Megatron raise any kind
            raise UserError(f"{self._folder}: damaged ({error}); {_AGAIN}") from None
        self.packs = Packs(documents, offsets)
        self._numbers = renumbered(self.meta.groups, self.meta.groups if names is None else names)
        self.companions = self.meta.companions if companions is None else list(companions)
        self._fields = (*self.companions, *self._numbers)
        self._refuse(self._misfits_of_counts())

    def __len__(self) -> int:
        return self.meta.num_packs

    def __getitem__(self, index: int) -> Row:
        """Return a row.

        Raises:
            IndexError: no such row.
            UserError: the row's documents, packing and metadata contradict each other.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        self._refuse(self._misfits_of_row(index))
        meta = self.meta
        with self._reading(index):
            documents = [self.document(number) for number in self.packs[index].tolist()]
            row = packed_row(documents, meta.seq_length, meta.pack_align, self._fields)
        if not 0 <= row["tokens"].min() <= row["tokens"].max() < meta.vocab_size:
            raise UserError(
                f"{self._folder}: row {index} holds a token id outside the vocabulary of "
                f"{meta.vocab_size}; {_AGAIN}"
            )
        return row

    def lengths(self, index: int) -> npt.NDArray[np.number]:
        """[documents] tokens of each document in a row.

        Raises:
            UserError: the row names a document that is not there.
        """
        with self._reading(index):
            lengths: npt.NDArray[np.number]
            lengths = self.datasets[TOKENS].sequence_lengths[self.packs[index]]
        return lengths

    def loss_counts(self, index: int) -> LossCounts:
        """What of a row a loss is taken of, without reading the rest of it.

        Raises:
            UserError: the row names a document that is not there.
        """
        with self._reading(index):
            tokens = [self._num_loss_tokens(number) for number in self.packs[index].tolist()]
        return LossCounts(sum(tokens), sum(count > 0 for count in tokens))

    def _num_loss_tokens(self, number: int) -> int:
        if self._weights is not None and not self._weights[number] > 0:
            return 0
        # the first token has no prefix, see ``data.rows``
        return int(np.count_nonzero(self.datasets[LOSS_MASK][number][1:] > 0))

    def document(self, number: int) -> dict[str, npt.NDArray[np.number]]:
        """A document's values in every dataset, ``[tokens]``, and the numbers of its groups.

        The loss mask is multiplied by the document's weight.
        """
        # copies: a dataset that is collected unmaps the file under the views that it returned
        values = {name: dataset[number].copy() for name, dataset in self.datasets.items()}
        if self._weights is not None:
            values[LOSS_MASK] = values[LOSS_MASK] * self._weights[number]
        size = len(values[TOKENS])
        for name in self.companions:
            values.setdefault(name, COMPANIONS[name].unknowns(size))
        for kind, numbers in self._numbers.items():
            own = 0 if self._groups is None else self._groups[number, GROUPS.index(kind)]
            values[kind] = np.full(size, numbers[own])
        return values

    def padding_row(self) -> Row:
        """A row without documents, which adds nothing to the loss."""
        return packed_row([], self.meta.seq_length, self.meta.pack_align, self._fields)

    @contextmanager
    def _reading(self, index: int) -> Iterator[None]:
        """Report a row whose documents have no place in the files, or not the row's lengths."""
        try:
            yield
        except (IndexError, ValueError) as error:
            raise UserError(f"{self._folder}: row {index}: {error}; {_AGAIN}") from None

    def _refuse(self, misfits: Iterator[str]) -> None:
        for misfit in misfits:
            raise UserError(f"{self._folder}: {misfit}; {_AGAIN}")

    def _misfits_of_files(self) -> Iterator[str]:
        """Files that are missing, cut short or of another kind."""
        for name, size in self.meta.file_bytes.items():
            path = self._folder / name
            if not path.is_file():
                yield f"{name} is missing"
            elif path.stat().st_size != size:
                yield f"{name} has {path.stat().st_size} bytes, {META} asks for {size}"
        for name, dtype in dtypes(self.meta).items():
            if not (self._folder / f"{name}.bin").stat().st_size:  # which cannot be mapped
                yield f"{name}.bin is empty"
            count = self.meta.num_documents
            head, index = index_head(dtype, count), self._folder / f"{name}.idx"
            with index.open("rb") as file:
                whole = index.stat().st_size == index_bytes(head, count)
                if file.read(len(head)) != head or not whole:
                    yield f"{name}.idx is not of {count} {dtype.__name__} documents"

    def _misfits_of_counts(self) -> Iterator[str]:
        """Packing that belongs to other documents or packs."""
        meta = self.meta
        borders = self.packs.offsets
        for name, values in ((PACK_DOCUMENTS, self.packs.documents), (PACK_OFFSETS, borders)):
            if values.dtype.kind != "i":
                yield f"{name} is of {values.dtype}, not of integers"
        for name, found in ((SEQUENCE_WEIGHTS, self._weights), (DOCUMENT_GROUPS, self._groups)):
            if found is not None and found.dtype.kind not in "iuf":
                yield f"{name} is of {found.dtype}, not of numbers"
        if self.packs.documents.shape != (meta.num_documents,):
            yield f"{PACK_DOCUMENTS} does not hold {meta.num_documents} documents"
        if self._weights is not None and self._weights.shape != (meta.num_documents,):
            yield f"{SEQUENCE_WEIGHTS} does not hold {meta.num_documents} weights"
        if self._groups is not None and self._groups.shape != (meta.num_documents, len(GROUPS)):
            yield f"{DOCUMENT_GROUPS} does not hold {meta.num_documents} documents' groups"
        if (
            borders.shape != (meta.num_packs + 1,)
            or borders[0] != 0
            or borders[-1] != meta.num_documents
        ):
            yield f"{PACK_OFFSETS} does not divide the documents into {meta.num_packs} packs"

    def _misfits_of_row(self, index: int) -> Iterator[str]:
        """What is wrong with a row's place in the packing, or with its documents' lengths."""
        start, end = self.packs.offsets[index : index + 2].tolist()
        if not 0 <= start < end <= self.meta.num_documents:
            yield f"{PACK_OFFSETS} does not ascend at row {index}"
        documents = self.packs.documents[start:end]
        if not 0 <= documents.min() <= documents.max() < self.meta.num_documents:
            yield f"{PACK_DOCUMENTS}: row {index} names a document that is not there"
        wanted = self.datasets[TOKENS].sequence_lengths[documents]
        for name in (LOSS_MASK, *self.meta.companions):
            if not np.array_equal(self.datasets[name].sequence_lengths[documents], wanted):
                yield f"{name} and {TOKENS} differ in the lengths of the documents of row {index}"
        if self._groups is not None:
            counts = [len(self.meta.groups.get(kind, [])) for kind in GROUPS]
            if (self._groups[documents] > counts).any():
                yield f"{DOCUMENT_GROUPS}: row {index} names a group that {META} does not"
