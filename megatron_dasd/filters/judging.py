"""The work of one process: the responses of a piece of a file, each judged apart from the others.

::

    piece ─► judged apart: in ``.judged.tmp``, with identities ─► duplicates taken out: the part

A response is a duplicate by what was kept *before* it, so :mod:`runner` decides that in the order
of the inputs, whichever piece was judged first.  A piece without duplicates becomes the part as it
is.  A process is sent small jobs by pickle; what it reads and writes lies in files.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from megatron_dasd.arrays import Ints
from megatron_dasd.artifacts import write_atomic, write_part
from megatron_dasd.config.selection import Decontamination, FilterResponses
from megatron_dasd.data.pieces import Piece, piece_batches
from megatron_dasd.filters.benchmarks import NOT_SHOWN, Benchmarks, PromptRuns
from megatron_dasd.filters.case import Case, Tools, make_case
from megatron_dasd.filters.rules import first_reason
from megatron_dasd.filters.rules.contamination import contamination_of, searched_turns
from megatron_dasd.filters.rules.duplicate import DUPLICATE, FOUND
from megatron_dasd.filters.token_counter import StudentTokenCounter, encoder_of, tokenizer_of
from megatron_dasd.manifests import PART, SET_ASIDE, part_digest_path, part_path
from megatron_dasd.record_batches import RecordBatch
from megatron_dasd.records import FilteredResponse, Response
from megatron_dasd.records_io import (
    TALLY_KEY,
    SetAside,
    arrow_schema,
    ignore_malformed,
    open_parquet,
    parquet_errors,
    parse_record,
)
from megatron_dasd.text.bulk import Library
from megatron_dasd.text.chat import RefusedTurnsError

Identities = npt.NDArray[np.void]
"""[kept] 16 bytes each: equal for two responses of which the later one is a duplicate."""
IDENTITY = np.dtype("V16")


class Copies(NamedTuple):
    """Where the benchmarks lie that must not be trained on."""

    files: tuple[Path, ...]
    """Files of records of any columns."""
    evaluated: tuple[tuple[str, Path], ...]
    """Copies of published benchmarks, each after its name."""


@dataclass(frozen=True)
class Judge:
    """What the pieces of a stage are judged by, and where the results go."""

    settings: FilterResponses
    student: Path
    """Hugging Face folder of the student's tokenizer."""
    benchmarks: Copies
    common: frozenset[int]
    """Hashes of the benchmarks' runs of words that many prompts share."""
    library: Library
    """What counts the student's tokens."""
    stage: Path
    """The stage's folder, which gets the parts."""
    scratch: Path
    """Folder inside it of pieces that were judged apart."""


@dataclass(frozen=True)
class PieceJob:
    """A piece to be judged."""

    judge: Judge
    index: int
    """Number of the piece, and of its part in the stage's folder."""
    piece: Piece


@dataclass(frozen=True)
class SettleJob:
    """A judged piece that is to become a part."""

    judge: Judge
    index: int
    duplicates: Ints
    """Rows of the judged piece, ascending, that are duplicates."""


def judge_piece(job: PieceJob) -> Identities:
    """Judge the responses of a piece apart, unless that is done; returns the kept ones' identities.

    Raises:
        UserError: a record is malformed, as the settings say.
        ExactnessError: the fast tokenizer library does not give the exact ids.
    """
    scratch, index = job.judge.scratch, job.index
    about = scratch / f"{index:05d}.npz"
    there = part_path(job.judge.stage, index).exists() or part_path(scratch, index).exists()
    if there and about.exists():
        return _read_about(about)[0]
    work = _Judging(job)
    work.run()
    content = BytesIO()
    identities = np.array(work.identities, dtype=IDENTITY)
    np.savez(content, identities=identities, places=np.array(work.places, dtype=np.int64))
    write_atomic(about, content.getvalue())
    aside = work.aside
    # the part comes last: with it the piece is judged
    write_part(scratch, index, FilteredResponse, work.table(), aside.counts, aside.rows)
    return identities


