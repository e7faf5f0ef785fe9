"""The work of one process: a shard of responses becomes a shard of documents.

A process is sent a small :class:`ShardJob` by pickle and returns a number; what it reads and writes
lies in files.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_dasd.arrays import Ints
from megatron_dasd.artifacts import write_part
from megatron_dasd.config.data import PreprocessData
from megatron_dasd.data.companions import TokenBytes
from megatron_dasd.data.examples import Example, ExampleMaker, Turns
from megatron_dasd.data.indexed import DataFormat, ShardWriter
from megatron_dasd.data.meta import COMPANIONS, LOSS_MASK, TOKENS, Document
from megatron_dasd.data.pieces import InputShard
from megatron_dasd.data.response_companions import CompanionColumns
from megatron_dasd.data.responses import FIELDS, ResponseBatch, read_shard
from megatron_dasd.json_values import checked_as
from megatron_dasd.manifests import file_sha256, part_path
from megatron_dasd.records_io import SetAside
from megatron_dasd.text.bulk import BulkEncoder, Library
from megatron_dasd.text.encoding import load_tokenizer

CHECK_EVERY = 4096
"""Of this many responses one is also tokenised by the exact library, and the ids are compared: a
fast library that is wrong for some text is found without tokenising everything twice."""
_DIGESTS = "digests.json"
"""In a shard's folder: SHA-256 of its other files, by name."""
_CHECK_STRIDE = 997
"""The first place that is checked moves on by this many responses from shard to shard.  Without it
every shard would check its first response and, being short, little else."""


@dataclass(frozen=True)
class ShardJob:
    """Everything a process needs to make one shard."""

    index: int
    """Number of the shard, and of its part in the stage's folder."""
    shard: InputShard
    settings: PreprocessData
    data_format: DataFormat
    library: Library
    model: Path
    """Hugging Face folder of the tokenizer."""
    stage: Path
    """The stage's folder, which gets the part."""
    shards: Path
    """Where the shard's folder goes."""
    drawn: Ints | None = None
    """Records drawn for the mix, numbered from 0 over the shard's pieces; None: the shard is not
    part of the mix."""
    counts: Counter[str] = field(default_factory=Counter)
    """Added to the part's counts."""


def shard_path(shards: Path, index: int) -> Path:
    """Folder of a shard's files; it exists only when they are complete."""
    return shards / f"{index:05d}"


def is_done(job: ShardJob) -> bool:
    """Whether the shard's files hold what was written, and its part exists, which comes last."""
    shard = shard_path(job.shards, job.index)
    try:
        written = checked_as(dict[str, str], (shard / _DIGESTS).read_bytes())
    except (OSError, ValueError):
        return False
    return part_path(job.stage, job.index).exists() and written == _digests(shard)


def _digests(shard: Path) -> dict[str, str]:
    """SHA-256 of a shard's files."""
    files = (path for path in shard.iterdir() if path.name != _DIGESTS)
    return {path.name: file_sha256(path) for path in files}


def make_shard(job: ShardJob) -> int:
    """Write a shard's files and then its part; returns the number of its tokens.

    Raises:
        UserError: a record is malformed (as the settings say), or an id outside the vocabulary.
        ExactnessError: the fast tokenizer library does not give the exact ids.
    """
    own = tools(job.model)
    maker = ExampleMaker(own.tokenizer, own.encoder_by(job.library), job.settings)
    final = shard_path(job.shards, job.index)
    # The name carries host and process: a worker that has outlived its killed run may still be
    # writing this shard, and the two must not share a folder.
    scratch = job.shards / f".{final.name}.{os.uname().nodename}.{os.getpid()}.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    work = _ShardWork(job, maker, own.token_bytes, ShardWriter(scratch, job.data_format))
    num_tokens = work.run()
    (scratch / _DIGESTS).write_text(json.dumps(_digests(scratch)))
    # The folder first, then the part: after a kill in between, is_done() is false and the shard is
    # made again, which gives the same bytes.
    shutil.rmtree(final, ignore_errors=True)
    scratch.rename(final)
    aside = work.aside
    write_part(job.stage, job.index, Document, work.documents, aside.counts, aside.rows)
    return num_tokens


class Tools:
    """What a process loads once for all shards of a stage."""

    def __init__(self, model: Path) -> None:
        self.tokenizer = load_tokenizer(model)
        self.token_bytes = TokenBytes(self.tokenizer)
        self.encoder_by = lru_cache(partial(BulkEncoder, self.tokenizer))
        """Encoders by library."""


@lru_cache(maxsize=1)
def tools(model: Path) -> Tools:
    """The tools of a model, loaded once; processes forked afterwards share them."""
    return Tools(model)


