import math

import numpy as np
import pytest

from megatron_dasd.data.weights import sequence_weights


def test_worked_out_by_hand() -> None:
    # p0: exp(-1), exp(-1 - ln 3): shares 3/4 and 1/4 of 2; p1 is alone
    logprobs = [-1.0, -7.0, -1.0 - math.log(3)]
    weights = sequence_weights(["p0", "p1", "p0"], logprobs, tau=1.0)
    assert weights.tolist() == pytest.approx([1.5, 1.0, 0.5])
    assert weights.dtype == np.float32


def test_tau_divides_the_differences() -> None:
    weights = sequence_weights(["p", "p"], [0.0, -math.log(3)], tau=0.5)
    assert weights.tolist() == pytest.approx([1.8, 0.2])


def test_a_large_tau_weighs_all_the_same() -> None:
    assert sequence_weights(["p", "p"], [-1.0, -9.0], tau=1e9).tolist() == pytest.approx([1, 1])


def test_the_likeliest_takes_all_but_the_others_still_count() -> None:
    weights = sequence_weights(["p"] * 3, [-1.0, -900.0, -2.0], tau=1e-3)
    assert weights[0] == pytest.approx(3.0)
    assert 0 < weights[1] < 1e-29


def test_weights_of_a_prompt_sum_to_its_responses() -> None:
    random = np.random.default_rng(0)
    prompts = [f"p{number}" for number in random.integers(0, 20, 200)]
    weights = sequence_weights(prompts, random.normal(-1, 1, 200).tolist(), tau=0.3)
    for prompt in set(prompts):
        own = [w for p, w in zip(prompts, weights.tolist(), strict=True) if p == prompt]
        assert sum(own) == pytest.approx(len(own), rel=1e-5)


def test_nothing_to_weigh() -> None:
    assert sequence_weights([], [], tau=1.0).shape == (0,)
