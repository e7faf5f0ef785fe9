"""Responses in bulk: shards read as Arrow columns.

Only the columns that training needs are read, and they are checked as arrays (see
``record_batches``): a record of 64K tokens has several lists of 64K numbers, and as Python objects
those would cost more than all later work on them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from itertools import batched, islice
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from megatron_dasd.arrays import Ints
from megatron_dasd.arrow_rows import plain_rows
from megatron_dasd.data.pieces import InputShard, Piece, piece_rows
from megatron_dasd.record_batches import (
    DoubtError,
    cast_columns,
    check_complete,
    check_token_lists,
    parse_batch,
)
from megatron_dasd.records import FilteredResponse, Prompt, Provenance, Span, ToolCall
from megatron_dasd.records_io import (
    OnMalformed,
    arrow_schema,
    open_parquet,
    parquet_errors,
    parse_record,
)

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
    "tool_calls",
    "sentences",
)
"""The fields that a training example is made from."""
IDENTITY = ("prompt", "temperature", "candidate")
"""The fields that identify a response; see ``Response.key``."""
_OPTIONAL = ("sentences",)


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
class NumberLists[D: np.generic]:
    """A list of numbers for each record, laid end to end."""

    values: npt.NDArray[D]
    offsets: Ints

    @classmethod
    def from_arrow(cls, column: pa.ListArray, dtype: type[D]) -> "NumberLists[D]":
        """The lists of an Arrow column, as views of its buffers where those have the type."""
        values = column.values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
        return cls(values, np.asarray(column.offsets, dtype=np.int64))

    def __getitem__(self, row: int) -> npt.NDArray[D]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True)
class ResponseBatch:
    """Some well-formed responses of one file."""

    file: Path
    numbers: Sequence[int]
    """[records] place in the file, from 1, malformed records counted."""
    columns: pa.RecordBatch
    """[records] the fields that were asked for."""
    prompts: Sequence[Prompt]

    def texts(self, field: str) -> list[str]:
        """[records] the values of a text field."""
        return self.columns.column(field).to_pylist()  # type: ignore[no-any-return]

    def spans(self, row: int) -> list[Span]:
        """Where thinking part and answer lie in a response's output."""
        return [Span(**span) for span in self.columns.column("output_spans")[row].as_py()]

    def tool_calls(self, row: int) -> list[ToolCall]:
        """The tools that a response calls."""
        return [ToolCall(**call) for call in self.columns.column("tool_calls")[row].as_py()]

    def number_lists[D: np.generic](
        self, field: str, dtype: type[D], inner: str | None = None
    ) -> NumberLists[D]:
        """The lists of a field, or of its inner field where it is a struct."""
        column = self.columns.column(field)
        return NumberLists.from_arrow(column.field(inner) if inner else column, dtype)

    def temperature(self, row: int) -> float:
        """The temperature that sampled a response."""
        return float(self.columns.column("temperature")[row].as_py())

    def candidate(self, row: int) -> int:
        """A response's number among those of its prompt and temperature."""
        return int(self.columns.column("candidate")[row].as_py())

    def is_continuation(self, row: int) -> bool:
        """Whether the response continues a student's prefix."""
        return bool(self.columns.column("student_prefix")[row].as_py())


def read_shard(
    shard: InputShard, fields: Sequence[str], on_malformed: OnMalformed
) -> Iterator[ResponseBatch]:
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
            for some in batched(piece_rows(piece), BATCH_RECORDS):
                yield _one_by_one(piece.file, some, fields, on_malformed)


def _read_row_groups(
    piece: Piece, fields: Sequence[str], on_malformed: OnMalformed
) -> Iterator[ResponseBatch]:
    """Read the columns of ``fields``; after the first doubtful batch all columns, row by row."""
    num_passed = 0
    with (
        parquet_errors(piece.file),
        open_parquet(piece.file, memory_map=True, pre_buffer=False) as file,
    ):
        for numbers, columns in _numbered_batches(file, piece, _columns_of(file, fields)):
            try:
                batch = _at_once(piece.file, numbers, columns, fields)
            except DoubtError:
                break
            num_passed += 1
            yield batch
        else:
            return
        # the fault may lie in any column, so the rest is read with all of them
        rest = _numbered_batches(file, piece, None)
        for numbers, columns in islice(rest, num_passed, None):
            rows = zip(numbers, plain_rows(columns, piece.file, numbers.start), strict=True)
            yield _one_by_one(piece.file, rows, fields, on_malformed)


def _columns_of(file: pq.ParquetFile, fields: Sequence[str]) -> list[str]:
    """The Parquet columns of some fields; of sentences only what training sees."""
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


def _one_by_one(
    file: Path,
    rows: Iterable[tuple[int, object]],
    fields: Sequence[str],
    on_malformed: OnMalformed,
) -> ResponseBatch:
    numbers, records, columns = parse_batch(file, rows, TrainingResponse, on_malformed)
    prompts = [record.prompt for record in records]
    return ResponseBatch(file, numbers, columns.select(list(fields)), prompts)


def _at_once(
    file: Path, numbers: range, columns: pa.RecordBatch, fields: Sequence[str]
) -> ResponseBatch:
    """Check a batch's columns as arrays, its prompts alone as records.

    Raises:
        DoubtError: something does not pass.
    """
    schema = arrow_schema(TrainingResponse)
    table = cast_columns(columns, pa.schema([schema.field(name) for name in fields]), _OPTIONAL)
    for name in fields:
        if name != "prompt":
            _check_column(name, table)
    try:
        prompts = [parse_record(Prompt, row) for row in table.column("prompt").to_pylist()]
    except ValueError:
        raise DoubtError from None
    return ResponseBatch(file, numbers, table, prompts)


def _check_column(name: str, table: pa.RecordBatch) -> None:
    """Check one field of all records as the records' own checks do.

    Raises:
        DoubtError: a value is null, or does not fit the others.
    """
    column = table.column(name)
    if name == "tokens":
        check_token_lists(column)
    elif name == "sentences":  # null where a response was not selected by its sentences
        sentences = column.flatten()
        check_complete(sentences)
        if not set(pc.unique(sentences.field("provenance")).to_pylist()) <= _PROVENANCES:
            raise DoubtError
    else:
        check_complete(column)
    if name == "student_prefix_ids":
        has_text = pc.greater(pc.binary_length(table.column("student_prefix")), 0)
        if not has_text.equals(pc.greater(pc.list_value_length(column), 0)):
            raise DoubtError


_PROVENANCES = frozenset(get_args(Provenance))
