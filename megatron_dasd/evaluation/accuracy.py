"""Accuracy of models on graded answers."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Literal, TypedDict

from megatron_dasd.evaluation.graders import answer_of
from megatron_dasd.evaluation.statistics import EstimateFigures, ratio_estimate
from megatron_dasd.records import Graded


class AccuracyFigures(TypedDict):
    """Accuracy of one model."""

    accuracy: EstimateFigures
    difference: EstimateFigures
    """To the first model's accuracy, paired by prompt."""
    answered: float
    """Share of answers in the normalised form."""
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
            "mean_tokens": sum(one.num_tokens for one in given) / len(given),
            "num_prompts": len(asked),
            "num_answers": len(given),
        }
    return figures
