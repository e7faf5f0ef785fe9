"""Rows of Arrow tables as JSON values: times become text, and nothing is rounded."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from megatron_dasd.errors import UserError
from megatron_dasd.json_values import JsonObject

ARROW_KINDS = (".arrow", ".feather")
_MAGIC = b"ARROW1"
"""First bytes of an Arrow file; a stream, as ``datasets`` writes it, has none."""
_BATCH_ROWS = 64


def arrow_rows(file: Path) -> Iterator[JsonObject]:
    """Yield the rows of an Arrow file or stream.

    Raises:
        UserError: the file cannot be read.
    """
    first = 1
    with _arrow_errors(file):
        for batch in _arrow_batches(file):
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                part = batch.slice(start, _BATCH_ROWS)
                yield from plain_rows(part, file, first)
                first += part.num_rows


def count_arrow_rows(file: Path) -> int:
    """How many rows an Arrow file or stream holds.

    Raises:
        UserError: the file cannot be read.
    """
    with _arrow_errors(file):
        return sum(batch.num_rows for batch in _arrow_batches(file))


def plain_rows(batch: pa.RecordBatch, file: Path, first: int) -> list[JsonObject]:
    """The rows of a batch as JSON values; times, dates and durations as Arrow writes them.

    Args:
        file: for messages.
        first: number of the batch's first row in the file.

    Raises:
        UserError: two columns have one name, or a text is not UTF-8; names it.
    """
    name, count = Counter(batch.schema.names).most_common(1)[0] if batch.schema.names else ("", 1)
    if count > 1:
        raise UserError(f"{file}: {count} columns are named {name}; rename all but one")
    columns = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        plain = _plain_type(field.type)
        columns.append(column if plain == field.type else column.cast(plain))
    table = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
    try:
        return table.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        raise UserError(_undecodable(table, file, first)) from None


def _undecodable(table: pa.RecordBatch, file: Path, first: int) -> str:
    """Names the first text of a batch that is not UTF-8."""
    for row in range(table.num_rows):
        for name in table.schema.names:
            try:
                table.column(name)[row].as_py()
            except UnicodeDecodeError as error:
                return f"{file}: record {first + row}: field {name}: not UTF-8 ({error.reason})"
    return f"{file}: holds a text that is not UTF-8"


def _plain_type(given: pa.DataType) -> pa.DataType:
    """A type with text in place of every temporal type, at any depth."""
    if pa.types.is_temporal(given):
        return pa.string()
    if pa.types.is_dictionary(given):
        return _plain_type(given.value_type)
    if pa.types.is_struct(given):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in given])
    if pa.types.is_large_list(given):
        return pa.large_list(given.value_field.with_type(_plain_type(given.value_type)))
    if pa.types.is_list(given):
        return pa.list_(given.value_field.with_type(_plain_type(given.value_type)))
    return given


def _arrow_batches(file: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(file)) as source:
        if source.read(len(_MAGIC)) == _MAGIC:
            with pa.ipc.open_file(source) as whole:
                yield from (whole.get_batch(n) for n in range(whole.num_record_batches))
            return
        source.seek(0)
        with pa.ipc.open_stream(source) as stream:
            yield from stream


@contextmanager
def _arrow_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())  # Arrow breaks lines
        raise UserError(f"{file}: not a readable Arrow file ({why})") from None
