"""Records of other programs: JSON lines, Parquet, and folders that ``datasets`` saved to disk.

Rows are read one after the other.  A ``datasets`` folder is Arrow streams beside two JSON files, so
Arrow reads it and the package is not needed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from megatron_dasd.errors import UserError
from megatron_dasd.json_values import JsonObject, read_object
from megatron_dasd.records_io import RawRow, count_records, numbered_rows, record_files

_DICT, _STATE = "dataset_dict.json", "state.json"
_BATCH_ROWS = 64


def foreign_files(path: Path) -> list[Path]:
    """The files behind a user's path, in order.

    Raises:
        UserError: there is nothing to read.
    """
    if (path / _DICT).is_file():
        splits = read_object(path / _DICT).get("splits")
        if not isinstance(splits, list) or not splits:
            raise UserError(f"{path / _DICT}: field splits: expected a list of names")
        return [file for split in splits for file in foreign_files(path / str(split))]
    if (path / _STATE).is_file():
        files = read_object(path / _STATE).get("_data_files")
        if not isinstance(files, list):
            raise UserError(f"{path / _STATE}: field _data_files: expected a list of files")
        found = [path / str(file.get("filename")) for file in files if isinstance(file, dict)]
        for file in found:
            if file.parent != path or not file.is_file():
                raise UserError(f"{path / _STATE}: names {file.name}, which is not there")
        return found
    return record_files(path)


def foreign_rows(file: Path) -> Iterator[tuple[int, RawRow]]:
    """Yield rows, numbered from 1: dicts, or unparsed lines of a JSON lines file.

    Raises:
        UserError: the file cannot be read.
    """
    if file.suffix != ".arrow":
        yield from numbered_rows(file)
        return
    with _arrow_errors(file), _stream(file) as batches:
        number = 0
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                for row in batch.slice(start, _BATCH_ROWS).to_pylist():
                    number += 1
                    yield number, row


def num_foreign_rows(file: Path) -> int:
    """Number of rows of a file.

    Raises:
        UserError: the file cannot be read.
    """
    if file.suffix != ".arrow":
        return count_records(file)
    with _arrow_errors(file), _stream(file) as batches:
        return sum(batch.num_rows for batch in batches)


@contextmanager
def _stream(file: Path) -> Iterator[pa.RecordBatchStreamReader]:
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as batches:
        yield batches


@contextmanager
def _arrow_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable Arrow file ({error})") from None


def text_field(row: JsonObject, field: str) -> str:
    """The value of a field that must be a text and not empty.

    Raises:
        ValueError: the value is something else.
    """
    value = row.get(field)
    if not isinstance(value, str):
        raise ValueError(f"field {field}: {'is missing' if value is None else 'is no text'}")
    if not value.strip():
        raise ValueError(f"field {field}: is empty")
    return value


def turns_field(row: JsonObject, field: str) -> Sequence[JsonObject]:
    """The value of a field that must be a list of turns, each with texts as role and content.

    Raises:
        ValueError: the value is something else.
    """
    value = row.get(field)
    if not isinstance(value, list) or not value:
        raise ValueError(f"field {field}: expected a list of turns")
    for turn in value:
        if not isinstance(turn, dict):
            raise ValueError(f"field {field}: a turn is no object")
        if not isinstance(turn.get("role"), str):
            raise ValueError(f"field {field}.role: expected a text")
    return value
