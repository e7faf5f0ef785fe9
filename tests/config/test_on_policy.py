"""Settings of rounds: what a training stage with a worker refers to, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from megatron_dasd.config.on_policy import OnPolicy
from megatron_dasd.config.pipeline import references, resolved
from megatron_dasd.config.training import Train

STAGES: dict[str, dict[str, Any]] = {
    "rollouts": {
        "kind": "roll_out_student",
        "model": "weights",
        "responses": "select",
        "max_prompts": 8,
    },
    "filter": {
        "kind": "filter_responses",
        "responses": ["rollouts"],
        "student": "student",
        "max_length": 64,
        "benchmarks": ["bench.txt"],
    },
    "data": {
        "kind": "preprocess_data",
        "model": "student",
        "responses": "filter",
        "seq_length": 64,
        "num_workers": 3,
    },
}
TOP = {"kind": "score_topk", "data": "data", "model": "student", "teacher": "teacher"}


def train(stages: dict[str, Any], **changes: Any) -> Train:
    given = {"model": "student", "checkpoint": "stage2", "data": "high", **changes}
    return Train(kind="train", on_policy={"stages": stages}, **given)


def test_a_stage_reads_what_its_rounds_read() -> None:
    settings = train({**STAGES, "top": TOP})
    assert references(settings) == [
        *("student", "stage2", "high"),
        *("select", "bench.txt", "teacher"),  # not weights, nor the round's own stages
    ]


def test_references_are_given_other_places() -> None:
    stage = train(STAGES).inner_stages["filter"]
    found = resolved(stage, {"rollouts": Path("/round/rollouts"), "student": Path("/run/student")})
    assert references(found) == ["/round/rollouts", "/run/student", "bench.txt"]
    assert references(stage) == ["rollouts", "student", "bench.txt"]


def test_how_rounds_are_made_is_no_part_of_the_identity() -> None:
    def with_workers(number: int) -> dict[str, Any]:
        return train({**STAGES, "data": STAGES["data"] | {"num_workers": number}}).identity()

    assert with_workers(1) == with_workers(2)
    longer = {**STAGES, "data": STAGES["data"] | {"seq_length": 128}}
    assert train(longer).identity() != train(STAGES).identity()


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        ({"rollouts": STAGES["rollouts"]}, "expected one preprocess_data"),
        ({**STAGES, "more": STAGES["data"]}, "expected one preprocess_data"),
        ({**STAGES, "top": TOP, "more": TOP}, "expected one score_topk at most"),
        ({**STAGES, "weights": STAGES["data"]}, "stages.weights: that is the training's weights"),
        (
            {**STAGES, "rollouts": STAGES["rollouts"] | {"model": "other"}},
            "expected a roll_out_student with model: weights",
        ),
        (
            {**STAGES, "rollouts": STAGES["rollouts"] | {"max_prompts": None}},
            "stages.rollouts: give max_prompts",
        ),
    ],
)
def test_what_is_no_round_is_refused(stages: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        OnPolicy(stages=stages)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="on_policy and ramp_data both"):
        train(STAGES, ramp_data="other")
    with pytest.raises(ValidationError, match="teacher_topk needs chunked_loss"):
        train({**STAGES, "top": TOP}, chunked_loss=False)
    with pytest.raises(ValidationError, match="loss_gradients: forward needs"):
        train({**STAGES, "top": TOP}, loss_gradients="forward")
    assert train(STAGES, loss_gradients="forward").distils is False
    assert train({**STAGES, "top": TOP}).distils is True
