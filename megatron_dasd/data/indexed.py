"""Writes documents as aligned datasets in Megatron's indexed format, first in shards, then joined.

Stock ``IndexedDataset`` opens all of them: sequence i is document i, ``loss_mask[i][k] == 1`` means
that token k of the document is a target, predicted at position k - 1, and a companion has its
value of token k at the same place.

A shard is a folder of raw values, one file a dataset, and ``sizes.npy``.  Shards are concatenated
in their order, so the result does not depend on which process wrote them.
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from megatron_dasd.data.meta import (
    COMPANIONS,
    LOSS_MASK,
    META,
    PACK_DOCUMENTS,
    PACK_OFFSETS,
    TOKENS,
    DataMeta,
    token_dtype,
)
from megatron_dasd.data.packing import aligned, best_fit_decreasing
from megatron_dasd.errors import UserError

_SIZES = "sizes.npy"
_INDEX_HEADER = b"MMIDIDX\x00\x00" + (1).to_bytes(8, "little")
_INDEX_CODES = {np.uint8: 1, np.int32: 4, np.float32: 7, np.uint16: 8}
_COPY_BYTES = 1 << 28


@dataclass(frozen=True)
class DataFormat:
    """What the documents of one data set have in common."""

    seq_length: int
    """Tokens of a row."""
    pack_align: int
    """In a row every document is padded to a multiple of this many positions."""
    vocab_size: int
    """Token ids must be below it."""
    eod_id: int
    """The token that ends an assistant turn."""
    companions: Sequence[str] = ()

    def dtypes(self) -> dict[str, type[np.number]]:
        """Types of the values of all datasets."""
        companions = {name: COMPANIONS[name].dtype for name in self.companions}
        return {TOKENS: token_dtype(self.vocab_size), LOSS_MASK: np.uint8, **companions}


class ShardWriter:
    """Writes documents one by one; keeps only their sizes in memory."""

    def __init__(self, folder: Path, data_format: DataFormat) -> None:
        """Start a shard in an empty folder."""
        self._folder, self._format = folder, data_format
        self._dtypes = data_format.dtypes()
        self._files: dict[str, BinaryIO] = {
            name: (folder / f"{name}.bin").open("wb") for name in self._dtypes
        }
        self._sizes: list[list[int]] = []

    def add(self, name: str, document: Mapping[str, npt.ArrayLike]) -> None:
        """Append a document.

        Args:
            name: the document's name in error messages.
            document: values by dataset, ``[tokens]``, at most a row's length; companions that are
                left out are unknown.  The loss mask is 1 for targets; the first token is none,
                since nothing precedes it.

        Raises:
            UserError: a token id outside the vocabulary.
            ValueError: mask, companions and tokens do not fit each other or the row.
        """
        given = {key: np.asarray(document[key]) for key in self._dtypes if key in document}
        for key in self._format.companions:
            given.setdefault(key, COMPANIONS[key].unknowns(given[TOKENS].size))
        tokens, mask = given[TOKENS], given[LOSS_MASK]
        lengths = {values.size for values in given.values()}
        if len(lengths) != 1 or not 0 < tokens.size <= self._format.seq_length or mask[0]:
            raise ValueError(f"{name}: {tokens.size} tokens, mask of {mask.size}")
        smallest, largest = int(tokens.min()), int(tokens.max())
        if not 0 <= smallest <= largest < self._format.vocab_size:
            raise UserError(
                f"{name}: token id {largest if smallest >= 0 else smallest} is outside the model's "
                f"vocabulary of {self._format.vocab_size}; tokenizer and model do not belong "
                "together"
            )
        for key, values in given.items():
            np.ascontiguousarray(values, self._dtypes[key]).tofile(self._files[key])
        known = (_num_known(key, given[key]) for key in self._format.companions)
        self._sizes.append([tokens.size, int(np.count_nonzero(mask)), *known])

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        columns = 2 + len(self._format.companions)
        np.save(self._folder / _SIZES, np.array(self._sizes, np.int32).reshape(-1, columns))


def _num_known(companion: str, values: npt.NDArray[np.generic]) -> int:
    unknown = COMPANIONS[companion].unknown
    equal = np.isnan(values) if np.isnan(unknown) else values == unknown
    return int(values.size - np.count_nonzero(equal))


def write_data(
    folder: Path,
    shards: Sequence[Path],
    data_format: DataFormat,
    groups: Mapping[str, list[str]] | None = None,
) -> DataMeta:
    """Concatenate shards into indexed datasets, pack their documents, and write the metadata.

    A companion of which no token's value is known is left out.

    Args:
        folder: an empty folder; or the only shard, whose files then stay where they are.
        groups: names of the documents' groups, see ``data.groups``.

    Raises:
        UserError: a shard is damaged, or there is no document.
    """
    sizes = _read_sizes(shards, data_format)
    if not len(sizes):
        raise UserError(f"{folder.parent}: no documents to write")
    lengths = sizes[:, 0]
    known = dict(zip(data_format.companions, sizes[:, 2:].any(axis=0).tolist(), strict=True))
    kept = {key: t for key, t in data_format.dtypes().items() if known.get(key, True)}
    for name, dtype in kept.items():
        write_index(folder / f"{name}.idx", dtype, lengths)
    if list(shards) != [folder]:
        _concatenate(shards, folder, [f"{name}.bin" for name in kept])
    if list(shards) == [folder]:
        (folder / _SIZES).unlink()
        for name in known.keys() - kept.keys():
            (folder / f"{name}.bin").unlink()
    slots = aligned(lengths.astype(np.int64), data_format.pack_align)
    packs = best_fit_decreasing(slots, data_format.seq_length)
    np.save(folder / PACK_DOCUMENTS, packs.documents)
    np.save(folder / PACK_OFFSETS, packs.offsets)
    num_tokens = int(lengths.sum(dtype=np.int64))
    meta = DataMeta(
        seq_length=data_format.seq_length,
        pack_align=data_format.pack_align,
        num_documents=lengths.size,
        num_tokens=num_tokens,
        num_loss_tokens=int(sizes[:, 1].sum(dtype=np.int64)),
        num_packs=len(packs),
        fill=num_tokens / (len(packs) * data_format.seq_length),
        vocab_size=data_format.vocab_size,
        eod_id=data_format.eod_id,
        companions=[name for name in data_format.companions if name in kept],
        file_bytes={p.name: p.stat().st_size for p in sorted(folder.iterdir())},
        groups=dict(groups or {}),
    )
    (folder / META).write_text(json.dumps(asdict(meta), indent=2))
    with ThreadPoolExecutor() as threads:
        list(threads.map(_flush, folder.iterdir()))
    return meta


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_index(
    path: Path, dtype: type[np.number], lengths: npt.NDArray[np.integer], num_chunk: int = 1 << 20
) -> None:
    """Write the ``.idx`` of an indexed dataset in which every document is one sequence.

    The format is Megatron's: header, version, type, two counts, then lengths int32, byte offsets
    int64 and document borders int64.  Megatron's writer would hold them all in Python lists.

    Args:
        path: the ``.idx`` file.
        dtype: of the values in the ``.bin`` file.
        lengths: [documents] values of each.
        num_chunk: numbers written at a time, which bounds the memory.
    """
    count = len(lengths)
    with path.open("wb") as file:
        file.write(index_head(dtype, count))
        for start in range(0, count, num_chunk):
            np.asarray(lengths[start : start + num_chunk], np.int32).tofile(file)
        offset = 0
        for start in range(0, count, num_chunk):
            sizes = np.asarray(lengths[start : start + num_chunk], np.int64) * dtype().itemsize
            ends = offset + np.cumsum(sizes)
            (ends - sizes).tofile(file)
            offset = int(ends[-1])
        for start in range(0, count + 1, num_chunk):
            np.arange(start, min(start + num_chunk, count + 1), dtype=np.int64).tofile(file)


def index_head(dtype: type[np.number], num_documents: int) -> bytes:
    """The first bytes of the ``.idx`` of some documents with values of a type."""
    counts = num_documents.to_bytes(8, "little") + (num_documents + 1).to_bytes(8, "little")
    return _INDEX_HEADER + _INDEX_CODES[dtype].to_bytes(1, "little") + counts


def index_bytes(head: bytes, num_documents: int) -> int:
    """Size of the ``.idx`` of some documents: its head, then lengths, offsets and borders."""
    return len(head) + (4 + 8 + 8) * num_documents + 8


def _read_sizes(shards: Sequence[Path], data_format: DataFormat) -> npt.NDArray[np.int32]:
    """[documents, 2 + companions] tokens, loss tokens and known values of every document.

    Raises:
        UserError: a shard's files do not have the sizes that its documents ask for.
    """
    found = []
    columns = 2 + len(data_format.companions)
    for shard in shards:
        try:
            sizes = np.load(shard / _SIZES, allow_pickle=False)
            if sizes.dtype != np.int32 or sizes.shape[1:] != (columns,):
                raise ValueError(f"{_SIZES} is of another shape")
            actual = {
                n: (shard / f"{n}.bin").stat().st_size // t().itemsize
                for n, t in data_format.dtypes().items()
            }
        except Exception as error:  # of a damaged file numpy raises any kind
            raise UserError(f"{shard}: damaged ({error}); delete the stage's folder") from None
        if set(actual.values()) != {int(sizes[:, 0].sum(dtype=np.int64))}:
            raise UserError(f"{shard}: damaged (files cut short); delete the stage's folder")
        found.append(sizes)
    return np.concatenate([np.empty((0, columns), np.int32), *found])


def _concatenate(sources: Sequence[Path], target: Path, names: Sequence[str]) -> None:
    """Concatenate the files of each name over all folders, several names at a time."""

    def lay(name: str) -> None:
        with (target / name).open("wb") as out:
            for source in sources:
                with (source / name).open("rb") as file:
                    while os.sendfile(out.fileno(), file.fileno(), None, _COPY_BYTES):
                        pass

    with ThreadPoolExecutor() as threads:
        list(threads.map(lay, names))
