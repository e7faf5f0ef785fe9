"""Records many at a time: their token lists stay in Arrow's buffers, where NumPy reads them.

A response of 64K tokens is a few texts and numbers, and three lists of 64K values for each model.
Turning those lists into Python objects would cost more than all later work on them.  So they are
checked and used as arrays, and a record is made with each of its token lists reduced to one entry,
which the record's own checks accept or refuse as they would the list.

A check of arrays says only that a batch may hold a malformed record (:class:`DoubtError`).  The
rows of that batch are then parsed one by one, which finds the record, the field and the reason.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import batched
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from megatron_dasd.arrays import Floats, Ints
from megatron_dasd.arrow_rows import plain_rows
from megatron_dasd.records import TokenLogprobs
from megatron_dasd.records_io import (
    OnMalformed,
    arrow_schema,
    numbered_rows,
    open_parquet,
    parquet_errors,
    parse_record,
    parse_rows,
    stop_on_malformed,
    to_table,
)

BATCH_RECORDS = 32
"""Some 100 MB of the longest responses under two models."""


@dataclass(frozen=True)
class RecordBatch[T]:
    """Some well-formed records of a file, in order."""

    numbers: list[int]
    """[records] place in the file, from 1, malformed records counted."""
    records: list[T]
    """[records] complete but for their token lists, each reduced to one token that has all its
    bytes.  :meth:`tokens` gives the lists themselves."""
    table: pa.RecordBatch
    """[records] all fields."""

    def tokens(self, field: str, row: int) -> tuple[Ints, Floats]:
        """(``num_bytes`` [tokens], ``logprobs`` [tokens]) of a record's token list."""
        lists = self.table.column(field)
        num_bytes, logprobs = lists.field("num_bytes"), lists.field("logprobs")
        start, end = num_bytes.offsets[row].as_py(), num_bytes.offsets[row + 1].as_py()
        return num_bytes.values.to_numpy()[start:end], logprobs.values.to_numpy()[start:end]


class DoubtError(Exception):
    """A batch may hold a malformed record, or has another schema."""


def read_batches[T](
    file: Path, record_type: type[T], on_malformed: OnMalformed = stop_on_malformed
) -> Iterator[RecordBatch[T]]:
    """Yield the records of a file, some at a time; the same records pass as in ``read_records``.

    Raises:
        UserError: the file cannot be read, or (by default) a record is malformed.
    """
    if file.suffix == ".parquet":
        yield from parquet_batches(file, record_type, on_malformed)
    else:
        yield from row_batches(file, numbered_rows(file), record_type, on_malformed)


def row_batches[T](
    file: Path,
    rows: Iterable[tuple[int, object]],
    record_type: type[T],
    on_malformed: OnMalformed = stop_on_malformed,
) -> Iterator[RecordBatch[T]]:
    """Yield the records of some numbered rows of a file; raises as :func:`read_batches`."""
    for some in batched(rows, BATCH_RECORDS):
        yield _one_by_one(file, some, record_type, on_malformed)


def parquet_batches[T](
    file: Path,
    record_type: type[T],
    on_malformed: OnMalformed = stop_on_malformed,
    row_groups: range | None = None,
    first: int = 1,
) -> Iterator[RecordBatch[T]]:
    """Yield the records of a Parquet file; raises as :func:`read_batches`.

    Args:
        row_groups: the row groups to read; None: all.
        first: number of their first record in the file, from 1.
    """
    number = first
    for batch in _arrow_batches(file, row_groups):
        numbers = range(number, number + batch.num_rows)
        number += batch.num_rows
        try:
            yield _at_once(list(numbers), batch, record_type)
        except DoubtError:
            rows = zip(numbers, plain_rows(batch, file, numbers.start), strict=True)
            yield _one_by_one(file, rows, record_type, on_malformed)


def _arrow_batches(file: Path, row_groups: range | None) -> Iterator[pa.RecordBatch]:
    groups = None if row_groups is None else list(row_groups)
    with parquet_errors(file):
        yield from open_parquet(file).iter_batches(batch_size=BATCH_RECORDS, row_groups=groups)


