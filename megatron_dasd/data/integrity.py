"""Checks of packed data that opening it leaves out: they read every byte."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_dasd.arrays import Bools, Ints
from megatron_dasd.data.meta import (
    CLASS_NAMES,
    LOSS_MASK,
    META,
    PACK_DOCUMENTS,
    PACK_OFFSETS,
    SENTENCE_CLASSES,
    TEACHER_LOGPROBS,
    TOKENS,
    WRITER_NAMES,
    WRITERS,
    DataMeta,
    Document,
    dtypes,
)
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.data.packing import aligned
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import file_sha256, part_files, read_manifest
from megatron_dasd.records_io import read_records

_CHUNK_VALUES = 1 << 22
_CHUNK_DOCUMENTS = 1 << 16
MAX_FAULTS_OF_A_KIND = 5


def faults(path: Path) -> Iterator[str]:
    """Yield what is wrong with a preprocessing stage's folder, or its ``data``, one line a fault.

    Reads every byte once or twice; takes a few megabytes of memory and a byte for every document.
    """
    yield from _faults_of_files(path)
    try:
        data = PackedDataset(path)
    except UserError as error:
        yield str(error)
        return
    shape_faults = [*_faults_of_lengths(data)]
    yield from shape_faults
    yield from _faults_of_packs(data)
    if not shape_faults:  # places of values follow from the lengths
        for name in dtypes(data.meta):
            yield from _few(_faults_of_values(data, name))
        yield from _few(_faults_of_records(path, data))


def _few(found: Iterator[str]) -> Iterator[str]:
    for count, fault in enumerate(found, start=1):
        if count > MAX_FAULTS_OF_A_KIND:
            yield "... and more of this kind"
            return
        yield fault


def _faults_of_files(path: Path) -> Iterator[str]:
    """Files that differ from the stage's manifest."""
    manifest = read_manifest(path)
    for name, facts in (manifest.files if manifest else {}).items():
        file = path / name
        if not file.is_file():
            yield f"{file}: is missing"
        elif file.stat().st_size != facts["bytes"]:
            yield f"{file}: has {file.stat().st_size} bytes, the manifest names {facts['bytes']}"
        elif file_sha256(file) != facts["sha256"]:
            yield f"{file}: has another SHA-256 than the manifest names"


def _faults_of_lengths(data: PackedDataset) -> Iterator[str]:
    """Lengths and places of documents that contradict each other, the file or the meta data."""
    tokens = data.datasets[TOKENS]
    for name, dataset in data.datasets.items():
        itemsize = dataset.index.dtype_size
        end = 0
        for start in range(0, len(dataset), _CHUNK_DOCUMENTS):
            here = slice(start, start + _CHUNK_DOCUMENTS)
            lengths = dataset.sequence_lengths[here].astype(np.int64)
            if not np.array_equal(lengths, tokens.sequence_lengths[here]):
                yield f"{name}.idx: documents differ in length from {TOKENS}.idx"
                return
            places = end + np.cumsum(lengths * itemsize) - lengths * itemsize
            wrong = (dataset.index.sequence_pointers[here] != places) | (lengths < 1)
            if wrong.any():
                yield f"{name}.idx: document {start + int(wrong.argmax())} has no place of its own"
                return
            end = int(places[-1] + lengths[-1] * itemsize)
        size = Path(f"{dataset.path_prefix}.bin").stat().st_size
        if size != end:
            yield f"{name}.bin: has {size} bytes, its documents {end}"
    total = sum(
        int(tokens.sequence_lengths[start : start + _CHUNK_DOCUMENTS].sum(dtype=np.int64))
        for start in range(0, len(tokens), _CHUNK_DOCUMENTS)
    )
    if total != data.meta.num_tokens:
        yield f"{META}: names {data.meta.num_tokens} tokens, {TOKENS}.idx {total}"


