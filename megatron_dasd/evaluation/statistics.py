"""Means and their standard errors, with the values of one prompt as a cluster.

Tokens of one response, and responses to one prompt, are not independent draws; prompts are.  Every
standard error here therefore takes the prompt as the unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from megatron_dasd.evaluation.student_t import quantile_975


class EstimateFigures(TypedDict):
    """A mean with its standard error, as JSON values."""

    mean: float
    stderr: float | None


class IntervalFigures(TypedDict):
    """A mean with its 95 % interval, as JSON values."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error, which is None for fewer than two prompts."""

    mean: float
    stderr: float | None

    @property
    def figures(self) -> EstimateFigures:
        """As JSON values."""
        return {"mean": self.mean, "stderr": self.stderr}


def ratio_estimate(sums: Sequence[float], counts: Sequence[float]) -> Estimate:
    """Estimate the mean of values in clusters of unequal size: total sum over total count.

    Standard error by linearisation of the ratio R: with the residuals ``e_i = s_i - R n_i`` of k
    clusters, ``var(R) = k / (k - 1) * sum(e_i ** 2) / sum(n_i) ** 2`` (Cochran, Sampling
    Techniques, chapter 6).  Clusters of size 1 make it the standard error of a plain mean.

    Args:
        sums: [clusters] sum of a cluster's values.
        counts: [clusters] number of a cluster's values.

    Raises:
        ValueError: there are no values.
    """
    total_sums, total_counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    if not total_counts.sum() > 0:
        raise ValueError("counts: there are no values")
    ratio = total_sums.sum() / total_counts.sum()
    if total_counts.size < 2:
        return Estimate(float(ratio), None)
    residuals = total_sums - ratio * total_counts
    k = total_counts.size
    variance = k / (k - 1) * np.square(residuals).sum() / total_counts.sum() ** 2
    return Estimate(float(ratio), float(np.sqrt(variance)))


def interval(estimate: Estimate, num_units: int) -> IntervalFigures:
    """Compute the 95 % interval of an estimate over prompts, by Student's t.

    Without a standard error there are no bounds.

    Args:
        estimate: a mean with its standard error.
        num_units: prompts that it is taken over.
    """
    if estimate.stderr is None or num_units < 2:
        return {"mean": estimate.mean, "low": None, "high": None}
    half = quantile_975(num_units - 1) * estimate.stderr
    return {"mean": estimate.mean, "low": estimate.mean - half, "high": estimate.mean + half}


def mean_interval(values: Sequence[float]) -> IntervalFigures:
    """Compute the mean of values, one a unit, with its 95 % interval by Student's t."""
    return interval(ratio_estimate(values, [1] * len(values)), len(values))
