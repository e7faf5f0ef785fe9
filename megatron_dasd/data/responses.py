"""Responses in bulk: files cut into shards, and shards read as Arrow columns.

A record of 64K tokens is a few texts and several lists of 64K numbers; as Python objects those
lists would cost more than all that is done with them.  So only the columns that are needed are
read, and what is checked of them is checked as arrays.  Where anything may be wrong the rows are
checked one by one as ``records_io`` does, which finds the record, the field and the reason.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from itertools import batched, islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from megatron_dasd.errors import UserError
from megatron_dasd.records import FilteredResponse, Prompt, Provenance
from megatron_dasd.records_io import (
    OnMalformed,
    arrow_schema,
    parse_record,
    parse_rows,
    record_files,
)

SHARD_BYTES = 64 << 20
"""Uncompressed size at which a shard is full: some seconds of work."""
BATCH_RECORDS = 32
"""Some 50 MB of the longest responses; larger batches spend their time on fresh memory."""
FIELDS = (
    "prompt",
    "temperature",
    "candidate",
    "output",
    "output_spans",
    "text_spans",
    "tokens",
    "student_prefix",
    "student_prefix_ids",
    "finish_reason",
    "sentences",
)
"""All that a training example is made of."""
IDENTITY = ("prompt", "temperature", "candidate")
_OPTIONAL = ("sentences",)
_LINES_BLOCK = 16 << 20


@dataclass(frozen=True, kw_only=True)
class ClassedSentence:
    """What training sees of a :class:`Sentence`."""

    text: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class TrainingResponse(FilteredResponse):
    """A response that passed the filters, and its sentences where it was selected by them."""

    sentences: list[ClassedSentence] | None = None


@dataclass(frozen=True)
class Piece:
    """Some of a file's records: a row group of a Parquet file, or a range of bytes of lines."""

    file: Path
    start: int
    """Row group, or first byte."""
    end: int
    """Row group after the last, or byte after the last."""
    first_record: int
    """Number of its first record (or line) in the file, from 1."""
    num_bytes: int


Shard = tuple[Piece, ...]


def plan_shards(path: Path, shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """Cut the records of a file or folder into shards, by what is in the files alone.

    Raises:
        UserError: nothing to read there, or a file cannot be read.
    """
    shards: list[Shard] = []
    waiting: list[Piece] = []
    for file in record_files(path):
        for piece in _parquet_pieces(file) if file.suffix == ".parquet" else _line_pieces(file):
            waiting.append(piece)
            if sum(p.num_bytes for p in waiting) >= shard_bytes:
                shards.append(tuple(waiting))
                waiting = []
    return [*shards, tuple(waiting)] if waiting else shards


@dataclass(frozen=True)
class Batch:
    """Some well-formed responses of one file."""

    file: Path
    numbers: Sequence[int]
    """[records] place in the file, from 1, malformed records counted."""
    columns: pa.RecordBatch
    """[records] the fields asked for."""
    prompts: Sequence[Prompt]

    def texts(self, field: str) -> list[str]:
        """The values of a text field."""
        return self.columns.column(field).to_pylist()  # type: ignore[no-any-return]

    def value(self, field: str, row: int) -> Any:
        """The value of a field of one response."""
        return self.columns.column(field)[row].as_py()

    def numbers_of(self, field: str, inner: str | None = None) -> "Lists":
        """The values of a field of number lists, or of the lists in a field of structs."""
        column = self.columns.column(field)
        return Lists.of(column.field(inner) if inner else column)


@dataclass(frozen=True)
class Lists:
    """A list of numbers a record, laid end to end."""

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, column: pa.ListArray) -> "Lists":
        """The lists of an Arrow column, as views of its buffers."""
        values = column.values.to_numpy(zero_copy_only=False)
        return cls(values, np.asarray(column.offsets, dtype=np.int64))

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


def read_shard(shard: Shard, fields: Sequence[str], on_malformed: OnMalformed) -> Iterator[Batch]:
    """Yield the well-formed responses of a shard, some at a time.

    Args:
        fields: fields of ``TrainingResponse``.
        on_malformed: see ``records_io``.

    Raises:
        UserError: a file cannot be read, or (as ``on_malformed`` says) a record is malformed.
    """
    for piece in shard:
        if piece.file.suffix == ".parquet":
            yield from _read_row_groups(piece, fields, on_malformed)
        else:
            numbered = enumerate(_lines(piece), start=piece.first_record)
            lines = ((number, line) for number, line in numbered if line.strip())
            for some in batched(lines, BATCH_RECORDS):
                yield _one_by_one(piece.file, some, fields, on_malformed)


def _parquet_pieces(file: Path) -> Iterator[Piece]:
    try:
        metadata = pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable Parquet file ({error})") from None
    first = 1
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        yield Piece(file, index, index + 1, first, group.total_byte_size)
        first += group.num_rows


def _line_pieces(file: Path) -> Iterator[Piece]:
    """Ranges of whole lines, each of a shard's size or the rest."""
    start = end = 0
    first = number = 1
    with file.open("rb") as lines:
        while block := lines.read(_LINES_BLOCK):
            number += block.count(b"\n")
            whole = block.rfind(b"\n") + 1
            if whole and end + whole - start >= SHARD_BYTES:
                yield Piece(file, start, end + whole, first, end + whole - start)
                start, first = end + whole, number
            end += len(block)
    if end > start:
        yield Piece(file, start, end, first, end - start)


