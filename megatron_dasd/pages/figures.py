"""Figures that one stage writes into its manifest and the run's report reads."""

from collections.abc import Mapping
from typing import TypedDict

ClassCounts = Mapping[str, int]
"""Sentences by provenance class."""


class Histogram(TypedDict):
    """Counts of values in bins."""

    edges: list[float]
    """[bins + 1] borders."""
    counts: list[int]
    """[bins]"""


class SentenceFigures(TypedDict):
    """A sentence of a response; the fields of ``records.Sentence``."""

    text: str
    provenance: str
    teacher_probability: float
    student_probability: float
    distilled_probability: float | None
    """None before training."""


class ExampleFigures(TypedDict):
    """A selected response, sentence by sentence."""

    prompt: str
    """The last turn."""
    domain: str
    temperature: float
    num_sentences: int
    sentences: list[SentenceFigures]
    """The first ones."""


class GroupMeans(TypedDict):
    """Means over some responses; None without any."""

    responses: int
    """Their number."""
    teacher_sentences: float | None
    sentences: float | None
    teacher_share: float | None
    """Of the teacher's sentences among all."""
    teacher_tokens: float | None
    teacher_probability: float | None
    student_probability: float | None


class ResponseProbabilities(TypedDict):
    """Histograms of the geometric mean of a response's token probabilities."""

    edges: list[float]
    counts: dict[str, dict[str, dict[str, list[int]]]]
    """By temperature; by ``all``, ``kept`` and ``dropped``; by model: [bins]."""


class Confounding(TypedDict):
    """How often ``count`` and ``longest`` choose the same candidate; see docs/divergence.md."""

    count_differs_from_longest: float | None
    """Share of the compared groups; None without any."""
    count_exceeds_longest: float | None
    """Share in which the choice has more teacher sentences than the longest response."""
    groups: int
    """Prompts and temperatures."""
    groups_compared: int
    """Those with at least 2 candidates."""


class SelectionFigures(Confounding):
    """Content of ``report.json`` and of the manifest of ``select_das``."""

    sentence_classes: ClassCounts
    """Of all candidates."""
    sentence_classes_by_temperature: dict[str, ClassCounts]
    sentence_classes_by_domain: dict[str, dict[str, ClassCounts]]
    """By domain and temperature."""
    sentence_classes_kept: ClassCounts
    sentence_classes_dropped: ClassCounts
    gap_histogram: Histogram
    """p_T - p_S of the sentences."""
    gap_histogram_by_temperature: dict[str, list[int]]
    response_probability: ResponseProbabilities
    kept_against_dropped: dict[str, dict[str, GroupMeans]]
    """By temperature, ``kept`` and ``dropped``."""
    examples: list[ExampleFigures]
