"""Figures of a selection: counts and histograms of the candidates, kept and dropped."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_dasd.arrays import Bools, Floats, Ints
from megatron_dasd.divergence.candidates import Domains, Rows, group_numbers, strategy_scores
from megatron_dasd.divergence.provenance import CLASSES, TEACHER
from megatron_dasd.divergence.selection import best_of_each_group
from megatron_dasd.pages.figures import (
    ClassCounts,
    Confounding,
    ExampleFigures,
    GroupMeans,
    SelectionFigures,
    SentenceFigures,
)
from megatron_dasd.record_batches import read_batches
from megatron_dasd.records import SelectedResponse, Sentence
from megatron_dasd.records_io import record_files

GAP_EDGES = np.arange(-10, 11) / 10
"""Borders of the histogram of p_T - p_S."""
PROBABILITY_EDGES = np.arange(0, 51) / 50
"""Borders of the histogram of the responses' probabilities."""
MODELS = ("teacher", "student", "distilled")
NUM_EXAMPLES = 3
MOST_SENTENCES = 150
"""Sentences shown of an example; a long response has thousands."""


@dataclass
class GapHistograms:
    """Sentences by p_T - p_S, for each temperature."""

    counts: defaultdict[float, Ints] = field(
        default_factory=lambda: defaultdict(lambda: np.zeros(GAP_EDGES.size - 1, dtype=np.int64))
    )

    def add(self, temperature: float, probabilities: Floats) -> None:
        """Count the sentences of a response, ``[models, sentences]``."""
        gaps = probabilities[0] - probabilities[1]
        self.counts[temperature] += np.histogram(gaps, bins=GAP_EDGES)[0]

    def total(self) -> Ints:
        """[bins] over all temperatures."""
        return sum(self.counts.values(), np.zeros(GAP_EDGES.size - 1, dtype=np.int64))


@dataclass(frozen=True)
class Selection:
    """The candidates, and which of them are kept."""

    candidates: Rows
    kept: Bools
    """[candidates]"""
    domains: Domains
    gaps: GapHistograms


def collect(selection: Selection, has_distilled: bool, folder: Path) -> SelectionFigures:
    """Collect all figures; ``folder`` holds the selected responses, for the examples."""
    rows, kept, gaps = selection.candidates, selection.kept, selection.gaps
    names = CLASSES if has_distilled else CLASSES[:-1]
    models = MODELS if has_distilled else MODELS[:-1]
    temperatures = {f"{t:g}": rows["temperature"] == t for t in np.unique(rows["temperature"])}
    by_domain = {
        name: rows["domain"] == number for number, name in enumerate(selection.domains.names)
    }
    everything = np.ones(rows.size, dtype=np.bool_)
    return {
        "sentence_classes": _class_counts(rows, names),
        "sentence_classes_by_temperature": {
            t: _class_counts(rows[here], names) for t, here in temperatures.items()
        },
        "sentence_classes_by_domain": {
            domain: {
                t: _class_counts(rows[here & there], names)
                for t, there in temperatures.items()
                if (here & there).any()
            }
            for domain, here in sorted(by_domain.items())
        },
        "sentence_classes_kept": _class_counts(rows[kept], names),
        "sentence_classes_dropped": _class_counts(rows[~kept], names),
        **confounding(rows),
        "gap_histogram": {"edges": GAP_EDGES.tolist(), "counts": gaps.total().tolist()},
        "gap_histogram_by_temperature": {
            f"{t:g}": counts.tolist() for t, counts in sorted(gaps.counts.items())
        },
        "response_probability": {
            "edges": PROBABILITY_EDGES.tolist(),
            "counts": {
                t: {
                    which: _probability_counts(rows[here & mask], models)
                    for which, mask in (("all", everything), ("kept", kept), ("dropped", ~kept))
                }
                for t, here in temperatures.items()
            },
        },
        "kept_against_dropped": {
            t: {"kept": means(rows[here & kept]), "dropped": means(rows[here & ~kept])}
            for t, here in temperatures.items()
        },
        "examples": examples(folder),
    }


def _class_counts(rows: Rows, names: Sequence[str]) -> ClassCounts:
    totals = rows["classes"].sum(axis=0).tolist()
    return dict(zip(names, totals, strict=False))


def _probability_counts(rows: Rows, models: Sequence[str]) -> dict[str, list[int]]:
    values = rows["probabilities"]
    return {
        name: np.histogram(values[:, number], bins=PROBABILITY_EDGES)[0].tolist()
        for number, name in enumerate(models)
    }


def means(rows: Rows) -> GroupMeans:
    """Average the candidates."""
    teacher, sentences = rows["classes"][:, TEACHER], rows["classes"].sum(axis=1)
    shares = teacher / np.maximum(sentences, 1)
    return {
        "responses": rows.size,
        "teacher_sentences": _mean(teacher),
        "sentences": _mean(sentences),
        "teacher_share": _mean(shares),
        "teacher_tokens": _mean(rows["num_tokens"]),
        "teacher_probability": _mean(rows["probabilities"][:, 0].astype(np.float64)),
        "student_probability": _mean(rows["probabilities"][:, 1].astype(np.float64)),
    }


def _mean(values: npt.NDArray[np.number]) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def confounding(rows: Rows) -> Confounding:
    """Measure how often the first choice by ``count`` differs from the one by ``longest``.

    Longer responses tend to have more teacher sentences; if the choices were always the same,
    selection would only be by length.  Among short responses equal counts are common and the
    tie-break decides, hence the second share: the choice has more teacher sentences.
    """
    group = group_numbers(rows)
    compared = np.bincount(group)[group] >= 2
    num_groups, num_compared = np.unique(group).size, np.unique(group[compared]).size
    figures: Confounding = {
        "count_differs_from_longest": None,
        "count_exceeds_longest": None,
        "groups": num_groups,
        "groups_compared": num_compared,
    }
    if num_compared:
        rows, group = rows[compared], group[compared]
        count, longest = (
            best_of_each_group(strategy_scores(rows, name), rows["tie_break"], group, keep=1)
            for name in ("count", "longest")
        )
        differ = int((count & ~longest).sum())
        most, of_longest = (
            rows["classes"][best, TEACHER][np.argsort(group[best])] for best in (count, longest)
        )
        figures["count_differs_from_longest"] = differ / num_compared
        figures["count_exceeds_longest"] = int((most > of_longest).sum()) / num_compared
    return figures


def examples(folder: Path) -> list[ExampleFigures]:
    """The first selected responses, sentence by sentence, long ones cut."""
    chosen = (
        response
        for file in record_files(folder)
        for batch in read_batches(file, SelectedResponse)
        for response in batch.records
    )
    return [
        {
            "prompt": response.prompt.messages[-1].content,
            "domain": response.prompt.domain,
            "temperature": response.temperature,
            "num_sentences": len(response.sentences),
            "sentences": [_sentence(s) for s in response.sentences[:MOST_SENTENCES]],
        }
        for response in islice(chosen, NUM_EXAMPLES)
    ]


def _sentence(sentence: Sentence) -> SentenceFigures:
    return {
        "text": sentence.text,
        "provenance": sentence.provenance,
        "teacher_probability": sentence.teacher_probability,
        "student_probability": sentence.student_probability,
        "distilled_probability": sentence.distilled_probability,
    }
