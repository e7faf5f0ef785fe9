"""Graders of reasoning-gym's generators."""

import json

import pytest
import reasoning_gym

from megatron_dasd.evaluation.grading import contained
from megatron_dasd.evaluation.grading.generated import make_check


def test_scores_are_the_generators_own() -> None:
    check = make_check("spell_backward")
    entry = reasoning_gym.create_dataset("spell_backward", seed=1, size=1)[0]
    assert check(entry["answer"], entry["answer"], entry["metadata"]) == 1.0
    assert check("x", entry["answer"], entry["metadata"]) < 1.0


def test_scores_stay_between_0_and_1(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"half": 0.5, "double": 2.0, "less": -1.0}
    monkeypatch.setattr(
        reasoning_gym, "get_score_answer_fn", lambda name: lambda answer, entry: scores[answer]
    )
    check = make_check("spell_backward")
    assert [check(answer, "7", {}) for answer in scores] == [0.5, 1.0, 0.0]


def test_a_generators_grader_that_fails_has_not_found_it_right() -> None:
    grade = contained.prepare("reasoning_gym:rubiks_cube")
    with pytest.raises(KeyError):
        make_check("rubiks_cube")("what?", "R", {})
    assert contained.decode(grade(contained.encode("what?", "R", {}))) == 0.0


@pytest.mark.parametrize(
    ("generator", "reason"),
    [
        ("vibes", "Dataset 'vibes' not registered"),
        ("", "Dataset '' not registered"),
        ("composite", "'composite' cannot be graded by itself"),
    ],
)
def test_generators_that_do_not_grade(generator: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_check(generator)


def test_metadata_arrive_as_they_were_written() -> None:
    metadata = {"nan": float("nan"), "text": "\ud800\0", "big": 10**400, "deep": [[[{}]]]}
    answer, reference, arrived = json.loads(contained.encode("a", "b", metadata))
    assert (answer, reference) == ("a", "b")
    assert repr(arrived) == repr(metadata)