def _one_by_one[T](
    file: Path,
    rows: Iterable[tuple[int, object]],
    record_type: type[T],
    on_malformed: OnMalformed,
) -> RecordBatch[T]:
    numbers, _, batch = parse_batch(file, rows, record_type, on_malformed)
    return _at_once(numbers, batch, record_type)


def parse_batch[T](
    file: Path,
    rows: Iterable[tuple[int, object]],
    record_type: type[T],
    on_malformed: OnMalformed,
) -> tuple[list[int], list[T], pa.RecordBatch]:
    """Parse numbered rows one by one, as ``read_records`` does.

    Returns:
        Numbers of the well-formed rows, their records, and their fields as columns.
    """
    parsed = list(parse_rows(file, rows, record_type, on_malformed))
    numbers, records = [number for number, _ in parsed], [record for _, record in parsed]
    if not records:
        return [], [], pa.RecordBatch.from_pylist([], schema=arrow_schema(record_type))
    return numbers, records, to_table(record_type, records, {}).combine_chunks().to_batches()[0]


def _at_once[T](numbers: list[int], batch: pa.RecordBatch, record_type: type[T]) -> RecordBatch[T]:
    """Check a batch's token lists as arrays and everything else record by record.

    Raises:
        DoubtError: something does not pass.
    """
    table = cast_columns(batch, arrow_schema(record_type))
    names = token_list_fields(record_type)
    try:
        rows = table.drop_columns(names).to_pylist() if names else table.to_pylist()
        for name in names:
            check_token_lists(table.column(name))
            for row, reduced in zip(rows, _reduced(table.column(name)), strict=True):
                row[name] = reduced
        return RecordBatch(numbers, [parse_record(record_type, row) for row in rows], table)
    except ValueError:
        raise DoubtError from None


# -- checks of columns -------------------------------------------------------------------------


def cast_columns(
    batch: pa.RecordBatch, schema: pa.Schema, optional: Collection[str] = ()
) -> pa.RecordBatch:
    """A batch's columns with the types of a schema.

    Args:
        optional: columns that may be absent; they are then null.

    Raises:
        DoubtError: a column is absent or cannot be cast.
    """
    columns = []
    for field in schema:
        if field.name in optional and field.name not in batch.schema.names:
            columns.append(pa.nulls(len(batch), field.type))
            continue
        try:
            column = batch.column(field.name)
            columns.append(column if column.type == field.type else column.cast(field.type))
        except (KeyError, pa.ArrowException):
            raise DoubtError from None
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def check_complete(column: pa.Array) -> None:
    """Check that no value is null, at any depth.

    Raises:
        DoubtError: one is.
    """
    if column.null_count:
        raise DoubtError
    if pa.types.is_struct(column.type):
        for field in column.type:
            check_complete(column.field(field.name))
    elif pa.types.is_list(column.type):
        check_complete(column.flatten())


def check_token_lists(column: pa.StructArray) -> None:
    """Check a column of :class:`TokenLogprobs` as that class checks itself.

    Raises:
        DoubtError: a value is null, lists differ in length, or a size is negative.
    """
    check_complete(column)
    first, *others = [pc.list_value_length(column.field(name)) for name in _TOKEN_LISTS]
    sizes = column.field("num_bytes").flatten().to_numpy()
    if not all(other.equals(first) for other in others) or sizes.min(initial=0) < 0:
        raise DoubtError


_TOKEN_LISTS = tuple(field.name for field in fields(TokenLogprobs))


def _reduced(column: pa.StructArray) -> Iterator[dict[str, list[int] | list[float]]]:
    """Each token list of a column as a list of one token that has all its bytes."""
    num_bytes = column.field("num_bytes")
    offsets = np.asarray(num_bytes.offsets)
    starts, ends = offsets[:-1], offsets[1:]
    sums = np.cumsum(np.append(0, num_bytes.values.to_numpy()))
    for size, length in zip(sums[ends] - sums[starts], ends - starts, strict=True):
        if length:
            yield {"token_ids": [0], "num_bytes": [int(size)], "logprobs": [0.0]}
        else:
            yield {"token_ids": [], "num_bytes": [], "logprobs": []}


def token_list_fields(record_type: type) -> list[str]:
    """Names of the fields of a record that are token lists."""
    return [name for name, hint in get_type_hints(record_type).items() if hint is TokenLogprobs]
