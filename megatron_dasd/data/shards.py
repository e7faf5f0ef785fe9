"""One shard of responses to one shard of documents; what a worker process does.

Payloads and results are small and travel by pickle; the work itself goes from files to files.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from megatron_dasd.artifacts import write_part
from megatron_dasd.config.data import PreprocessData
from megatron_dasd.data.companions import ResponseTokens, TokenBytes
from megatron_dasd.data.examples import Example, ExampleMaker
from megatron_dasd.data.indexed import DataFormat, ShardWriter
from megatron_dasd.data.meta import (
    CLASS_NAMES,
    COMPANIONS,
    LOSS_MASK,
    SENTENCE_CLASSES,
    TEACHER_LOGPROBS,
    TOKENS,
    WRITERS,
    Document,
)
from megatron_dasd.data.responses import FIELDS, Batch, Lists, Shard, read_shard
from megatron_dasd.records import Span
from megatron_dasd.records_io import SetAside
from megatron_dasd.text.bulk import BulkEncoder, Library
from megatron_dasd.text.encoding import load_tokenizer

CHECK_EVERY = 4096
"""One response of so many is tokenised exactly too, to compare the ids."""
_CHECK_STRIDE = 997
"""Responses by which the places that are checked move from shard to shard."""


@dataclass(frozen=True)
class Job:
    """All that makes a shard."""

    index: int
    """Of the shard, and of its part in the stage's folder."""
    shard: Shard
    settings: PreprocessData
    data_format: DataFormat
    library: Library
    model: Path
    """Hugging Face folder of the tokenizer."""
    stage: Path
    """The stage's folder, which gets the part."""
    shards: Path
    """Where the shard's folder goes."""
    drawn: npt.NDArray[np.int64] | None = None
    """Records of the shard, counted over its pieces from 0, that were drawn for the mix; None: it
    is no shard of the mix."""
    counts: Counter[str] = field(default_factory=Counter)
    """Goes into the part's counts as it is."""


def shard_path(shards: Path, index: int) -> Path:
    """Folder of a shard's files, which is there when they are whole."""
    return shards / f"{index:05d}"


def is_done(job: Job) -> bool:
    """Whether the shard's files and its part, which is written last, are there."""
    part = job.stage / f"part-{job.index:05d}.parquet"
    return part.exists() and shard_path(job.shards, job.index).exists()


def make_shard(job: Job) -> int:
    """Write a shard's files and then its part; returns the number of its tokens.

    Raises:
        UserError: a record is malformed (as the settings say), or an id outside the vocabulary.
        ExactnessError: the fast tokenizer library does not give the exact ids.
    """
    own = tools(job.model)
    maker = ExampleMaker(own.tokenizer, own.encoder_by(job.library), job.settings)
    final = shard_path(job.shards, job.index)
    # named after the process: one that has outlived its run may be at the same shard
    scratch = job.shards / f".{final.name}.{os.uname().nodename}.{os.getpid()}.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    work = _ShardWork(job, maker, own.token_bytes, ShardWriter(scratch, job.data_format))
    num_tokens = work.run()
    shutil.rmtree(final, ignore_errors=True)
    scratch.rename(final)
    aside = work.aside
    write_part(job.stage, job.index, Document, work.documents, aside.counts, aside.rows)
    return num_tokens


class Tools:
    """What a process needs for all shards of one stage."""

    def __init__(self, model: Path) -> None:
        self.tokenizer = load_tokenizer(model)
        self.token_bytes = TokenBytes(self.tokenizer)
        self.encoder_by = lru_cache(partial(BulkEncoder, self.tokenizer))
        """The encoder by library."""


@lru_cache(maxsize=1)
def tools(model: Path) -> Tools:
    """Loaded once; processes that are forked after that have it."""
    return Tools(model)