def _lines(piece: Piece) -> Iterator[str]:
    with piece.file.open("rb") as file:
        file.seek(piece.start)
        while file.tell() < piece.end:
            try:
                yield file.readline().decode().rstrip("\n")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{piece.file}: not UTF-8 text ({error.reason} at byte {error.start})"
                ) from None


def _read_row_groups(
    piece: Piece, fields: Sequence[str], on_malformed: OnMalformed
) -> Iterator[Batch]:
    """Read the wanted columns; from a batch that does not pass on, all columns, row by row."""
    num_passed = 0
    try:
        with pq.ParquetFile(piece.file, memory_map=True, pre_buffer=False) as file:
            wanted = _columns_of(file, fields)
            for numbers, columns in _numbered_batches(file, piece, wanted):
                try:
                    batch = _at_once(piece.file, numbers, columns, fields)
                except _DoubtError:
                    break
                num_passed += 1
                yield batch
            else:
                return
            # what is wrong may lie in any column
            rest = _numbered_batches(file, piece, None)
            for numbers, columns in islice(rest, num_passed, None):
                rows = zip(numbers, columns.to_pylist(), strict=True)
                yield _one_by_one(piece.file, rows, fields, on_malformed)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{piece.file}: not a readable Parquet file ({error})") from None


def _columns_of(file: pq.ParquetFile, fields: Sequence[str]) -> list[str]:
    """The Parquet columns that hold some fields, of sentences those alone that training sees."""
    of_sentence = {field.name for field in dataclass_fields(ClassedSentence)}
    paths = (file.schema.column(i).path for i in range(len(file.schema)))
    return [
        path
        for path in paths
        if (names := path.split("."))[0] in fields
        and (names[0] != "sentences" or names[-1] in of_sentence)
    ]


def _numbered_batches(
    file: pq.ParquetFile, piece: Piece, columns: list[str] | None
) -> Iterator[tuple[range, pa.RecordBatch]]:
    number = piece.first_record
    groups = range(piece.start, piece.end)
    for batch in file.iter_batches(
        BATCH_RECORDS, row_groups=groups, columns=columns, use_threads=False
    ):
        yield range(number, number + batch.num_rows), batch
        number += batch.num_rows


class _DoubtError(Exception):
    """Something in a batch may be malformed; which record it is, and why, is not known."""


def _one_by_one(
    file: Path, rows: Iterable[tuple[int, Any]], fields: Sequence[str], on_malformed: OnMalformed
) -> Batch:
    """Check rows as ``read_records`` does, and make a batch of the well-formed ones."""
    parsed = list(parse_rows(file, rows, TrainingResponse, on_malformed))
    records = [{key: asdict(record)[key] for key in fields} for _, record in parsed]
    columns = pa.RecordBatch.from_pylist(records, schema=_schema(fields))
    return Batch(file, [n for n, _ in parsed], columns, [record.prompt for _, record in parsed])


def _at_once(file: Path, numbers: range, columns: pa.RecordBatch, fields: Sequence[str]) -> Batch:
    """Check a batch's columns as arrays, its prompts alone as records.

    Raises:
        _DoubtError: something does not pass.
    """
    found = {}
    for field in _schema(fields):
        if field.name not in columns.schema.names:
            if field.name not in _OPTIONAL:
                raise _DoubtError
            found[field.name] = pa.nulls(len(columns), field.type)
            continue
        column = columns.column(field.name)
        try:
            found[field.name] = column if column.type == field.type else column.cast(field.type)
        except pa.ArrowException:
            raise _DoubtError from None
        if field.name != "prompt" and _lacks(column, field.name in _OPTIONAL):
            raise _DoubtError
    if not _fit(found):
        raise _DoubtError
    try:
        prompts = [parse_record(Prompt, row) for row in found["prompt"].to_pylist()]
    except ValueError:
        raise _DoubtError from None
    table = pa.RecordBatch.from_arrays(list(found.values()), names=list(found))
    return Batch(file, numbers, table, prompts)


def _schema(fields: Sequence[str]) -> pa.Schema:
    schema = arrow_schema(TrainingResponse)
    return pa.schema([schema.field(name) for name in fields])


def _lacks(column: pa.Array, optional: bool = False) -> bool:
    """Whether any value is missing, at any depth but the uppermost where that is optional."""
    if column.null_count and not optional:
        return True
    if pa.types.is_struct(column.type):
        inner = [f.name for f in column.type if f.name not in _OPTIONAL]
        return any(_lacks(column.field(name)) for name in inner)
    return pa.types.is_list(column.type) and _lacks(column.flatten())


def _fit(columns: Mapping[str, pa.Array]) -> bool:
    """Whether the fields fit each other as the records' own checks ask for."""
    if "tokens" in columns:
        sizes = [pc.list_value_length(x) for x in columns["tokens"].flatten()]
        if not all(size.equals(sizes[0]) for size in sizes):
            return False
    if "student_prefix" in columns:
        texts = pc.greater(pc.binary_length(columns["student_prefix"]), 0)
        if not texts.equals(pc.greater(pc.list_value_length(columns["student_prefix_ids"]), 0)):
            return False
    if "sentences" in columns:
        classes = pc.unique(columns["sentences"].flatten().field("provenance")).to_pylist()
        return set(classes) <= set(get_args(Provenance))
    return True
