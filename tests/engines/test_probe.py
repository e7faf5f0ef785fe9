import math

import pytest

from megatron_dasd.engines.base import GenerationRequest
from megatron_dasd.engines.probe import choose_probes, untempered

LOGPROBS = [-0.01, -0.4, -2.5, -1.2, -0.05, -3.0, -0.7, -0.3]
ROUNDING = [0.03, -0.05, 0.04, -0.02, 0.0, -0.06, 0.05, 0.01]


def test_rounding_is_let_pass() -> None:
    assert untempered(LOGPROBS, LOGPROBS)
    rounded = [value + error for value, error in zip(LOGPROBS, ROUNDING, strict=True)]
    assert untempered(rounded, LOGPROBS)


@pytest.mark.parametrize("share", [0.95, 0.9, 0.5])
def test_truncation_adds_the_same_to_every_token(share: float) -> None:
    truncated = [
        value - math.log(share) + error for value, error in zip(LOGPROBS, ROUNDING, strict=True)
    ]
    assert not untempered(truncated, LOGPROBS)


@pytest.mark.parametrize("temperature", [0.6, 0.8, 1.3])
def test_tempering_changes_the_size(temperature: float) -> None:
    # two tokens of probability p and 1 - p, each tempered
    tempered = []
    for value in LOGPROBS:
        p = math.exp(value)
        power, other = p ** (1 / temperature), (1 - p) ** (1 / temperature)
        tempered.append(math.log(power / (power + other)))
    assert not untempered(tempered, LOGPROBS)


def test_the_temperatures_furthest_from_one_are_asked() -> None:
    asked = [
        GenerationRequest(prompt="p", max_new_tokens=1, seed=i, temperature=t)
        for i, t in enumerate([1.0, 0.6, 1.0, 0.6, 0.8, 0.6, 1.2])
    ]
    assert [request.seed for request in choose_probes(asked)] == [1, 3, 5, 4]
