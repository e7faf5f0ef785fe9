"""Records from and to files: JSON, Parquet and Arrow in, Parquet out, every field checked.

A malformed record is reported by file, record number and field.  The caller decides whether it
stops the run or is set aside with its reason.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import Field, asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from megatron_dasd.arrow_rows import ARROW_KINDS, arrow_rows, count_arrow_rows, plain_rows
from megatron_dasd.errors import UserError
from megatron_dasd.json_rows import JSON_KINDS, count_json_rows, json_rows, kind_of
from megatron_dasd.json_values import JsonObject
from megatron_dasd.manifests import part_files


class Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


type RawRow = str | JsonObject
"""A row as it is read: unparsed JSON, or the fields of a row of Parquet or Arrow."""
ROW_KINDS = (".parquet", *ARROW_KINDS, *JSON_KINDS)
"""Suffixes of files of rows; JSON may be compressed (``.jsonl.gz``)."""
_ABOUT_DATA = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json")
"""What ``datasets`` writes beside its files of rows."""

TALLY_KEY = b"counts"
_SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_SET_ASIDE_SCHEMA = pa.schema(
    [("reason", pa.string()), ("record", pa.string()), ("detail", pa.string())]
)


def arrow_type(annotation: object) -> pa.DataType:
    """Arrow type of a record field's annotation (dataclasses become structs, lists stay lists)."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if is_dataclass(annotation):
        hints = get_type_hints(annotation)
        return pa.struct([(f.name, arrow_type(hints[f.name])) for f in fields(annotation)])
    if origin is list:
        return pa.list_(arrow_type(arguments[0]))
    if origin is Literal:
        return pa.string()
    if origin in (Union, UnionType):
        (inner,) = [a for a in arguments if a is not NoneType]
        return arrow_type(inner)
    raise TypeError(f"no Arrow type for {annotation!r}")


def arrow_schema(record_type: type) -> pa.Schema:
    """Arrow schema of a record dataclass."""
    return _arrow_schema(record_type)


@cache
def _arrow_schema(record_type: type) -> pa.Schema:
    assert is_dataclass(record_type)
    hints = get_type_hints(record_type)
    return pa.schema([(f.name, arrow_type(hints[f.name])) for f in fields(record_type)])


def to_table(
    record_type: type | None, records: Iterable[object] | pa.Table, counts: Mapping[str, int]
) -> pa.Table:
    """Records as an Arrow table that carries ``counts`` in its metadata.

    Args:
        record_type: dataclass of the records; None for rows ``{"reason", "record"}`` set aside.
        records: records, rows, or a table of the record type's schema.
    """
    schema = arrow_schema(record_type) if record_type else _SET_ASIDE_SCHEMA
    schema = schema.with_metadata({TALLY_KEY: json.dumps(dict(counts), sort_keys=True)})
    if isinstance(records, pa.Table):
        return records.cast(schema).replace_schema_metadata(schema.metadata)
    rows = [asdict(r) if is_dataclass(r) and not isinstance(r, type) else r for r in records]
    return pa.Table.from_pylist(rows, schema=schema)


@cache
def _adapter(record_type: type) -> TypeAdapter[object]:
    return TypeAdapter(record_type)


def parse_record[T](record_type: type[T], row: object) -> T:
    """Check one row and make it a record.

    Null in a field that may be left out is as good as none: a column of Parquet or Arrow has no
    other way to leave a field out of one row.

    Raises:
        ValueError: with the field and what is wrong with it.
    """
    erased: type = record_type
    adapter = cast(TypeAdapter[T], _adapter(erased))
    try:
        return adapter.validate_python(row)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        if nulls := [fault["loc"] for fault in faults if fault["input"] is None and fault["loc"]]:
            with suppress(
                ValidationError, LookupError, TypeError
            ):  # then the error is of the row as it came
                return adapter.validate_python(_without(row, nulls))
        first = faults[0]
        where = "".join(f"{part}." for part in first["loc"])
        if first["type"] == "value_error":  # a record's own check, which begins with the field
            raise ValueError(f"field {where}{first['ctx']['error']}") from None
        raise ValueError(f"field {where.removesuffix('.')}: {first['msg']}") from None


def _without(row: object, paths: Sequence[tuple[str | int, ...]]) -> object:
    """A copy of a row without the fields at some paths."""
    copy = deepcopy(row)
    for *path, name in paths:
        place: Any = copy
        for part in path:
            place = place[part]
        if isinstance(place, dict):
            del place[name]
    return copy


OnMalformed = Callable[[str, str], None]
"""Called with (reason naming file, record and field; the record as text)."""


def stop_on_malformed(reason: str, record: str) -> None:
    """The default: the first malformed record ends the run with one line."""
    raise UserError(f"{reason}; fix the record, or set on_malformed: set_aside")


def ignore_malformed(reason: str, record: str) -> None:
    """For a second pass over a file: the first one has reported its malformed records."""


