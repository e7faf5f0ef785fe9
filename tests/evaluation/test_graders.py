"""Graders: which answers are the same, and what counts as an answer."""

from collections.abc import Callable

import pytest

from megatron_dasd.config.sources import ReasoningGymTask
from megatron_dasd.errors import UserError
from megatron_dasd.evaluation.graders import answer_of, find_grader
from megatron_dasd.records import Prompt
from megatron_dasd.sources.prompts import task_prompts

MakePrompt = Callable[..., Prompt]


def in_form(answer: str) -> str:
    return f"<think>\nlet me see\n</think>\n\n{answer}"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (in_form("7"), "7"),
        (in_form("two\n\nlines \n"), "two\n\nlines"),
        ("<think>a</think>7", "7"),
        ("7", None),
        ("let me see</think>\n\n7", None),
        ("<think>\nlet me see", None),
        ("<think>\nlet me see\n</think>\n\n", None),
    ],
)
def test_only_the_normalised_form_has_an_answer(text: str, answer: str | None) -> None:
    assert answer_of(text) == answer


def test_exact_grader(make_prompt: MakePrompt) -> None:
    grade = find_grader(make_prompt(grader="exact", reference_answer="7"))
    assert grade(in_form("7.0")) == 1.0
    assert grade(in_form("8")) == 0.0
    assert grade("7") == 0.0


def test_reasoning_gym_grader_knows_its_own_answers() -> None:
    task = ReasoningGymTask(generator="countdown", size=3)
    for prompt in task_prompts(task, number=0, seed=1):
        grade = find_grader(prompt)
        assert prompt.reference_answer is not None
        assert grade(in_form(prompt.reference_answer)) == 1.0
        # another expression of the same numbers: the metadata are what it is checked against
        turned = f"({prompt.reference_answer})"
        assert grade(in_form(turned)) == 1.0
        assert grade(in_form("0")) < 1.0
        assert grade(prompt.reference_answer) == 0.0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"grader": "exact"}, "prompt p0: field reference_answer: is missing"),
        (
            {"grader": "vibes", "reference_answer": "7"},
            "prompt p0: field grader: 'vibes' is no known grader",
        ),
        (
            {"grader": "reasoning_gym:vibes", "reference_answer": "7"},
            "prompt p0: field grader: Dataset 'vibes' not registered",
        ),
        (
            {
                "grader": "reasoning_gym:chain_sum",
                "reference_answer": "7",
                "grader_metadata": "{",
            },
            "prompt p0: field grader_metadata: bad JSON",
        ),
    ],
)
def test_a_prompt_that_cannot_be_graded(
    make_prompt: MakePrompt, fields: dict[str, str], told: str
) -> None:
    with pytest.raises(UserError) as caught:
        find_grader(make_prompt(**fields))
    assert str(caught.value).startswith(told)
