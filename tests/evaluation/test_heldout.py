"""Held-out negative log-likelihood, worked out by hand on a few tokens."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from megatron_dasd.errors import UserError
from megatron_dasd.evaluation.heldout import heldout_figures
from megatron_dasd.records import Response, ScoredResponse, Span, TokenLogprobs

MakeScored = Callable[..., ScoredResponse]


@pytest.fixture
def make_scored(
    make_prompt: Callable[..., Any], make_response: Callable[..., Response]
) -> MakeScored:
    """Make a scored response of the student's log-probs."""

    def make(
        prompt_id: str, logprobs: list[float], split: str = "heldout", **fields: Any
    ) -> ScoredResponse:
        n = len(logprobs)
        response = make_response(
            "ab",
            ScoredResponse,
            prompt=make_prompt(prompt_id, split=split),
            output="<think>\na\n</think>\n\nb",
            output_spans=[Span(start=8, end=9), Span(start=20, end=21)],
            text_spans=[Span(start=0, end=1), Span(start=1, end=2)],
            student_tokens=TokenLogprobs(token_ids=[0] * n, num_bytes=[0] * n, logprobs=logprobs),
            student_model="student",
            **fields,
        )
        assert isinstance(response, ScoredResponse)
        return response

    return make


def test_nats_per_token_and_paired_change(make_scored: MakeScored) -> None:
    before = [
        make_scored("p0", [-2.0, -4.0]),
        make_scored("p0", [-3.0], candidate=1),
        make_scored("p1", [-1.0, -1.0, -1.0]),
        make_scored("p2", [-9.0], split="train"),
    ]
    after = [
        make_scored("p0", [-1.0, -3.0]),
        make_scored("p0", [-1.0], candidate=1),
        make_scored("p1", [-1.0, -0.5, -0.5]),
    ]
    figures = heldout_figures({"before": before, "stage1": after})
    # by prompt: 9 and 3 nats in 3 tokens each before, 5 and 2 after
    assert figures["heldout_nll"] == {"before": 2.0, "stage1": 7 / 6}
    # residuals of the ratio before: 9 - 6 = 3 and 3 - 6 = -3
    assert figures["heldout_nll_stderr"]["before"] == pytest.approx(math.sqrt(2 * 18 / 36))
    change = figures["heldout_nll_change"]["stage1"]
    # changes -4 and -1, ratio -5/6, residuals -1.5 and 1.5
    assert change["mean"] == pytest.approx(-5 / 6)
    assert change["stderr"] == pytest.approx(math.sqrt(2 * 4.5 / 36))
    assert figures["heldout_nll_change"].keys() == {"stage1"}
    assert figures["heldout_prompts"] == 2
    assert figures["heldout_responses"] == 3
    assert figures["heldout_tokens"] == 6


def test_the_order_of_the_responses_does_not_matter(make_scored: MakeScored) -> None:
    first = [make_scored("p0", [-2.0]), make_scored("p1", [-1.0, -1.0])]
    second = [make_scored("p1", [-1.0, -1.0]), make_scored("p0", [-2.0])]
    figures = heldout_figures({"before": first, "stage1": second})
    assert figures["heldout_nll_change"]["stage1"] == {"mean": 0.0, "stderr": 0.0}


def test_only_the_same_tokens_can_be_compared(make_scored: MakeScored) -> None:
    before = [make_scored("p0", [-2.0]), make_scored("p1", [-1.0])]
    for after in ([before[0]], [before[0], make_scored("p1", [-1.0, -1.0])]):
        with pytest.raises(UserError, match="heldout_scores.stage1: scores other responses"):
            heldout_figures({"before": before, "stage1": after})


def test_nothing_held_out(make_scored: MakeScored) -> None:
    with pytest.raises(UserError, match="heldout_scores.before: holds no held-out response"):
        heldout_figures({"before": [make_scored("p0", [-1.0], split="train")]})