def _faults_of_packs(data: PackedDataset) -> Iterator[str]:
    """Documents that do not lie in exactly one row, and rows that are too long."""
    meta, packs = data.meta, data.packs
    seen = np.zeros(meta.num_documents, dtype=np.bool_)
    for start in range(0, meta.num_documents, _CHUNK_DOCUMENTS):
        documents = packs.documents[start : start + _CHUNK_DOCUMENTS]
        inside = documents[(documents >= 0) & (documents < meta.num_documents)]
        if inside.size != documents.size:
            yield f"{PACK_DOCUMENTS}: names a document that is not there"
            return
        seen[inside] = True
    if not seen.all():
        yield f"{PACK_DOCUMENTS}: document {int(seen.argmin())} lies in no row"
    for start in range(0, meta.num_packs, _CHUNK_DOCUMENTS):
        borders = packs.offsets[start : start + _CHUNK_DOCUMENTS + 1]
        if (np.diff(borders) < 1).any():
            yield f"{PACK_OFFSETS}: does not ascend"
            return
        lengths = data.datasets[TOKENS].sequence_lengths[packs.documents[borders[0] : borders[-1]]]
        slots = aligned(lengths.astype(np.int64), meta.pack_align)
        sizes = np.add.reduceat(slots, borders[:-1] - borders[0])
        if sizes.max() > meta.seq_length:
            row = start + int(sizes.argmax())
            yield f"{PACK_OFFSETS}: row {row} takes {sizes.max()} of {meta.seq_length} positions"
    fill = meta.num_tokens / (meta.num_packs * meta.seq_length)
    if abs(fill - meta.fill) > 1e-9:
        yield f"{META}: names a fill of {meta.fill}, it is {fill}"


def _faults_of_values(data: PackedDataset, name: str) -> Iterator[str]:
    """Values that a dataset cannot hold."""
    dataset = data.datasets[name]
    num_targets = 0
    for first, last in _chunks(dataset):
        start = int(dataset.index.sequence_pointers[first])
        lengths = dataset.sequence_lengths[first:last]
        values = dataset.bin_reader.read(
            dtype=dataset.index.dtype, count=int(lengths.sum(dtype=np.int64)), offset=start
        )
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        wrong = _wrong_values(name, values, starts, data.meta)
        num_targets += int(np.count_nonzero(values)) if name == LOSS_MASK else 0
        for place in np.flatnonzero(wrong)[: MAX_FAULTS_OF_A_KIND + 1].tolist():
            document = int(np.searchsorted(starts, place, side="right")) - 1
            token = place - int(starts[document])
            yield f"{name}.bin: document {first + document}, token {token}: {values[place]}"
    if name == LOSS_MASK and num_targets != data.meta.num_loss_tokens:
        yield f"{META}: names {data.meta.num_loss_tokens} targets, {LOSS_MASK}.bin {num_targets}"


def _wrong_values(name: str, values: npt.NDArray[np.number], starts: Ints, meta: DataMeta) -> Bools:
    if name == TOKENS:
        return (values < 0) | (values >= meta.vocab_size)
    if name == LOSS_MASK:
        wrong = values > 1
        wrong[starts] |= values[starts] != 0  # nothing precedes a document's first token
        return wrong
    if name == TEACHER_LOGPROBS:
        wrong = (values > 1e-6) | (values == -np.inf)  # NaN: unknown
        return np.asarray(wrong, np.bool_)
    if name == WRITERS:
        return (values < 1) | (values > len(WRITER_NAMES))
    assert name == SENTENCE_CLASSES
    return values > len(CLASS_NAMES)


def _chunks(dataset: IndexedDataset) -> Iterator[tuple[int, int]]:
    """Ranges of documents of some million values each."""
    pointers, itemsize = dataset.index.sequence_pointers, dataset.index.dtype_size
    first = 0
    while first < len(dataset):
        limit = int(pointers[first]) + _CHUNK_VALUES * itemsize
        last = max(first + 1, int(np.searchsorted(pointers, limit)))
        yield first, last
        first = last


def _faults_of_records(path: Path, data: PackedDataset) -> Iterator[str]:
    """Document records that are not those of the datasets."""
    if not part_files(path):
        return
    number = -1
    lengths = data.datasets[TOKENS].sequence_lengths
    for number, document in enumerate(read_records(path, Document)):
        if number >= data.meta.num_documents:
            break
        if document.num_tokens != lengths[number]:
            yield f"document {number} ({document.name}): {document.num_tokens} tokens in its record"
        targets = int(np.count_nonzero(data.datasets[LOSS_MASK][number]))
        if document.num_loss_tokens != targets:
            yield (
                f"document {number} ({document.name}): {document.num_loss_tokens} targets in its "
                f"record, {targets} in {LOSS_MASK}.bin"
            )
    if number + 1 != data.meta.num_documents:
        yield f"{path}: the records are not of {data.meta.num_documents} documents"
