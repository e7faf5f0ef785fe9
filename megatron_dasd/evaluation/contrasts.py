"""Differences between arms of a study, paired by seed and by problem.

Seeds and problems are both drawn: an arm trained from another seed gives other answers to the same
problems, and other problems give other differences to the same students.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TypedDict

import numpy as np

from megatron_dasd.arrays import Floats
from megatron_dasd.evaluation.statistics import IntervalFigures
from megatron_dasd.evaluation.student_t import central_quantile, quantile_975, two_sided_p


class ContrastFigures(TypedDict):
    """An arm less its control."""

    difference: IntervalFigures
    stderr: float | None
    p: float | None
    """Two-sided, before any correction; None for one seed."""
    num_seeds: int
    num_problems: int


def contrast(arm: Floats, control: Floats) -> ContrastFigures:
    """Compare two arms.

    The variance of the mean is that of two-way clusters (Cameron, Gelbach and Miller, 2011): of the
    seeds' means, plus of the problems' means, less that of the single cells, and no less than that
    of the seeds' means alone.  Student's t has one degree of freedom less than there are seeds.

    Args:
        arm: [seeds, problems] share of right answers.
        control: the same seeds and problems.

    Raises:
        ValueError: the shapes differ, or there is nothing in them.
    """
    if arm.shape != control.shape or arm.ndim != 2 or not arm.size:
        raise ValueError(
            f"shapes {arm.shape} and {control.shape}: expected the same seeds, problems"
        )
    gains = arm - control
    num_seeds, num_problems = gains.shape
    mean = float(gains.mean())
    if num_seeds < 2 or num_problems < 2:
        nothing: IntervalFigures = {"mean": mean, "low": None, "high": None}
        return {
            "difference": nothing,
            "stderr": None,
            "p": None,
            "num_seeds": num_seeds,
            "num_problems": num_problems,
        }
    of_seeds = float(gains.mean(axis=1).var(ddof=1)) / num_seeds
    of_problems = float(gains.mean(axis=0).var(ddof=1)) / num_problems
    of_cells = float(gains.var(ddof=1)) / gains.size
    stderr = sqrt(max(of_seeds + of_problems - of_cells, of_seeds))
    half = quantile_975(num_seeds - 1) * stderr
    sure = 0.0 if mean else 1.0  # where nothing varies
    return {
        "difference": {"mean": mean, "low": mean - half, "high": mean + half},
        "stderr": stderr,
        "p": two_sided_p(mean / stderr, num_seeds - 1) if stderr else sure,
        "num_seeds": num_seeds,
        "num_problems": num_problems,
    }


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Correct p-values of several comparisons by Holm's method (1979).

    Returns:
        By name, the level at which the comparison would still be rejected.
    """
    corrected: dict[str, float] = {}
    highest = 0.0
    for number, name in enumerate(sorted(p_values, key=lambda one: p_values[one])):
        highest = max(highest, min(1.0, (len(p_values) - number) * p_values[name]))
        corrected[name] = highest
    return corrected


def smallest_effect(
    num_seeds: int, num_problems: int, num_samples: int, accuracy: float, between_seeds: float
) -> float:
    """The smallest true difference that is found with a probability of 80 %, at a level of 5 %.

    To be computed before any arm is run, from assumptions alone: answers to a problem are
    independent given its accuracy, which is the same in both arms, and the arms' accuracies differ
    from seed to seed.

    Args:
        num_seeds: seeds an arm.
        num_problems: problems that every seed answers.
        num_samples: answers to each.
        accuracy: assumed for both arms.
        between_seeds: assumed standard deviation of an arm's accuracy over its seeds.
    """
    of_answers = accuracy * (1 - accuracy) / (num_problems * num_samples)
    stderr = sqrt(2 * (between_seeds**2 + of_answers) / num_seeds)
    degrees = num_seeds - 1
    return (central_quantile(0.95, degrees) + central_quantile(0.60, degrees)) * stderr


def accuracy_table(right: Sequence[Sequence[int]], num_samples: int) -> Floats:
    """Shares of right answers, [seeds, problems], of the numbers of right answers."""
    return np.asarray(right, dtype=np.float64) / num_samples