def _read_about(path: Path) -> tuple[Identities, Ints]:
    with np.load(path) as found:
        return found["identities"], found["places"]


class _Judging:
    """One piece being judged."""

    def __init__(self, job: PieceJob) -> None:
        self._piece, self._settings = job.piece, job.judge.settings
        self._tools = tools_of(job.judge)
        self.aside = SetAside(self._settings.on_malformed)
        self.identities: list[bytes] = []
        """[kept]"""
        self.places: list[int] = []
        """[kept] rows that had been set aside before each."""
        self._tables: list[pa.Table] = []

    def run(self) -> None:
        for batch in piece_batches(self._piece, Response, self.aside.malformed):
            kept: list[tuple[int, FilteredResponse]] = []
            for row, response in enumerate(batch.records):
                case = make_case(response, self._settings, self._tools)
                try:
                    verdict = judge(case)
                except RefusedTurnsError as error:
                    whole = json.dumps(asdict(_whole(batch, row)), ensure_ascii=False)
                    where = f"{self._piece.file}: prompt {response.prompt.prompt_id}"
                    self.aside.malformed(f"{where}: {error}", whole)
                    continue
                self._count(verdict, case, batch, row, kept)
            if kept:
                self._tables.append(_columns(batch, kept))

    def _count(
        self,
        verdict: FilteredResponse | tuple[str, str],
        case: Case,
        batch: RecordBatch[Response],
        row: int,
        kept: list[tuple[int, FilteredResponse]],
    ) -> None:
        counts, at = self.aside.counts, f"T={case.response.temperature:g}"
        if isinstance(verdict, FilteredResponse):
            kept.append((row, verdict))
            self.identities.append(case.identity)
            self.places.append(len(self.aside.rows))
            counts.update(["kept", f"kept {at}"])
        else:
            reason, detail = verdict
            self.aside.drop(reason, _whole(batch, row), _hiding(detail, case))
            counts[f"dropped {at}"] += 1

    def table(self) -> pa.Table:
        """The responses that are kept."""
        schema = arrow_schema(FilteredResponse)
        return pa.concat_tables(self._tables) if self._tables else schema.empty_table()


def judge(case: Case) -> FilteredResponse | tuple[str, str]:
    """Apply the rules to one response.

    Returns:
        The record to keep; or (name of the rule that drops the response, what it found).
    """
    reason = first_reason(case)
    if reason or case.normalised is None:
        return reason or ("structure", "")
    return FilteredResponse(
        **{field.name: getattr(case.response, field.name) for field in fields(Response)},
        output=case.normalised.output,
        output_spans=case.normalised.output_spans,
        text_spans=case.normalised.text_spans,
    )


def _hiding(detail: str, case: Case) -> str:
    """What a rule found; of a response with words that must not be shown, where they are from."""
    found = contamination_of(case)
    return found if found and NOT_SHOWN in found else detail


_ADDED = ("output", "output_spans", "text_spans")


def _columns(
    batch: RecordBatch[Response], kept: Sequence[tuple[int, FilteredResponse]]
) -> pa.Table:
    """The kept records of a batch; their token lists are not made into Python objects."""
    schema = arrow_schema(FilteredResponse)
    table = pa.Table.from_batches([batch.table]).take([row for row, _ in kept])
    for name in _ADDED:
        values = [getattr(record, name) for _, record in kept]
        if name != "output":
            values = [[vars(span) for span in spans] for spans in values]
        table = table.append_column(name, pa.array(values, schema.field(name).type))
    return table.select(schema.names)


def _whole(batch: RecordBatch[Response], row: int) -> Response:
    """A record of a batch with all its tokens."""
    return parse_record(Response, batch.table.slice(row, 1).to_pylist()[0])


# -- duplicates --------------------------------------------------------------------------------


