"""Exposure bias worked out by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from megatron_dasd.evaluation.exposure import exposure_figures
from megatron_dasd.records import Prompt, ScoredResponse, Span, TokenLogprobs

Score = Callable[..., ScoredResponse]


@pytest.fixture
def score(make_prompt: Callable[..., Prompt], make_response: Callable[..., Any]) -> Score:
    """A scored response of some log-probs, the first ``num_prefix`` of which are the student's."""

    def make(
        prompt_id: str, logprobs: list[float], num_prefix: int = 0, candidate: int = 0
    ) -> ScoredResponse:
        prefix = {"student_prefix": "x", "student_prefix_ids": [1] * num_prefix}
        tokens = TokenLogprobs(
            token_ids=[1] * len(logprobs), num_bytes=[0] * len(logprobs), logprobs=logprobs
        )
        response: ScoredResponse = make_response(
            "ab",
            ScoredResponse,
            prompt=make_prompt(prompt_id),
            candidate=candidate,
            output="xy",
            output_spans=[Span(start=0, end=1), Span(start=1, end=2)],
            text_spans=[],
            student_tokens=tokens,
            student_model="s",
            **(prefix if num_prefix else {}),
        )
        return response

    return make


def test_worked_out_by_hand(score: Score) -> None:
    """Half of each response lies before the cut."""
    mixed = [
        score("a", [-9.0, -9.0, -1.0, -3.0], num_prefix=2),
        score("a", [-9.0, -4.0], num_prefix=1, candidate=1),
        score("b", [-9.0, -2.0], num_prefix=1, candidate=1),
    ]
    own = [
        score("a", [-7.0, -7.0, -0.5, -1.5]),
        score("b", [-7.0, -7.0, -2.0, -3.0]),
        score("c", [-70.0]),
    ]
    figures = exposure_figures({"before": mixed}, {"before": own})["before"]
    # first draw: (1 + 3) / 2 - (0.5 + 1.5) / 2; second: (4 + 2) / 2 - (2 + 5) / 4
    assert figures["mean"] == pytest.approx((1.0 + 1.25) / 2)
    assert figures["spread"] == pytest.approx(0.25 / 2**0.5)
    assert figures["after_student"] == pytest.approx(10 / 4)
    assert figures["after_teacher"] == pytest.approx((2 + 2 + 5) / 6)
    assert (figures["num_draws"], figures["num_continuations"]) == (2, 3)


def test_one_draw_has_no_spread(score: Score) -> None:
    mixed = [score("a", [-9.0, -2.0], num_prefix=1)]
    figures = exposure_figures({"x": mixed}, {"x": [score("a", [-1.0, -1.0])]})["x"]
    assert figures["spread"] is None
    assert figures["mean"] == 1.0


def test_what_cannot_be_compared_is_left_out(score: Score) -> None:
    alone = [score("a", [-9.0, -2.0], num_prefix=1), score("b", [-1.0])]
    assert exposure_figures({"x": alone}, {"x": [score("b", [-1.0, -1.0])]}) == {}
    assert exposure_figures({"x": []}, {"x": []}) == {}


def test_something_of_the_teachers_is_left_after_every_cut(score: Score) -> None:
    mixed = [score("a", [-9.0] * 99 + [-2.0], num_prefix=99)]
    figures = exposure_figures({"x": mixed}, {"x": [score("a", [-3.0, -1.5])]})["x"]
    assert figures["after_teacher"] == 1.5
