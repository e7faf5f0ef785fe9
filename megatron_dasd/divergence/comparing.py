"""The work of one process: the models compared on the candidates of a file, and its selected part.

A process is sent small jobs by pickle.  What the first pass finds in a file lies in
``.surveys.tmp`` until the stage finishes, so that a run that was killed compares no file twice.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa

from megatron_dasd.arrays import Ints
from megatron_dasd.artifacts import write_atomic, write_part
from megatron_dasd.config.selection import SelectDas
from megatron_dasd.divergence import figures
from megatron_dasd.divergence.candidates import Domains, Rows, candidate_row, to_rows
from megatron_dasd.divergence.distilled import DistilledPart
from megatron_dasd.divergence.provenance import (
    CLASSES,
    Comparison,
    ModelTokens,
    classify,
    compare,
)
from megatron_dasd.json_values import checked_as
from megatron_dasd.manifests import part_path
from megatron_dasd.record_batches import RecordBatch, read_batches
from megatron_dasd.records import ScoredResponse, SelectedResponse
from megatron_dasd.records_io import SetAside, arrow_schema
from megatron_dasd.text.thinking import span_text


@dataclass(frozen=True)
class FileJob:
    """A file of candidates."""

    index: int
    """Number of the file, and of its part in the stage's folder."""
    file: Path
    distilled: Path | None
    """The file of the second scoring with the same responses."""
    settings: SelectDas
    scratch: Path
    """Folder of what the first pass finds."""


@dataclass(frozen=True)
class Survey:
    """What the first pass found in a file."""

    rows: Rows
    """[candidates] domains by number in ``domains``."""
    domains: list[str]
    gaps: dict[float, list[int]]
    """By temperature, the histogram of its sentences."""
    counts: dict[str, int]
    """Records that are no candidates, by reason."""


@dataclass(frozen=True)
class SelectJob:
    """A file whose selected candidates are to be written."""

    survey: FileJob
    numbers: Ints
    """Places of the selected candidates in the file, from 1."""
    num_candidates: int
    stage: Path
    """The stage's folder, which gets the part."""


@dataclass(frozen=True)
class _About:
    """What of a survey stands in its JSON file."""

    domains: list[str]
    gaps: list[tuple[float, list[int]]]
    counts: dict[str, int]
    aside: list[dict[str, str]]
    """Malformed records."""


def survey_file(job: FileJob) -> Survey:
    """Compare the models on every candidate of a file, unless that is done.

    Raises:
        UserError: a record is malformed, as the settings say.
    """
    array, about = _files_of(job)
    if about.exists():
        return _read(array, about)
    work = _Comparing(job)
    domains, histograms = Domains(), figures.GapHistograms()
    content = BytesIO()
    np.save(content, work.rows(domains, histograms))
    write_atomic(array, content.getvalue())
    gaps = [(temperature, c.tolist()) for temperature, c in histograms.counts.items()]
    found = _About(domains.names, gaps, dict(work.aside.counts), work.aside.rows)
    write_atomic(about, json.dumps(vars(found)).encode())
    return _read(array, about)


def _files_of(job: FileJob) -> tuple[Path, Path]:
    """The survey's array, and its JSON file, which is written last."""
    return job.scratch / f"{job.index:05d}.npy", job.scratch / f"{job.index:05d}.json"


def _read(array: Path, about: Path) -> Survey:
    found = checked_as(_About, about.read_bytes())
    return Survey(np.load(array), found.domains, dict(found.gaps), found.counts)


def write_selected(job: SelectJob) -> None:
    """Write the part of a file: its selected candidates, with their sentences."""
    index = job.survey.index
    if part_path(job.stage, index).exists():
        return
    aside = SetAside()
    about = checked_as(_About, _files_of(job.survey)[1].read_bytes())
    aside.counts.update(about.counts)
    aside.rows += about.aside
    chosen = _Comparing(job.survey).chosen(set(job.numbers.tolist()))
    aside.counts["kept"] += chosen.num_rows
    aside.counts["dropped: not selected"] += job.num_candidates - chosen.num_rows
    write_part(job.stage, index, SelectedResponse, chosen, aside.counts, aside.rows)