def settle_piece(job: SettleJob) -> None:
    """Make the part of a judged piece, without its duplicates; a part that exists is left."""
    stage, scratch, index = job.judge.stage, job.judge.scratch, job.index
    if part_path(stage, index).exists():
        return
    if job.duplicates.size:
        _write_without(job)
        return
    # the part itself marks the work as done, so it is moved last
    for kind in (SET_ASIDE, PART):
        made, part = part_path(scratch, index, kind), part_path(stage, index, kind)
        if made.exists():
            part_digest_path(part).write_text(part_digest_path(made).read_text())
            made.replace(part)


def _write_without(job: SettleJob) -> None:
    """Write a part and what is set aside, duplicates at the places that they had in the input."""
    scratch, index = job.judge.scratch, job.index
    made, aside = part_path(scratch, index), SetAside()
    rows: list[dict[str, str]] = []
    with parquet_errors(made):
        table = open_parquet(made).read()
        if (others := part_path(scratch, index, SET_ASIDE)).exists():
            rows = [_without_nulls(row) for row in open_parquet(others).read().to_pylist()]
    _, places = _read_about(scratch / f"{index:05d}.npz")
    counts = Counter(json.loads(table.schema.metadata[TALLY_KEY]))
    done = 0
    names = [field.name for field in fields(Response)]
    for row in job.duplicates.tolist():
        aside.rows += rows[done : places[row]]
        done = int(places[row])
        response = parse_record(Response, table.select(names).slice(row, 1).to_pylist()[0])
        aside.drop(DUPLICATE.name, response, FOUND)
        at = f"T={response.temperature:g}"
        counts.update({f"dropped {at}": 1, "kept": -1, f"kept {at}": -1})
    aside.rows += rows[done:]
    counts.update(aside.counts)
    kept = np.delete(np.arange(table.num_rows), job.duplicates)
    write_part(job.judge.stage, index, FilteredResponse, table.take(kept), +counts, aside.rows)


def _without_nulls(row: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in row.items() if value is not None}


# -- what a process loads once -----------------------------------------------------------------


def forget() -> None:
    """Forget what was loaded: another stage's folders may have the same paths."""
    for cached in (_tools, _benchmarks, encoder_of, tokenizer_of):
        cached.cache_clear()


def tools_of(judge: Judge) -> Tools:
    """What the rules need; processes forked afterwards share it."""
    own = judge.settings.model_dump_json()
    return _tools(judge.student, judge.benchmarks, judge.common, judge.library, own)


@lru_cache(maxsize=1)
def _tools(
    student: Path,
    benchmarks: Copies,
    common: frozenset[int],
    library: Library,
    settings_json: str,
) -> Tools:
    settings = FilterResponses.model_validate_json(settings_json)
    counter = StudentTokenCounter(
        tokenizer_of(student),
        settings.system_prompt,
        settings.chat_template_kwargs,
        encoder_of(student, library),
    )
    read = read_benchmarks(benchmarks, settings)
    return Tools(counter, read.without(common) if read else None)


def read_benchmarks(copies: Copies, settings: FilterResponses) -> Benchmarks | None:
    """The benchmarks of a stage; None: it has none."""
    return _benchmarks(copies, settings.decontamination.model_dump_json()) if any(copies) else None


@lru_cache(maxsize=1)
def _benchmarks(copies: Copies, settings_json: str) -> Benchmarks:
    settings = Decontamination.model_validate_json(settings_json)
    return Benchmarks.read(copies.files, settings, dict(copies.evaluated))


def runs_in_prompts(job: PieceJob) -> PromptRuns:
    """The benchmarks' runs of words in the prompts of a piece."""
    benchmarks = read_benchmarks(job.judge.benchmarks, job.judge.settings)
    assert benchmarks is not None
    return benchmarks.runs_in_prompts(_prompts(job.piece))


def _prompts(piece: Piece) -> Iterator[str]:
    for batch in piece_batches(piece, Response, ignore_malformed):
        for response in batch.records:
            yield from searched_turns(response.prompt)
