import math

import pytest
import torch

from megatron_dasd.engines.draws import draw_tokens, token_logprobs

# probabilities 0.1, 0.2, 0.3, 0.4
LOGITS = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()


def draw(uniform: float, temperature: float = 1.0, top_p: float = 1.0) -> int:
    """One draw, made as the second row of three to show that rows are apart."""
    return int(
        draw_tokens(
            torch.stack([LOGITS.flip(0), LOGITS + 5.0, LOGITS]),
            torch.tensor([0.5, temperature, 0.0]),
            torch.tensor([0.2, top_p, 1.0]),
            torch.tensor([0.99, uniform, 0.0], dtype=torch.float64),
        )[1]
    )


@pytest.mark.parametrize(
    ("uniform", "token"),
    [(0.0, 0), (0.09, 0), (0.11, 1), (0.31, 2), (0.59, 2), (0.61, 3), (0.999, 3)],
)
def test_inverse_of_the_cumulative_distribution(uniform: float, token: int) -> None:
    assert draw(uniform) == token


def test_temperature_sharpens() -> None:
    # at T = 0.5 the probabilities are squared: 1, 4, 9, 16 of 30
    assert [draw(u / 30, temperature=0.5) for u in (0.9, 1.1, 4.9, 5.1, 13.9, 14.1)] == [
        0, 1, 1, 2, 2, 3,
    ]  # fmt: skip


def test_temperature_zero_takes_the_likeliest() -> None:
    assert draw(0.0, temperature=0.0) == 3


def test_top_p_keeps_the_smallest_set_of_that_probability() -> None:
    # 0.4 and 0.3 hold 0.7 and so 0.6; what is left out gives its share to them
    assert [draw(u / 7, top_p=0.6) for u in (0.0, 2.9, 3.1, 6.9)] == [2, 2, 3, 3]
    assert draw(0.0, top_p=0.01) == 3


def test_an_impossible_token_is_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]])
    one = torch.ones(1)
    for uniform in (0.0, 1 - 2**-53):
        drawn = draw_tokens(logits, one, one, torch.tensor([uniform], dtype=torch.float64))
        assert drawn.tolist() == [1]


def test_logprobs_are_of_the_whole_untempered_distribution() -> None:
    logprobs = token_logprobs(torch.stack([LOGITS + 3.0, LOGITS]), torch.tensor([1, 3]))
    torch.testing.assert_close(logprobs, torch.tensor([math.log(0.2), math.log(0.4)]))
