"""Files of records cut into shards of about equal size, for workers that run side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from megatron_dasd.errors import UserError
from megatron_dasd.records_io import parquet_errors, record_files

SHARD_BYTES = 64 << 20
"""Uncompressed size at which a shard is full: some seconds of work."""
_LINES_BLOCK = 16 << 20
"""Bytes of JSON lines that are read at a time to look for line ends."""


@dataclass(frozen=True)
class Piece:
    """Consecutive records of a file: a row group of Parquet, or a range of bytes of JSON lines."""

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
        for piece in _parquet_pieces(file) if file.suffix == ".parquet" else _line_pieces(file):
            waiting.append(piece)
            if sum(p.num_bytes for p in waiting) >= shard_bytes:
                shards.append(tuple(waiting))
                waiting = []
    return [*shards, tuple(waiting)] if waiting else shards


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


def piece_lines(piece: Piece) -> Iterator[str]:
    """Yield the lines of a piece of a JSON lines file, in order.

    Raises:
        UserError: a line is not UTF-8.
    """
    with piece.file.open("rb") as file:
        file.seek(piece.start)
        while file.tell() < piece.end:
            try:
                yield file.readline().decode().rstrip("\n")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{piece.file}: not UTF-8 text ({error.reason} at byte {error.start})"
                ) from None
