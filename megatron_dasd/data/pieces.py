"""Files of records cut into shards of about equal size, for workers that run side by side."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from megatron_dasd.arrow_rows import plain_rows
from megatron_dasd.errors import UserError
from megatron_dasd.json_rows import is_plain_lines
from megatron_dasd.record_batches import RecordBatch, parquet_batches, row_batches
from megatron_dasd.records_io import (
    OnMalformed,
    RawRow,
    numbered_rows,
    open_parquet,
    parquet_errors,
    record_files,
)

SHARD_BYTES = 64 << 20
"""Uncompressed size at which a shard is full: some seconds of work."""
_LINES_BLOCK = 16 << 20
"""Bytes of JSON lines that are read at a time to look for line ends."""


@dataclass(frozen=True)
class Piece:
    """Consecutive records of a file: a row group of Parquet, or a range of bytes of JSON lines.

    From 0 to 0: the whole file, as where it is of another kind (compressed, a JSON array, Arrow).
    """

    file: Path
    start: int
    """Row group, or first byte."""
    end: int
    """Row group after the last, or byte after the last."""
    first_record: int
    """Number of its first record (or line) in the file, from 1."""
    num_bytes: int


InputShard = tuple[Piece, ...]
"""What one worker turns into one shard of documents."""


def plan_shards(path: Path, shard_bytes: int = SHARD_BYTES) -> list[InputShard]:
    """Cut the records of a file or folder into shards.

    The cut depends on the files alone, not on the number of workers, so that the packed data does
    not either.

    Raises:
        UserError: there is nothing to read, or a file cannot be read.
    """
    shards: list[InputShard] = []
    waiting: list[Piece] = []
    for file in record_files(path):
        for piece in _pieces(file):
            waiting.append(piece)
            if sum(p.num_bytes for p in waiting) >= shard_bytes:
                shards.append(tuple(waiting))
                waiting = []
    return [*shards, tuple(waiting)] if waiting else shards


def cut_file(file: Path, piece_bytes: int = SHARD_BYTES) -> list[Piece]:
    """Cut a file into pieces of about equal size; a small file, even an empty one, is one piece.

    The cut depends on the file alone, as in :func:`plan_shards`.

    Raises:
        UserError: the file cannot be read.
    """
    pieces: list[Piece] = []
    for more in _pieces(file):
        last = pieces[-1] if pieces else None
        if last is None or last.num_bytes >= piece_bytes:
            pieces.append(more)
        else:
            num_bytes = last.num_bytes + more.num_bytes
            pieces[-1] = replace(last, end=more.end, num_bytes=num_bytes)
    if len(pieces) > 1:
        return pieces
    return [Piece(file, 0, 0, 1, pieces[0].num_bytes if pieces else 0)]


def _pieces(file: Path) -> Iterator[Piece]:
    if file.suffix == ".parquet":
        yield from _parquet_pieces(file)
    elif is_plain_lines(file):
        yield from _line_pieces(file)
    else:
        yield Piece(file, 0, 0, 1, file.stat().st_size)


def _parquet_pieces(file: Path) -> Iterator[Piece]:
    with parquet_errors(file):
        metadata = pq.read_metadata(file)
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


def piece_batches[T](
    piece: Piece, record_type: type[T], on_malformed: OnMalformed
) -> Iterator[RecordBatch[T]]:
    """Yield the records of a piece, some at a time; raises as ``record_batches.read_batches``."""
    file = piece.file
    if file.suffix == ".parquet":
        groups = range(piece.start, piece.end) if piece.end else None
        yield from parquet_batches(file, record_type, on_malformed, groups, piece.first_record)
    else:
        yield from row_batches(file, piece_rows(piece), record_type, on_malformed)


def piece_rows(piece: Piece) -> Iterator[tuple[int, RawRow]]:
    """Yield the rows of a piece in order, with their numbers in the file.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8.
    """
    if not piece.end:
        yield from numbered_rows(piece.file)
    elif piece.file.suffix == ".parquet":
        yield from _group_rows(piece)
    else:
        yield from _lines(piece)


def _group_rows(piece: Piece) -> Iterator[tuple[int, RawRow]]:
    number = piece.first_record
    groups = list(range(piece.start, piece.end))
    with parquet_errors(piece.file):
        for batch in open_parquet(piece.file).iter_batches(batch_size=256, row_groups=groups):
            yield from enumerate(plain_rows(batch, piece.file, number), start=number)
            number += batch.num_rows


def _lines(piece: Piece) -> Iterator[tuple[int, RawRow]]:
    number = piece.first_record
    with piece.file.open("rb") as file:
        file.seek(piece.start)
        while file.tell() < piece.end:
            try:
                line = file.readline().decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{piece.file}: record {number}: not UTF-8 text ({error.reason} at byte "
                    f"{error.start} of the line)"
                ) from None
            if line.strip():
                yield number, line.rstrip("\n")
            number += 1
