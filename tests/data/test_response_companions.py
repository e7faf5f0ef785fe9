"""Whose each token of a response is."""

import pytest

from megatron_dasd.data.response_companions import writers


@pytest.mark.parametrize(
    ("num_tokens", "num_prefix_tokens", "expected"),
    [
        (3, 0, [1, 1, 1]),
        (5, 2, [2, 2, 3, 3, 3]),
        (3, 3, [2, 2, 2]),  # a rollout that its cap has cut off
        (4, 3, [2, 2, 2, 2]),  # one that ended its turn itself
    ],
)
def test_writers(num_tokens: int, num_prefix_tokens: int, expected: list[int]) -> None:
    assert writers(num_tokens, num_prefix_tokens).tolist() == expected