class SetAside:
    """Counts a part's records by outcome, and keeps those that do not pass."""

    def __init__(self, on_malformed: Literal["stop", "set_aside"] = "stop") -> None:
        self._on_malformed = on_malformed
        self.counts: Counter[str] = Counter()
        self.rows: list[dict[str, str]] = []

    def malformed(self, reason: str, record: str) -> None:
        """An :data:`OnMalformed`: stop, or set the record aside."""
        if self._on_malformed == "stop":
            stop_on_malformed(reason, record)
        self.counts["malformed"] += 1
        self.rows.append({"reason": reason, "record": record})

    def drop(self, reason: str, record: Dataclass, detail: str | None = None) -> None:
        """Set a record aside under a named reason.

        Args:
            record: a dataclass, kept as JSON.
            detail: what in the record matched.
        """
        self.counts[f"dropped: {reason}"] += 1
        text = json.dumps(asdict(record), ensure_ascii=False)
        row = {"reason": reason, "record": text}
        self.rows.append(row | ({"detail": detail} if detail else {}))


@contextmanager
def parquet_errors(file: Path) -> Iterator[None]:
    """Report errors of reading a Parquet file as the user's.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())  # Arrow breaks lines
        raise UserError(f"{file}: not a readable Parquet file ({why})") from None


def open_parquet(
    file: Path, *, memory_map: bool = False, pre_buffer: bool = True
) -> pq.ParquetFile:
    """Open a Parquet file whose pages are compared with their checksums when they are read.

    Pages without checksums, of other programs' files, are read as they are.

    Raises:
        pyarrow.ArrowException, OSError: here, or while reading; see :func:`parquet_errors`.
    """
    return pq.ParquetFile(
        file, memory_map=memory_map, pre_buffer=pre_buffer, page_checksum_verification=True
    )


def holds_rows(file: Path) -> bool:
    """Whether a file's name is that of a file of rows."""
    return kind_of(file) in ROW_KINDS and file.name not in _ABOUT_DATA


def record_files(path: Path) -> list[Path]:
    """The record files of a stage folder or a user's folder, in order; or the file itself.

    Raises:
        UserError: there is nothing to read, or the file is of a kind that cannot be read.
    """
    if path.is_file():
        if kind_of(path) not in (*ROW_KINDS, ""):
            kinds = ", ".join(ROW_KINDS)
            raise UserError(
                f"{path}: {kind_of(path)} files cannot be read; convert it to one of {kinds}"
            )
        return [path]
    found: list[Path] = []
    if path.is_dir():
        found = part_files(path) or sorted(p for p in path.iterdir() if holds_rows(p))
    if not found:
        raise UserError(f"{path}: no records here (expected part-*.parquet, *.parquet or *.jsonl)")
    return found


def read_records[T](
    path: Path, record_type: type[T], on_malformed: OnMalformed = stop_on_malformed
) -> Iterator[T]:
    """Yield the records of a file or folder in order; memory does not grow with their number.

    Raises:
        UserError: the file cannot be read, or (by default) a record is malformed.
    """
    for file in record_files(path):
        for _, record in parse_rows(file, numbered_rows(file), record_type, on_malformed):
            yield record


def count_records(file: Path) -> int:
    """How many records a file holds, malformed ones included.

    Raises:
        UserError: the file cannot be read.
    """
    if kind_of(file) in ARROW_KINDS:
        return count_arrow_rows(file)
    if file.suffix != ".parquet":
        return count_json_rows(file)
    with parquet_errors(file):
        return int(pq.read_metadata(file).num_rows)


def parse_rows[T](
    file: Path,
    rows: Iterable[tuple[int, object]],
    record_type: type[T],
    on_malformed: OnMalformed = stop_on_malformed,
) -> Iterator[tuple[int, T]]:
    """Yield the well-formed records among some rows of a file, with their numbers."""
    for number, row in rows:
        try:
            record = parse_record(record_type, parse_line(row) if isinstance(row, str) else row)
        except ValueError as error:
            text = row if isinstance(row, str) else row_text(row)
            on_malformed(f"{file}: record {number}: {error}", text)
            continue
        yield number, record


def row_text(row: object) -> str:
    """A row as JSON, for setting it aside; what JSON has no type for as Python writes it."""
    return json.dumps(row, ensure_ascii=False, default=str)


def parse_line(line: str) -> JsonObject:
    """Parse a line of a JSON lines file; a byte order mark before it is no part of it.

    Raises:
        ValueError: the line is no JSON object.
    """
    try:
        row = json.loads(line.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise ValueError(f"bad JSON ({error.msg}, column {error.colno})") from None
    except RecursionError:
        raise ValueError("bad JSON (nested too deep)") from None
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    if "\\ud" in line or "\\uD" in line:  # an escape may be half of a pair, which is no character
        for name, value in row.items():
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise ValueError(f"field {name}: holds half a surrogate pair") from None
    return row


def numbered_rows(file: Path) -> Iterator[tuple[int, RawRow]]:
    """Yield rows, numbered from 1: dicts from Parquet and Arrow, unparsed text from JSON.

    Raises:
        UserError: the file cannot be read.
    """
    if file.suffix == ".parquet":
        with parquet_errors(file):
            yield from enumerate(_parquet_rows(file), start=1)
    elif kind_of(file) in ARROW_KINDS:
        yield from enumerate(arrow_rows(file), start=1)
    else:
        yield from json_rows(file)


def _parquet_rows(file: Path) -> Iterator[JsonObject]:
    first = 1
    for batch in open_parquet(file).iter_batches(batch_size=256):
        yield from plain_rows(batch, file, first)
        first += batch.num_rows
