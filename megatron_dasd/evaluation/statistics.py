"""Means and their standard errors, with the values of one prompt as a cluster.

Tokens of one response, and responses to one prompt, are not independent draws; prompts are.  Every
standard error here therefore takes the prompt as the unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np


class EstimateFigures(TypedDict):
    """A mean with its standard error, as JSON values."""

    mean: float
    stderr: float | None


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
