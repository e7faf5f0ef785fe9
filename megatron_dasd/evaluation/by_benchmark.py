"""Figures of models on benchmarks: the questions are the unit.

The mean of a question's answers is that question's accuracy, and a model's is the mean over the
questions.  Its uncertainty has two readings.  For **these questions** only the answers are drawn
again: the variance within the questions alone counts.  For **new questions** of the same kind the
questions are drawn too: the spread between them counts, with Student's t, since there may be 30.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import TypedDict

from megatron_dasd.benchmarks.table import BENCHMARKS
from megatron_dasd.evaluation.accuracy import SubsetFigures, subset_figures, verdict
from megatron_dasd.evaluation.statistics import IntervalFigures, mean_interval
from megatron_dasd.evaluation.student_t import quantile_975
from megatron_dasd.records import Graded

Marks = Mapping[str, Sequence[bool]]
"""Which answers are right, by question."""


class ModelFigures(SubsetFigures):
    """One model on one benchmark; shares are of all answers."""

    these_questions: IntervalFigures
    new_questions: IntervalFigures
    num_questions: int
    num_answers: int
    no_answer: float
    cut_off: float
    """By the limit of tokens."""
    mean_tokens: float
    median_tokens: float
    longest_tokens: int
    failures: dict[str, int]
    """Answers by why the grader gave no verdict, or why a program does not pass."""


class PairFigures(TypedDict):
    """A model less the first one, question by question, over the questions that both answered."""

    difference: IntervalFigures
    """For new questions."""
    num_better: int
    num_same: int
    num_worse: int


class BenchmarkFigures(TypedDict):
    """One benchmark."""

    title: str
    models: dict[str, ModelFigures]
    to_first: dict[str, PairFigures]
    """By model, the first left out."""
    questions: dict[str, dict[str, list[int]]]
    """By question and model: right answers, and all answers."""


def benchmark_figures(answers: Iterable[Graded]) -> dict[str, BenchmarkFigures]:
    """Compute the figures of every benchmark and model."""
    found: dict[str, dict[str, list[Graded]]] = {}
    for one in answers:
        found.setdefault(one.prompt.domain, {}).setdefault(one.model, []).append(one)
    return {name: _benchmark(name, by_model) for name, by_model in found.items()}


def _benchmark(name: str, by_model: Mapping[str, Sequence[Graded]]) -> BenchmarkFigures:
    marks = {model: question_marks(given) for model, given in by_model.items()}
    first, *others = marks
    questions: dict[str, dict[str, list[int]]] = {}
    for model, by_question in marks.items():
        for question, right in by_question.items():
            short = question.removeprefix(f"{name}/")
            questions.setdefault(short, {})[model] = [sum(right), len(right)]
    return {
        "title": BENCHMARKS[name].title,
        "models": {model: _model(given, marks[model]) for model, given in by_model.items()},
        "to_first": {model: compared(marks[model], marks[first]) for model in others},
        "questions": questions,
    }


def question_marks(given: Iterable[Graded]) -> dict[str, list[bool]]:
    """Which answers of a model are right, by question."""
    marks: defaultdict[str, list[bool]] = defaultdict(list)
    for one in given:
        marks[one.prompt.prompt_id].append(verdict(one) == "right")
    return dict(marks)


def _model(given: Sequence[Graded], marks: Marks) -> ModelFigures:
    lengths = [one.num_tokens for one in given]
    subsets = subset_figures(given)
    if given[0].prompt.grader == "code":  # hardly two programs are alike, so none has a majority
        subsets["majority_at"] = {}
    return {
        **subsets,
        "these_questions": these_questions(marks),
        "new_questions": mean_interval([statistics.fmean(one) for one in marks.values()]),
        "num_questions": len(marks),
        "num_answers": len(given),
        "no_answer": sum(verdict(one) == "no answer" for one in given) / len(given),
        "cut_off": sum(one.finish_reason == "length" for one in given) / len(given),
        "mean_tokens": statistics.fmean(lengths),
        "median_tokens": statistics.median(lengths),
        "longest_tokens": max(lengths),
        "failures": dict(Counter(one.failure for one in given if one.failure)),
    }


def these_questions(marks: Marks) -> IntervalFigures:
    """The mean over the questions, with the interval for other answers to them.

    The variance is ``sum(s_q ** 2 / k_q) / Q ** 2`` with the sample variance ``s_q ** 2`` of the
    ``k_q`` answers to each of Q questions; a question with one answer leaves it unknown.
    """
    mean = statistics.fmean(statistics.fmean(right) for right in marks.values())
    degrees = sum(len(right) - 1 for right in marks.values())
    if any(len(right) < 2 for right in marks.values()):
        return {"mean": mean, "low": None, "high": None}
    variance = sum(statistics.variance(map(float, right)) / len(right) for right in marks.values())
    half = quantile_975(degrees) * sqrt(variance) / len(marks)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def compared(model: Marks, first: Marks) -> PairFigures:
    """Compare two models question by question.

    Raises:
        ValueError: they have no question in common.
    """
    gains = [
        statistics.fmean(model[question]) - statistics.fmean(first[question])
        for question in model
        if question in first
    ]
    if not gains:
        raise ValueError("the two models have no question in common")
    return {
        "difference": mean_interval(gains),
        "num_better": sum(gain > 0 for gain in gains),
        "num_same": sum(gain == 0 for gain in gains),
        "num_worse": sum(gain < 0 for gain in gains),
    }
