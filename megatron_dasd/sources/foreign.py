"""Records of other programs: JSON lines, Parquet, and what ``datasets`` saves to disk.

Rows are read one after the other.  A ``datasets`` folder is Arrow streams beside two JSON files, so
Arrow itself reads it and the package is not needed.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_dasd.errors import UserError
from megatron_dasd.records_io import numbered_rows, record_files

_DICT, _STATE = "dataset_dict.json", "state.json"
_BATCH_ROWS = 64


def foreign_files(path: Path) -> list[Path]:
    """The files behind a user's path, in order.

    Raises:
        UserError: nothing to read there.
    """
    if (path / _DICT).is_file():
        splits = _json(path / _DICT).get("splits")
        if not isinstance(splits, list) or not splits:
            raise UserError(f"{path / _DICT}: field splits: wanted a list of names")
        return [file for split in splits for file in foreign_files(path / str(split))]
    if (path / _STATE).is_file():
        files = _json(path / _STATE).get("_data_files")
        if not isinstance(files, list):
            raise UserError(f"{path / _STATE}: field _data_files: wanted a list of files")
        found = [path / str(file.get("filename")) for file in files if isinstance(file, dict)]
        for file in found:
            if file.parent != path or not file.is_file():
                raise UserError(f"{path / _STATE}: names {file.name}, which is not there")
        return found
    return record_files(path)


def foreign_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield rows, numbered from 1: dicts, or unparsed lines of a JSON lines file.

    Raises:
        UserError: the file cannot be read.
    """
    if file.suffix != ".arrow":
        yield from numbered_rows(file)
        return
    try:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as batches:
            number = 0
            for batch in batches:
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    for row in batch.slice(start, _BATCH_ROWS).to_pylist():
                        number += 1
                        yield number, row
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable Arrow file ({error})") from None


def num_foreign_rows(file: Path) -> int:
    """Number of rows of a file; of JSON lines, of its lines.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        if file.suffix == ".parquet":
            return int(pq.read_metadata(file).num_rows)
        if file.suffix == ".arrow":
            with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as batches:
                return sum(batch.num_rows for batch in batches)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not readable ({error})") from None
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def text_field(row: dict[str, Any], field: str) -> str:
    """A field that must be a text and not empty.

    Raises:
        ValueError: it is not.
    """
    value = row.get(field)
    if not isinstance(value, str):
        raise ValueError(f"field {field}: {'is missing' if value is None else 'is no text'}")
    if not value.strip():
        raise ValueError(f"field {field}: is empty")
    return value


def turns_field(row: dict[str, Any], field: str) -> Sequence[dict[str, Any]]:
    """A field that must be a list of turns.

    Raises:
        ValueError: it is not.
    """
    value = row.get(field)
    if not isinstance(value, list) or not value:
        raise ValueError(f"field {field}: wanted a list of turns")
    for turn in value:
        if not isinstance(turn, dict):
            raise ValueError(f"field {field}: a turn is no object")
        for name in ("role", "content"):
            if not isinstance(turn.get(name), str):
                raise ValueError(f"field {field}.{name}: wanted a text")
    return value


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: no JSON object")
    return value
