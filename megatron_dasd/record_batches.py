"""Records many at a time: their token lists stay in Arrow's buffers, where NumPy reads them.

A response of 64K tokens is a few texts and numbers, and three lists of 64K values for each model.
Made Python objects one by one, those lists would cost more than all that is then done with them.
So a record is read here with each of its token lists summed up into one entry, which its own
checks are as good for, and the lists themselves are looked at as arrays.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from itertools import batched
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_dasd.errors import UserError
from megatron_dasd.records import TokenLogprobs
from megatron_dasd.records_io import (
    OnMalformed,
    arrow_schema,
    numbered_rows,
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
    """[records] whole but for their token lists: of each, one token that has all its bytes.  The
    lists themselves are got by :meth:`tokens`."""
    table: pa.RecordBatch
    """[records] all fields."""

    def tokens(self, field: str, row: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """(``num_bytes`` [tokens], ``logprobs`` [tokens]) of a record's token list."""
        lists = self.table.column(field)
        num_bytes, logprobs = lists.field("num_bytes"), lists.field("logprobs")
        start, end = num_bytes.offsets[row].as_py(), num_bytes.offsets[row + 1].as_py()
        return num_bytes.values.to_numpy()[start:end], logprobs.values.to_numpy()[start:end]


class _DoubtError(Exception):
    """A batch that may hold a malformed record, or whose schema is another one."""


def read_batches[T](
    file: Path, record_type: type[T], on_malformed: OnMalformed = stop_on_malformed
) -> Iterator[RecordBatch[T]]:
    """Yield the records of a file, some at a time; what passes is what ``read_records`` lets pass.

    Raises:
        UserError: the file cannot be read, or (by default) a record is malformed.
    """
    if file.suffix != ".parquet":
        for lines in batched(numbered_rows(file), BATCH_RECORDS):
            yield _one_by_one(file, lines, record_type, on_malformed)
        return
    number = 1
    for batch in _parquet_batches(file):
        numbers = range(number, number + batch.num_rows)
        number += batch.num_rows
        try:
            yield _at_once(list(numbers), batch, record_type)
        except _DoubtError:
            rows = zip(numbers, batch.to_pylist(), strict=True)
            yield _one_by_one(file, rows, record_type, on_malformed)


def _parquet_batches(file: Path) -> Iterator[pa.RecordBatch]:
    try:
        yield from pq.ParquetFile(file).iter_batches(batch_size=BATCH_RECORDS)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable Parquet file ({error})") from None


def _one_by_one(
    file: Path, rows: Iterable[tuple[int, Any]], record_type: Any, on_malformed: OnMalformed
) -> RecordBatch[Any]:
    """Check rows as ``read_records`` does, and make a batch of the well-formed ones."""
    parsed = list(parse_rows(file, rows, record_type, on_malformed))
    table = to_table(record_type, [record for _, record in parsed], {}).combine_chunks()
    schema = arrow_schema(record_type)
    batch = table.to_batches()[0] if parsed else pa.RecordBatch.from_pylist([], schema=schema)
    return _at_once([number for number, _ in parsed], batch, record_type)


def _at_once(numbers: list[int], batch: pa.RecordBatch, record_type: Any) -> RecordBatch[Any]:
    """Check a batch's token lists as arrays and everything else record by record.

    Raises:
        _DoubtError: something does not pass; which record it is, and why, is not known.
    """
    schema = arrow_schema(record_type)
    try:
        columns = [batch.column(field.name).cast(field.type) for field in schema]
    except (KeyError, pa.ArrowException):
        raise _DoubtError from None
    table = pa.RecordBatch.from_arrays(columns, schema=schema)
    lists = _token_lists(record_type)
    rows = table.drop_columns(lists).to_pylist() if lists else table.to_pylist()
    for name in lists:
        for row, summed in zip(rows, _summed_up(table.column(name)), strict=True):
            row[name] = summed
    try:
        return RecordBatch(numbers, [parse_record(record_type, row) for row in rows], table)
    except ValueError:
        raise _DoubtError from None


def _summed_up(lists: pa.StructArray) -> Iterator[dict[str, Any]]:
    """Each of a column's token lists as a list of one token; nothing in them may be missing.

    Raises:
        _DoubtError: something is missing, lists are of other lengths, or a number is negative.
    """
    columns = [lists.field(name) for name in ("token_ids", "num_bytes", "logprobs")]
    offsets = [np.asarray(column.offsets) for column in columns]
    whole = not lists.null_count and all(
        not column.null_count and not column.values.null_count for column in columns
    )
    num_bytes = columns[1].values.to_numpy()
    if (
        not whole
        or not all(np.array_equal(np.diff(offset), np.diff(offsets[0])) for offset in offsets)
        or num_bytes.min(initial=0) < 0
    ):
        raise _DoubtError
    starts, ends = offsets[1][:-1], offsets[1][1:]
    sums = np.cumsum(np.append(0, num_bytes))
    for size, length in zip(sums[ends] - sums[starts], ends - starts, strict=True):
        single = {"token_ids": [0], "num_bytes": [int(size)], "logprobs": [0.0]}
        yield single if length else {name: [] for name in single}


@cache
def _token_lists(record_type: Any) -> list[str]:
    """The fields of a record that are token lists."""
    hints = get_type_hints(record_type)
    return [field.name for field in fields(record_type) if hints[field.name] is TokenLogprobs]