class _ShardWork:
    def __init__(
        self, job: Job, maker: ExampleMaker, table: TokenBytes, writer: ShardWriter
    ) -> None:
        self._job, self._maker, self._table, self._writer = job, maker, table, writer
        self.aside = SetAside(job.settings.on_malformed)
        self.aside.counts += job.counts
        self.documents: list[Document] = []
        self._num_seen = 0
        self._drawn = None if job.drawn is None else set(job.drawn.tolist())

    def run(self) -> int:
        """Go through the shard; returns the number of tokens written."""
        for batch in read_shard(self._job.shard, FIELDS, self.aside.malformed):
            rows = list(self._wanted(batch))
            if rows:
                self._add(batch, rows)
        self._writer.close()
        return sum(document.num_tokens for document in self.documents)

    def _wanted(self, batch: Batch) -> Iterator[int]:
        """Rows of the wanted split and temperature; of the mix, those that were drawn."""
        for row, reason in enumerate(skipped(batch, self._job.settings)):
            number = self._num_seen
            self._num_seen += 1
            if self._drawn is not None:
                if number in self._drawn:
                    yield row
            elif reason:
                self.aside.counts[f"skipped: {reason}"] += 1
            else:
                yield row

    def _add(self, batch: Batch, rows: list[int]) -> None:
        outputs, prefixes = batch.texts("output"), batch.texts("student_prefix")
        reasons = batch.texts("finish_reason")
        prefix_ids = batch.numbers_of("student_prefix_ids")
        turns, good = [], []
        for row in rows:
            messages = batch.prompts[row].messages
            try:
                what = outputs[row], prefixes[row], prefix_ids[row], reasons[row] == "stop"
                turns.append(self._maker.turns(messages, *what))
            except ValueError as error:
                self._malformed(batch, row, error)
            else:
                good.append(row)
        first = self._job.index * _CHECK_STRIDE + len(self.documents)
        self._maker.check(
            turn for place, turn in enumerate(turns, start=first) if place % CHECK_EVERY == 0
        )
        columns = _CompanionColumns(batch)
        for row, example in zip(good, self._maker.examples(turns), strict=True):
            if example.num_tokens > self._job.settings.seq_length:
                self._drop(batch, row, outputs[row], example.num_tokens)
                continue
            try:
                companions = columns.of(
                    row, outputs[row], example, self._table, int(prefix_ids[row].size)
                )
            except ValueError as error:
                self._malformed(batch, row, error)
                continue
            logprob = columns.mean_teacher_logprob(row)
            self._write(batch, row, example, companions, logprob, int(prefix_ids[row].size))

    def _write(
        self,
        batch: Batch,
        row: int,
        example: Example,
        companions: dict[str, Any],
        mean_teacher_logprob: float | None,
        num_prefix_tokens: int,
    ) -> None:
        name = name_of(batch, row)
        tokens = np.concatenate([example.prompt_ids, example.response_ids])
        self._writer.add(name, {TOKENS: tokens, LOSS_MASK: example.loss_mask, **companions})
        prompt = batch.prompts[row]
        self.documents.append(
            Document(
                name=name,
                num_tokens=example.num_tokens,
                num_loss_tokens=int(np.count_nonzero(example.loss_mask)),
                prompt_id=prompt.prompt_id,
                domain=prompt.domain,
                temperature=batch.value("temperature", row),
                candidate=batch.value("candidate", row),
                mean_teacher_logprob=mean_teacher_logprob,
                num_prefix_tokens=num_prefix_tokens,
            )
        )
        self.aside.counts["kept" if self._drawn is None else "mix: kept"] += 1

    def _malformed(self, batch: Batch, row: int, error: ValueError) -> None:
        where = f"{batch.file}: record {batch.numbers[row]}"
        self.aside.malformed(f"{where}: field {error}", batch.texts("output")[row])

    def _drop(self, batch: Batch, row: int, output: str, num_tokens: int) -> None:
        record = {"name": name_of(batch, row), "num_tokens": num_tokens, "output": output}
        self.aside.counts["dropped: length"] += 1
        text = json.dumps(record, ensure_ascii=False)
        self.aside.rows.append({"reason": "length", "record": text})


def skipped(batch: Batch, settings: PreprocessData) -> Iterator[str]:
    """Of each response why it is passed over; empty when it is wanted."""
    temperatures = batch.columns.column("temperature").to_pylist()
    for prompt, temperature in zip(batch.prompts, temperatures, strict=True):
        if settings.split not in ("all", prompt.split):
            yield prompt.split
        elif settings.temperature not in (None, temperature):
            yield f"T={temperature:g}"
        else:
            yield ""


def name_of(batch: Batch, row: int) -> str:
    """What a response's document is called."""
    origin = "continuation" if batch.value("student_prefix", row) else "response"
    temperature, candidate = batch.value("temperature", row), batch.value("candidate", row)
    return f"{batch.prompts[row].prompt_id} T={temperature:g} {origin} {candidate}"


class _CompanionColumns:
    """What companions are made of, in a batch's columns."""

    def __init__(self, batch: Batch) -> None:
        self._spans, self._text_spans = (_spans(batch, f) for f in ("output_spans", "text_spans"))
        self._ids, self._num_bytes, self._logprobs = (
            batch.numbers_of("tokens", name) for name in ("token_ids", "num_bytes", "logprobs")
        )
        sentences = batch.columns.column("sentences")
        classes = pc.index_in(sentences.values.field("provenance"), pa.array(CLASS_NAMES))
        offsets = np.asarray(sentences.offsets, dtype=np.int64)
        sizes = pc.binary_length(sentences.values.field("text"))
        self._sizes = Lists(sizes.to_numpy(zero_copy_only=False).astype(np.int64), offsets)
        numbers = classes.to_numpy(zero_copy_only=False)
        self._classes = Lists((numbers + 1).astype(np.uint8), offsets)

    def mean_teacher_logprob(self, row: int) -> float | None:
        """Of the tokens that the teacher wrote, in nats."""
        logprobs = self._logprobs[row]
        return float(logprobs.mean()) if logprobs.size else None

    def of(
        self, row: int, output: str, example: Example, table: TokenBytes, num_prefix_tokens: int
    ) -> dict[str, npt.NDArray[Any]]:
        """Companions of a row's document, the prompt's tokens unknown.

        Raises:
            ValueError: the record's fields do not fit each other.
        """
        response = ResponseTokens(output, example.response_ids, table, self._spans[row])
        known: dict[str, npt.NDArray[Any]] = {
            TEACHER_LOGPROBS: response.teacher_logprobs(
                self._text_spans[row], self._ids[row], self._num_bytes[row], self._logprobs[row]
            ),
            SENTENCE_CLASSES: response.sentence_classes(self._sizes[row], self._classes[row]),
            WRITERS: writers(example.response_ids.size, num_prefix_tokens),
        }
        return {
            name: np.concatenate([COMPANIONS[name].unknowns(example.prompt_ids.size), values])
            for name, values in known.items()
        }


def writers(num_tokens: int, num_prefix_tokens: int) -> npt.NDArray[np.uint8]:
    """[tokens] of a response, whose each is: numbers of ``WRITER_NAMES``."""
    if not num_prefix_tokens:
        return np.full(num_tokens, 1, np.uint8)
    values = np.full(num_tokens, 2, np.uint8)
    if num_tokens > num_prefix_tokens + 1:  # a rollout that was kept whole may end its turn
        values[num_prefix_tokens:] = 3
    return values


def _spans(batch: Batch, field_name: str) -> Sequence[list[Span]]:
    return [
        [Span(**span) for span in spans] for spans in batch.columns.column(field_name).to_pylist()
    ]
