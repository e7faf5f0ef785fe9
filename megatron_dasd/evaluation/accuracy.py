"""Accuracy of models on graded answers."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, TypedDict

from megatron_dasd.benchmarks.questions import last_boxed
from megatron_dasd.evaluation.graders import answer_of
from megatron_dasd.evaluation.grading.choice import letter_of
from megatron_dasd.evaluation.statistics import (
    EstimateFigures,
    IntervalFigures,
    interval,
    ratio_estimate,
)
from megatron_dasd.evaluation.subsets import majority_at, pass_at
from megatron_dasd.records import Graded


class SubsetFigures(TypedDict):
    """What k answers of a model are worth together, by k; the prompts' mean."""

    pass_at: dict[str, EstimateFigures]
    """The chance that one of the k answers is right."""
    majority_at: dict[str, EstimateFigures]
    """The chance that the one given most often is right; see :func:`vote_of`."""


class AccuracyFigures(SubsetFigures):
    """Accuracy of one model."""

    accuracy: EstimateFigures
    difference: EstimateFigures
    """To the first model's accuracy, paired by prompt."""
    answered: float
    """Share of texts in the normalised form; the others hold no answer."""
    cut_off: float
    """Share of texts that the limit of tokens cut off."""
    mean_tokens: float
    num_prompts: int
    num_answers: int


def verdict(graded: Graded) -> Literal["right", "wrong", "no answer"]:
    """Judge one answer; an answer is right when its grader gives the full score."""
    if answer_of(graded.text) is None:
        return "no answer"
    return "right" if graded.score == 1.0 else "wrong"


def accuracies(answers: Iterable[Graded]) -> dict[str, AccuracyFigures]:
    """Compute the accuracy of every model, and its difference to the first model's.

    Returns:
        Figures by model.
    """
    by_model: defaultdict[str, list[Graded]] = defaultdict(list)
    for answer in answers:
        by_model[answer.model].append(answer)
    figures: dict[str, AccuracyFigures] = {}
    first: dict[str, int] | None = None
    for name, given in by_model.items():
        asked = Counter(one.prompt.prompt_id for one in given)
        right = dict.fromkeys(asked, 0)
        for one in given:
            right[one.prompt.prompt_id] += verdict(one) == "right"
        first = first or right
        counts = list(asked.values())
        gains = [right[prompt_id] - first[prompt_id] for prompt_id in asked]
        figures[name] = {
            "accuracy": ratio_estimate(list(right.values()), counts).figures,
            "difference": ratio_estimate(gains, counts).figures,
            "answered": sum(verdict(one) != "no answer" for one in given) / len(given),
            "cut_off": sum(one.finish_reason == "length" for one in given) / len(given),
            **subset_figures(given),
            "mean_tokens": sum(one.num_tokens for one in given) / len(given),
            "num_prompts": len(asked),
            "num_answers": len(given),
        }
    return figures


SUBSET_SIZES = (2, 4, 8, 16, 32)
"""Numbers of answers k that pass@k and majority@k are estimated for, as far as there are more."""


def vote_of(graded: Graded) -> str | None:
    """What an answer votes for: a letter, what its last ``\\boxed{}`` holds, else all of it.

    Answers vote for the same where this is the same but for space.  None: there is no answer.
    """
    answer = answer_of(graded.text)
    if answer is None:
        return None
    letter = letter_of(answer) if graded.prompt.grader == "choice" else None
    return letter or "".join((last_boxed(answer) or answer).split())


def subset_figures(given: Sequence[Graded]) -> SubsetFigures:
    """Estimate pass@k and majority@k of one model for each k below every prompt's answers."""
    votes: defaultdict[str, Counter[tuple[str | None, bool]]] = defaultdict(Counter)
    for one in given:
        votes[one.prompt.prompt_id][vote_of(one), verdict(one) == "right"] += 1
    sizes = [k for k in SUBSET_SIZES if all(k < counts.total() for counts in votes.values())]
    passes: dict[str, EstimateFigures] = {}
    majorities: dict[str, EstimateFigures] = {}
    for k in sizes:
        passed, won = [], []
        for counts in votes.values():
            right = [number for (_, is_right), number in counts.items() if is_right]
            wrong = [
                number
                for (words, is_right), number in counts.items()
                if words is not None and not is_right
            ]
            passed.append(pass_at(sum(right), counts.total(), k))
            won.append(majority_at(right, wrong, counts.total(), k))
        ones = [1] * len(votes)
        passes[str(k)] = ratio_estimate(passed, ones).figures
        majorities[str(k)] = ratio_estimate(won, ones).figures
    return {"pass_at": passes, "majority_at": majorities}


Marks = dict[str, dict[tuple[str, int], bool]]
"""Whether an answer is right, by model and by prompt and number of the sample."""
TEACHER, BEFORE = "teacher", "before"
"""Names of the models between which a student's gain is measured."""


class GainFigures(TypedDict):
    """What training did to the accuracy, with 95 % intervals."""

    gain: IntervalFigures | None
    """Of the last student over the middle between the teacher and the student before training;
    above 0, the student has come more than half of the way.  None: one of them was not asked."""
    stage_gains: dict[str, IntervalFigures]
    """Of each student over the one before it."""


def right_marks(answers: Iterable[Graded]) -> Marks:
    """Collect which answers are right."""
    marks: defaultdict[str, dict[tuple[str, int], bool]] = defaultdict(dict)
    for answer in answers:
        marks[answer.model][answer.prompt.prompt_id, answer.sample] = verdict(answer) == "right"
    return dict(marks)


def gain_figures(marks: Marks, students: Sequence[str]) -> GainFigures:
    """Compute what each training stage did, and all of them.

    Args:
        students: in the order in which they were trained.
    """
    asked = [name for name in students if name in marks]
    gain = None
    if asked and {TEACHER, BEFORE} <= marks.keys() and asked[-1] != BEFORE:
        gain = contrast(marks, {asked[-1]: 1.0, TEACHER: -0.5, BEFORE: -0.5})
    steps = {
        after: contrast(marks, {after: 1.0, earlier: -1.0}) for earlier, after in pairwise(asked)
    }
    return {"gain": gain, "stage_gains": {name: one for name, one in steps.items() if one}}


def contrast(marks: Marks, weights: Mapping[str, float]) -> IntervalFigures | None:
    """Estimate a weighted sum of models' accuracies, paired by answer and clustered by prompt.

    Args:
        weights: by model; 1 and -1 give the difference of two models.

    Returns:
        The mean with its 95 % interval, over the answers that all of the models gave; None when
        there are none.
    """
    shared = set.intersection(*(set(marks[model]) for model in weights))
    sums: defaultdict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for prompt_id, sample in sorted(shared):
        right = (weight * marks[name][prompt_id, sample] for name, weight in weights.items())
        sums[prompt_id] += sum(right)
        counts[prompt_id] += 1
    if not counts:
        return None
    return interval(ratio_estimate(list(sums.values()), list(counts.values())), len(counts))