class _Comparing:
    """One file of candidates, each compared under the models."""

    def __init__(self, job: FileJob) -> None:
        self._index = job.index
        self._file = job.file
        self._settings = job.settings
        self._distilled = job.distilled
        self.aside = SetAside(job.settings.on_malformed)

    def rows(self, domains: Domains, histograms: figures.GapHistograms) -> Rows:
        """Summarise every candidate; adds its sentences to the histograms."""
        rows = []
        for batch, row, comparison in self._comparisons(None):
            response, classes = batch.records[row], self._classes(comparison)
            num_student_tokens = batch.tokens("student_tokens", row)[0].size
            place = (self._index, batch.numbers[row])
            seed = self._settings.seed
            rows.append(
                candidate_row(
                    place, response, num_student_tokens, comparison, classes, seed, domains
                )
            )
            histograms.add(response.temperature, comparison.probabilities)
        return to_rows(rows)

    def chosen(self, numbers: set[int]) -> pa.Table:
        """Read the records with these numbers, and add their sentences."""
        schema = arrow_schema(SelectedResponse)
        tables, comparisons = [], []
        for batch, row, comparison in self._comparisons(numbers):
            tables.append(pa.Table.from_batches([batch.table.slice(row, 1)]))
            comparisons.append(comparison)
        if not tables:
            return schema.empty_table()
        classes = [self._classes(comparison) for comparison in comparisons]
        sentences = sentence_column(comparisons, classes, schema.field("sentences").type)
        whole = pa.concat_tables(tables).append_column("sentences", sentences)
        return whole.select(schema.names)

    def _classes(self, comparison: Comparison) -> Ints:
        return classify(comparison.probabilities, self._settings.beta, self._settings.alpha)

    def _comparisons(
        self, numbers: set[int] | None
    ) -> Iterator[tuple[RecordBatch[ScoredResponse], int, Comparison]]:
        """Yield the file's candidates (with these numbers), each with its batch and row."""
        distilled = DistilledPart(self._distilled) if self._distilled else None
        # Candidates are asked for by number in the second pass, when malformed records have been
        # reported already.
        aside = self.aside if numbers is None else SetAside("set_aside")
        for batch in read_batches(self._file, ScoredResponse, aside.malformed):
            for row, response in enumerate(batch.records):
                if numbers is None:
                    if reason := self._skip_reason(response):
                        aside.counts[f"skipped: {reason}"] += 1
                        continue
                elif batch.numbers[row] not in numbers:
                    continue
                try:
                    models = _models(batch, row)
                    if distilled is not None:
                        models.append(distilled.find(response))
                    comparison = compare(_content(response), models)
                except ValueError as error:
                    where = f"{self._file}: record {batch.numbers[row]}: prompt "
                    where += f"{response.prompt.prompt_id}, candidate {response.candidate}"
                    aside.malformed(f"{where}: field {error}", response.text)
                    continue
                yield batch, row, comparison

    def _skip_reason(self, response: ScoredResponse) -> str | None:
        """Why a response is not a candidate; None for a candidate."""
        if response.prompt.split != "train":
            return response.prompt.split
        if self._settings.temperature not in (None, response.temperature):
            return f"T={response.temperature:g}"
        return None


def sentence_column(
    comparisons: Sequence[Comparison], classes: Sequence[Ints], list_type: pa.ListType
) -> pa.ListArray:
    """Build the column of ``Sentence`` lists from arrays: a response has thousands of sentences.

    Args:
        comparisons: [responses]
        classes: [responses] class codes of the sentences of each.
        list_type: Arrow type of the column.
    """
    codes = np.concatenate(classes)
    probabilities = np.concatenate([c.probabilities for c in comparisons], axis=1)
    columns = {
        "text": pa.array([text for c in comparisons for text in c.texts], pa.string()),
        "provenance": pa.array(CLASSES, pa.string()).take(pa.array(codes)),
    }
    for name, values in zip(figures.MODELS, probabilities, strict=False):
        columns[f"{name}_probability"] = pa.array(values)
    columns.setdefault("distilled_probability", pa.nulls(codes.size, pa.float64()))
    fields = list(list_type.value_type)
    structs = pa.StructArray.from_arrays([columns[f.name] for f in fields], fields=fields)
    ends = np.cumsum([0, *(c.ends.size for c in comparisons)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), structs, type=list_type)


def _content(response: ScoredResponse) -> list[str]:
    """Thinking part and answer; both models' texts have to hold the same bytes.

    Raises:
        ValueError: they do not.
    """
    parts = [span_text(response.output, span) for span in response.output_spans]
    if parts != [span_text(response.text, span) for span in response.text_spans]:
        raise ValueError("text_spans: hold other content than output_spans")
    return parts


def _models(batch: RecordBatch[ScoredResponse], row: int) -> list[ModelTokens]:
    """A response as the teacher and the student tokenise it.

    Raises:
        ValueError: the response came without one model's log-probs.
    """
    response = batch.records[row]
    for field in ("tokens", "student_tokens"):
        if not getattr(response, field).token_ids:
            raise ValueError(f"{field}: is empty, this text came without log-probs")
    return [
        ModelTokens(response.text, response.text_spans, *batch.tokens("tokens", row)),
        ModelTokens(response.output, response.output_spans, *batch.tokens("student_tokens", row)),
    ]
