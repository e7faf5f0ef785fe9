"""Paired differences between arms, Holm's correction, the smallest visible effect."""

import numpy as np
import pytest

from megatron_dasd.evaluation.contrasts import accuracy_table, contrast, holm, smallest_effect


def test_by_hand() -> None:
    # gains [[1, 0], [1, 1]]: mean 3/4; seeds' means 1/2, 1; problems' means 1, 1/2; cells' 1/4
    arm, control = np.array([[1.0, 0.0], [1.0, 1.0]]), np.zeros((2, 2))
    found = contrast(arm, control)
    # of seeds (1/8)/2, of problems (1/8)/2, less of cells (1/4)/4: 1/16
    assert found["stderr"] == pytest.approx(0.25)
    assert found["difference"] == pytest.approx(
        {"mean": 0.75, "low": 0.75 - 12.706205 * 0.25, "high": 0.75 + 12.706205 * 0.25}
    )
    assert found["p"] == pytest.approx(1 - 2 / np.pi * np.arctan(3.0))  # Cauchy
    assert (found["num_seeds"], found["num_problems"]) == (2, 2)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered, num_draws = 0, 600
    for _ in range(num_draws):
        of_seed = rng.normal(0, 0.05, (8, 1))
        of_problem = rng.normal(0, 0.3, (1, 40))
        gains = 0.1 + of_seed + of_problem + rng.normal(0, 0.3, (8, 40))
        found = contrast(gains, np.zeros((8, 40)))["difference"]
        assert found["low"] is not None
        assert found["high"] is not None
        covered += found["low"] <= 0.1 <= found["high"]
    assert 0.93 <= covered / num_draws <= 0.99


def test_one_seed_has_no_interval_and_shapes_must_agree() -> None:
    found = contrast(np.ones((1, 3)), np.zeros((1, 3)))
    assert found["difference"] == {"mean": 1.0, "low": None, "high": None}
    assert found["p"] is None
    same = contrast(np.ones((3, 3)), np.ones((3, 3)))
    assert (same["p"], same["stderr"]) == (1.0, 0.0)
    with pytest.raises(ValueError, match="expected the same"):
        contrast(np.ones((2, 3)), np.ones((2, 4)))
    assert accuracy_table([[4, 1]], 4).tolist() == [[1.0, 0.25]]


def test_holm() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


def test_the_smallest_effect_is_found_four_times_of_five() -> None:
    effect = smallest_effect(8, 1000, 4, 0.5, 0.02)
    # seven degrees: 2.3646 + 0.8960 standard errors of sqrt(2 (0.0004 + 1/16000) / 8)
    assert effect == pytest.approx(
        (2.3646 + 0.8960) * np.sqrt(2 * (0.0004 + 0.0000625) / 8), rel=1e-4
    )
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        arm = 0.5 + effect + rng.normal(0, 0.02, (8, 1)) + rng.normal(0, 0.25, (8, 1000))
        control = 0.5 + rng.normal(0, 0.02, (8, 1)) + rng.normal(0, 0.25, (8, 1000))
        p = contrast(arm, control)["p"]
        assert p is not None
        hits += p < 0.05
    assert 0.72 <= hits / 400 <= 0.88
