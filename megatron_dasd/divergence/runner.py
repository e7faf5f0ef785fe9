"""Stage select_das: keeps those of each prompt's candidates that teach most.

The inputs are read twice: once to compare the models on every candidate, which leaves a row of
numbers in memory, and once to write what was selected.  Candidates of one prompt may therefore lie
anywhere in the inputs.  A part of the result holds what was selected from one file, in order.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from megatron_dasd.arrays import Ints
from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.selection import SelectDas
from megatron_dasd.divergence import figures
from megatron_dasd.divergence.candidates import Domains, Rows, candidate_row, choose, to_rows
from megatron_dasd.divergence.distilled import DistilledTokens
from megatron_dasd.divergence.provenance import (
    CLASSES,
    Comparison,
    ModelTokens,
    classify,
    compare,
)
from megatron_dasd.divergence.report import write_report
from megatron_dasd.progress import progress
from megatron_dasd.record_batches import RecordBatch, read_batches
from megatron_dasd.records import ScoredResponse, SelectedResponse
from megatron_dasd.records_io import SetAside, arrow_schema, record_files
from megatron_dasd.text.thinking import span_text


def run(settings: SelectDas, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, object]:
    """Select; the figures describe all candidates and the selected ones."""
    selection = select(settings, inputs, folder)
    has_distilled = settings.distilled is not None
    found = figures.collect(selection, has_distilled, folder.path)
    write_report(folder, settings, found)
    return dict(found)


def select(
    settings: SelectDas, inputs: Mapping[str, Path], folder: StageFolder
) -> figures.Selection:
    """Compare the candidates, choose among them, and write the parts that are missing."""
    files = record_files(inputs[settings.responses])
    distilled = DistilledTokens.open(
        inputs[settings.distilled] if settings.distilled else None, files
    )
    surveys = [_Survey(index, file, settings, distilled) for index, file in enumerate(files)]
    domains, gaps = Domains(), figures.GapHistograms()
    rows = [to_rows([])]
    with progress("comparing", total=len(files), unit="files") as bar:
        for survey in surveys:
            rows.append(survey.rows(domains, gaps))
            bar.advance(1)
    candidates = np.concatenate(rows)
    kept = choose(candidates, settings)
    with progress("selecting", total=len(files), unit="files") as bar:
        for index, survey in enumerate(surveys):
            if not folder.has_part(index):
                here = candidates["file"] == index
                chosen = survey.chosen(set(candidates["record"][here & kept].tolist()))
                counts, aside = survey.aside.counts, survey.aside.rows
                counts["kept"] += chosen.num_rows
                counts["dropped: not selected"] += int(here.sum()) - chosen.num_rows
                folder.write_part(index, SelectedResponse, chosen, counts, aside)
            bar.advance(1)
    return figures.Selection(candidates, kept, domains, gaps)


class _Survey:
    """One file of candidates, each compared under the models."""

    def __init__(
        self, index: int, file: Path, settings: SelectDas, distilled: DistilledTokens | None
    ) -> None:
        self._index = index
        self._file = file
        self._settings = settings
        self._distilled = distilled
        self.aside = SetAside(settings.on_malformed)

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
        distilled = self._distilled.read_part(self._index) if self._distilled else None
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
