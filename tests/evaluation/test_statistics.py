"""Means and standard errors, against values worked out by hand."""

import math

import numpy as np
import pytest

from megatron_dasd.evaluation.statistics import ratio_estimate


def test_clusters_of_one_give_the_mean_and_its_standard_error() -> None:
    estimate = ratio_estimate([1.0, 2.0, 6.0], [1, 1, 1])
    # mean 3, deviations -2, -1, 3: variance 14 / 2 = 7, of the mean 7 / 3
    assert estimate.mean == 3.0
    assert estimate.stderr == pytest.approx(math.sqrt(7 / 3), rel=1e-12)


def test_clusters_of_unequal_size() -> None:
    estimate = ratio_estimate([3.0, 3.0], [1, 2])
    # ratio 6 / 3 = 2; residuals 3 - 2 = 1 and 3 - 4 = -1; 2 / 1 * (1 + 1) / 3 ** 2
    assert estimate.mean == 2.0
    assert estimate.stderr == pytest.approx(2 / 3, rel=1e-12)


def test_one_cluster_has_no_standard_error() -> None:
    assert ratio_estimate([4.0], [2]).mean == 2.0
    assert ratio_estimate([4.0], [2]).stderr is None


def test_no_values() -> None:
    with pytest.raises(ValueError, match="counts: there are no values"):
        ratio_estimate([], [])


def test_equal_clusters_are_certain() -> None:
    assert ratio_estimate([2.0, 4.0, 6.0], [1, 2, 3]).stderr == 0.0


def test_the_standard_error_is_the_spread_of_repeated_draws() -> None:
    rng = np.random.default_rng(0)
    means, stderrs = [], []
    for _ in range(400):
        sizes = rng.integers(1, 9, size=60)
        level = rng.normal(size=60)  # what the values of a cluster have in common
        sums = [rng.normal(level[i], 0.3, sizes[i]).sum() for i in range(60)]
        estimate = ratio_estimate(sums, sizes.tolist())
        assert estimate.stderr is not None
        means.append(estimate.mean)
        stderrs.append(estimate.stderr)
    assert np.mean(stderrs) == pytest.approx(np.std(means), rel=0.1)
