"""Texts in JSON lines joined with log-probs in Parquet by an id; the two are in different orders.

Memory holds where each text lies, a few numbers a text.  The log-probs are read in their order, and
for each the line of its text is read from its place.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from megatron_dasd.config.sources import ImportResponses
from megatron_dasd.errors import UserError
from megatron_dasd.prompt_ids import PromptIds
from megatron_dasd.records import Response, TokenLogprobs
from megatron_dasd.records_io import count_records, open_parquet, parquet_errors, parse_line
from megatron_dasd.sources.given_tokens import tokens_of_text
from megatron_dasd.sources.response_rows import Row, digest, failing, make_response, read_row
from megatron_dasd.sources.row_fields import filled_text
from megatron_dasd.text.encoding import token_bytes

_COLUMNS = ("sample_uuid", "token_ids", "logprobs")
_BATCH_ROWS = 64


@dataclass(frozen=True)
class _Place:
    """Where the line of a text lies, and which candidate of its prompt it is."""

    file: int
    offset: int
    record: int
    candidate: int


class Joined:
    """Rows of log-probs, each with the text that its id names."""

    def __init__(
        self,
        settings: ImportResponses,
        files: Sequence[Path],
        parquet: Sequence[Path],
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._settings = settings
        self._files = files
        self._parquet = parquet
        self._tokenizer = tokenizer
        self._columns = settings.columns()
        self.not_read: Counter[str] = Counter()
        """Fields that have a value and are not read, by name: rows that have them."""

    def num_rows(self) -> int:
        """Number of rows of log-probs."""
        return sum(count_records(file) for file in self._parquet)

    def rows(self) -> Iterator[Row]:
        """Yield malformed lines, then all log-probs in order, then texts that no log-probs name."""
        places, broken = self._places()
        yield from broken
        for file in self._parquet:
            number = 0
            for batch in _logprob_batches(file):
                for index in range(batch.num_rows):
                    number += 1
                    yield self._row(f"{file}: record {number}", batch, index, places)
        for place in places.values():  # the texts that no log-probs name
            where = f"{self._files[place.file]}: record {place.record}"
            missing = ValueError("field uuid: no log-probs with this sample_uuid")
            line = self._line_at(place)
            yield Row(where, failing(missing), lambda line=line: line)  # type: ignore[misc]

    def _places(self) -> tuple[dict[bytes, _Place], list[Row]]:
        """Where each text lies, by a hash of its id; and the malformed lines."""
        places: dict[bytes, _Place] = {}
        ids = PromptIds()
        broken: list[Row] = []
        candidates: Counter[bytes] = Counter()
        for number, file in enumerate(self._files):
            if file.suffix != ".jsonl":
                raise UserError(f"{file}: log-probs can be joined with JSON lines only (*.jsonl)")
            for record, offset, line in _lines(file):
                try:
                    row = parse_line(line)
                    key = digest(filled_text(row.get("uuid"), "uuid"))
                    example = read_row(self._columns, row)
                    ids.check(example.prompt, f"{file}: record {record}")
                    if key in places:
                        raise ValueError(f"field uuid: {row['uuid']} is there twice")
                except ValueError as error:
                    where = f"{file}: record {record}"
                    broken.append(Row(where, failing(error), lambda line=line: line))  # type: ignore[misc]
                    continue
                example.not_read.pop("uuid", None)
                self.not_read += example.not_read
                name = digest(example.prompt.prompt_id)
                places[key] = _Place(number, offset, record, candidates[name])
                candidates[name] += 1
        return places, broken

    def _row(
        self, where: str, batch: pa.RecordBatch, index: int, places: dict[bytes, _Place]
    ) -> Row:
        uuid = batch.column(0)[index].as_py()
        place = places.pop(digest(str(uuid)), None)

        def make() -> Response:
            if place is None:
                raise ValueError(f"field sample_uuid: {uuid}: no text with this uuid, or twice")
            example = read_row(self._columns, parse_line(self._line_at(place)))
            (answer,) = example.answers
            tokens = self._tokens(batch, index, answer.text)
            return make_response(self._settings, example.prompt, answer, place.candidate, tokens)

        return Row(where, make, lambda: json.dumps({"sample_uuid": uuid}))

    def _tokens(self, batch: pa.RecordBatch, index: int, text: str) -> TokenLogprobs:
        ids, logprobs = (batch.column(column)[index].as_py() for column in (1, 2))
        for name, values in (("token_ids", ids), ("logprobs", logprobs)):
            if values is None or any(value is None for value in values):
                raise ValueError(f"field {name}: has no value, or one that is missing")
        if len(ids) != len(logprobs):
            raise ValueError(f"field logprobs: {len(logprobs)} values for {len(ids)} tokens")
        size = len(self._tokenizer)
        if ids and not 0 <= min(ids) <= max(ids) < size:
            raise ValueError(f"field token_ids: an id is outside the vocabulary of {size}")
        values = np.asarray(logprobs, dtype=np.float64)
        if not (np.isfinite(values) & (values <= 1e-6)).all():
            raise ValueError("field logprobs: a value is above 0 or not finite")
        try:
            return tokens_of_text(text, token_bytes(self._tokenizer, ids), ids, values.tolist())
        except ValueError as error:
            raise ValueError(f"field {error}") from None

    def _line_at(self, place: _Place) -> str:
        with self._files[place.file].open("rb") as file:
            file.seek(place.offset)
            return file.readline().decode()


def _logprob_batches(file: Path) -> Iterator[pa.RecordBatch]:
    with parquet_errors(file):
        parquet = open_parquet(file)
        for name in _COLUMNS:
            if name not in parquet.schema_arrow.names:
                raise UserError(f"{file}: no column {name}")
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=list(_COLUMNS)):
            yield batch.select(list(_COLUMNS))


def _lines(file: Path) -> Iterator[tuple[int, int, str]]:
    """Yield the lines of a file: number from 1, offset in bytes, text."""
    offset = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, offset, line.decode()
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{file}: record {number}: not UTF-8 text ({error.reason})"
                    ) from None
            offset += len(line)
