"""Rows that each hold whole responses: scanned, numbered over all files, made into records.

::

    shards ─► scanned apart ─► numbered in the order of the files ─► records of each shard, in parts

Shards are cut by the files alone.  What a row's record depends on beside the row itself, the number
of its candidates and whether its prompt was met before, is decided between the two passes from a
few numbers a row.  So the parts are the same for any number of processes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import batched, islice
from pathlib import Path

import numpy as np

from megatron_dasd.arrays import Ints
from megatron_dasd.artifacts import write_part
from megatron_dasd.config.formats import Columns
from megatron_dasd.config.sources import ImportResponses
from megatron_dasd.data.pieces import SHARD_BYTES, Piece, cut_file, piece_rows
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import part_path
from megatron_dasd.prompt_ids import belongs_to_two, question_of
from megatron_dasd.records import Response, Split
from megatron_dasd.records_io import RawRow, SetAside, parse_line
from megatron_dasd.sources.numbering import ScannedRows, number_rows
from megatron_dasd.sources.response_rows import (
    Example,
    Row,
    digest,
    failing,
    make_response,
    read_row,
    shown,
)
from megatron_dasd.sources.user_files import UserFile

PART_RECORDS = 32


@dataclass(frozen=True)
class Shard:
    """What one process reads at a time."""

    settings: ImportResponses
    columns: Columns
    pieces: tuple[tuple[Piece, Split], ...]


@dataclass(frozen=True)
class Scan:
    """What was found in a shard."""

    rows: ScannedRows
    not_read: Counter[str]
    """Fields that have a value and are not read, by name: rows that have them."""


@dataclass(frozen=True)
class MakeJob:
    """A shard whose records are to be made."""

    shard: Shard
    candidates: Ints
    """[rows] number of the first candidate of each row."""
    other_split: Mapping[int, Split]
    """By row, the other split in which its question is too."""
    first_part: int
    stage: Path
    """The stage's folder, which gets the parts."""


def cut_shards(
    settings: ImportResponses, columns: Columns, files: Sequence[UserFile]
) -> list[Shard]:
    """Cut the files into shards of about equal size."""
    shards: list[Shard] = []
    waiting: list[tuple[Piece, Split]] = []
    num_bytes = 0
    for file in files:
        for piece in cut_file(file.path):
            waiting.append((piece, file.split))
            num_bytes += piece.num_bytes
            if num_bytes >= SHARD_BYTES:
                shards.append(Shard(settings, columns, tuple(waiting)))
                waiting, num_bytes = [], 0
    return [*shards, Shard(settings, columns, tuple(waiting))] if waiting else shards


def _rows_of(shard: Shard) -> Iterator[tuple[int, str, RawRow, Example | ValueError]]:
    """Yield (piece, place, row, what it holds or why it is malformed) of every row."""
    for number, (piece, split) in enumerate(shard.pieces):
        for record, row in piece_rows(piece):
            place = f"{piece.file}: record {record}"
            try:
                parsed = parse_line(row) if isinstance(row, str) else row
                yield number, place, row, read_row(shard.columns, parsed, split)
            except ValueError as error:
                yield number, place, row, error


def scan_shard(shard: Shard) -> Scan:
    """Read every row of a shard.

    Raises:
        UserError: a file cannot be read, or a row is malformed, as the settings say.
    """
    aside, not_read = SetAside(shard.settings.on_malformed), Counter[str]()
    ids, questions, answers, splits = [], [], [], []
    for number, place, row, example in _rows_of(shard):
        if isinstance(example, ValueError):
            aside.malformed(f"{place}: {example}", shown(row))
            ids.append(bytes(16))
            questions.append(bytes(16))
            answers.append(0)
        else:
            ids.append(digest(example.prompt.prompt_id))
            questions.append(question_of(example.prompt.messages))
            answers.append(len(example.answers))
            not_read += example.not_read
        splits.append(shard.pieces[number][1] == "heldout")
    return Scan(ScannedRows.of(ids, questions, answers, splits), not_read)


def number_shards(
    shards: Sequence[Shard], scans: Sequence[ScannedRows], stage: Path
) -> tuple[list[MakeJob], int]:
    """Number the candidates of all rows, and the parts of all shards.

    Returns:
        (a job for each shard, number of records in all)

    Raises:
        UserError: one id belongs to two questions.
    """
    numbered = number_rows(ScannedRows.joined(scans))
    ends = np.cumsum([scan.num_answers.size for scan in scans])
    if numbered.conflict:
        raise UserError(_conflict(shards, ends, numbered.conflict))
    jobs, first, first_part = [], 0, 0
    for shard, end in zip(shards, ends.tolist(), strict=True):
        here = slice(first, end)
        refused = np.flatnonzero(numbered.other_split[here])
        other = {row: numbered.split_before(first + row) for row in refused.tolist()}
        jobs.append(MakeJob(shard, numbered.candidates[here], other, first_part, stage))
        first_part += -(-int(numbered.num_records[here].sum()) // PART_RECORDS)
        first = end
    return jobs, int(numbered.num_records.sum())


def _conflict(shards: Sequence[Shard], ends: Ints, rows: tuple[int, int]) -> str:
    """The error about two rows that have one id and different questions."""
    found = []
    for row in rows:
        shard = int(np.searchsorted(ends, row, side="right"))
        own = row - int(ends[shard - 1] if shard else 0)
        _, place, _, example = next(islice(_rows_of(shards[shard]), own, None))
        assert isinstance(example, Example)  # a malformed row is in no conflict
        found.append((place, example.prompt.prompt_id))
    (place, prompt_id), (other, _) = found
    return belongs_to_two(place, prompt_id, other)


def make_parts(job: MakeJob) -> int:
    """Write the parts of a shard that are missing; returns the number of its records.

    Raises:
        UserError: a record is malformed, as the settings say.
    """
    num_records = 0
    for number, chunk in enumerate(batched(_records(job), PART_RECORDS)):
        num_records += len(chunk)
        index = job.first_part + number
        if not part_path(job.stage, index).exists():
            write_rows(job.stage, index, chunk, job.shard.settings)
    return num_records


def write_rows(stage: Path, index: int, rows: Sequence[Row], settings: ImportResponses) -> None:
    """Make the responses of some rows, and write them as a part."""
    aside, responses = SetAside(settings.on_malformed), []
    for row in rows:
        try:
            responses.append(row.make())
        except ValueError as error:
            aside.malformed(f"{row.place}: {error}", row.shown())
    aside.counts["imported"] = len(responses)
    write_part(stage, index, Response, responses, aside.counts, aside.rows)


def _records(job: MakeJob) -> Iterator[Row]:
    """Yield the responses of all rows in order."""
    settings = job.shard.settings
    for number, (_, place, row, example) in enumerate(_rows_of(job.shard)):
        if other := job.other_split.get(number):
            example = ValueError(f"the same question is in a file of the split {other} too")
        if isinstance(example, ValueError):
            yield Row(place, failing(example), lambda row=row: shown(row))  # type: ignore[misc]
            continue
        for candidate, answer in enumerate(example.answers, start=int(job.candidates[number])):
            yield Row(
                place,
                lambda answer=answer, candidate=candidate, prompt=example.prompt: make_response(  # type: ignore[misc]
                    settings, prompt, answer, candidate, None
                ),
                lambda row=row: shown(row),  # type: ignore[misc]
            )