class _ShardWork:
    """One shard in the making."""

    def __init__(
        self, job: ShardJob, maker: ExampleMaker, table: TokenBytes, writer: ShardWriter
    ) -> None:
        self._job, self._maker, self._table, self._writer = job, maker, table, writer
        self.aside = SetAside(job.settings.on_malformed)
        self.aside.counts += job.counts
        self.documents: list[Document] = []
        self._num_seen = 0
        self._drawn = None if job.drawn is None else set(job.drawn.tolist())

    def run(self) -> int:
        """Write all documents of the shard; returns the number of their tokens."""
        for batch in read_shard(self._job.shard, FIELDS, self.aside.malformed):
            rows = list(self._chosen_rows(batch))
            if rows:
                self._add(batch, rows)
        self._writer.close()
        return sum(document.num_tokens for document in self.documents)

    def _chosen_rows(self, batch: ResponseBatch) -> Iterator[int]:
        """Rows to write: of the settings' split and temperature, or drawn for the mix."""
        for row, reason in enumerate(skipped(batch, self._job.settings)):
            # counted over all batches, skipped responses included, as the draw counted them
            number = self._num_seen
            self._num_seen += 1
            if self._drawn is not None:
                if number in self._drawn:
                    yield row
            elif reason:
                self.aside.counts[f"skipped: {reason}"] += 1
            else:
                yield row

    def _add(self, batch: ResponseBatch, rows: list[int]) -> None:
        # Texts are laid out first and tokenised together: the bulk encoder is fast on many at once.
        all_turns: list[Turns] = []
        good: list[tuple[int, int | None]] = []  # rows, with the place of an earlier turn
        for row in rows:
            try:
                laid: list[tuple[int | None, Turns]] = [(None, turns_of(batch, row, self._maker))]
                if self._job.settings.train_turns == "all" and batch.candidate(row) == 0:
                    laid = [*self._maker.earlier(batch.prompts[row]), *laid]
            except ValueError as error:
                self._malformed(batch, row, error)
                continue
            all_turns += [turns for _, turns in laid]
            good += [(row, place) for place, _ in laid]
        first = self._job.index * _CHECK_STRIDE + len(self.documents)
        self._maker.check(
            turns for place, turns in enumerate(all_turns, start=first) if place % CHECK_EVERY == 0
        )
        columns = CompanionColumns(batch)
        examples = self._maker.examples(all_turns)
        for (row, place), turns, example in zip(good, all_turns, examples, strict=True):
            if example.num_tokens > self._job.settings.seq_length:
                self._drop(batch, row, turns.laid.spelled, example.num_tokens)
            elif place is not None:
                unknown = {name: c.unknowns(example.num_tokens) for name, c in COMPANIONS.items()}
                self._write(batch, row, example, unknown, None, 0, f" turn {place}")
            else:
                self._add_response(batch, row, turns, example, columns)

    def _add_response(
        self,
        batch: ResponseBatch,
        row: int,
        turns: Turns,
        example: Example,
        columns: CompanionColumns,
    ) -> None:
        num_prefix = int(turns.prefix_ids.size)
        try:
            companions = columns.companions(row, turns.laid, example, self._table, num_prefix)
        except ValueError as error:
            self._malformed(batch, row, error)
            return
        logprob = columns.mean_teacher_logprob(row)
        self._write(batch, row, example, companions, logprob, num_prefix)

    def _write(
        self,
        batch: ResponseBatch,
        row: int,
        example: Example,
        companions: dict[str, npt.NDArray[np.number]],
        mean_teacher_logprob: float | None,
        num_prefix_tokens: int,
        turn: str = "",
    ) -> None:
        name = name_of(batch, row) + turn
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
                temperature=batch.temperature(row),
                candidate=batch.candidate(row),
                mean_teacher_logprob=mean_teacher_logprob,
                num_prefix_tokens=num_prefix_tokens,
            )
        )
        kept = "earlier turns" if turn else "kept"
        self.aside.counts[kept if self._drawn is None else f"mix: {kept}"] += 1

    def _malformed(self, batch: ResponseBatch, row: int, error: ValueError) -> None:
        where = f"{batch.file}: record {batch.numbers[row]}"
        self.aside.malformed(f"{where}: field {error}", batch.texts("output")[row])

    def _drop(self, batch: ResponseBatch, row: int, output: str, num_tokens: int) -> None:
        record = {"name": name_of(batch, row), "num_tokens": num_tokens, "output": output}
        self.aside.counts["dropped: length"] += 1
        text = json.dumps(record, ensure_ascii=False)
        self.aside.rows.append({"reason": "length", "record": text})


def turns_of(batch: ResponseBatch, row: int, maker: ExampleMaker) -> Turns:
    """Lay out one response of a batch.

    Raises:
        ValueError: as :meth:`ExampleMaker.turns`.
    """
    return maker.turns(
        batch.prompts[row],
        batch.columns.column("output")[row].as_py(),
        batch.spans(row),
        batch.tool_calls(row),
        batch.columns.column("student_prefix")[row].as_py(),
        batch.number_lists("student_prefix_ids", np.int64)[row],
        batch.columns.column("finish_reason")[row].as_py() == "stop",
    )


def skipped(batch: ResponseBatch, settings: PreprocessData) -> Iterator[str]:
    """[records] Why each response is skipped; empty when it is not."""
    temperatures = batch.columns.column("temperature").to_pylist()
    for prompt, temperature in zip(batch.prompts, temperatures, strict=True):
        if settings.split not in ("all", prompt.split):
            yield prompt.split
        elif settings.temperature not in (None, temperature):
            yield f"T={temperature:g}"
        else:
            yield ""


def name_of(batch: ResponseBatch, row: int) -> str:
    """The name of a response's document: its key and the source of its text."""
    origin = "continuation" if batch.is_continuation(row) else "response"
    temperature, candidate = batch.temperature(row), batch.candidate(row)
    return f"{batch.prompts[row].prompt_id} T={temperature:g} {origin} {candidate}"
