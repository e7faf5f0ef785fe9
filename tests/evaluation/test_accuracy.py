"""Accuracy and its standard errors, worked out by hand."""

from collections.abc import Callable

import pytest

from megatron_dasd.evaluation.accuracy import (
    GainFigures,
    Marks,
    accuracies,
    contrast,
    gain_figures,
    right_marks,
)
from megatron_dasd.records import Graded, Prompt


def test_accuracies(make_prompt: Callable[..., Prompt]) -> None:
    def answer(model: str, prompt_id: str, sample: int, score: float, answered: bool) -> Graded:
        return Graded(
            prompt=make_prompt(prompt_id),
            model=model,
            sample=sample,
            text="<think>\nx\n</think>\n\ny" if answered else "y",
            score=score,
            num_tokens=10,
            finish_reason="stop",
        )

    figures = accuracies(
        [
            answer("before", "p0", 0, 0.0, True),
            answer("before", "p0", 1, 0.5, True),  # partly right is not right
            answer("before", "p1", 0, 0.0, False),
            answer("before", "p1", 1, 1.0, True),
            answer("after", "p0", 0, 1.0, True),
            answer("after", "p0", 1, 1.0, True),
            answer("after", "p1", 0, 0.0, True),
            answer("after", "p1", 1, 1.0, True),
        ]
    )
    # before: 0 and 1 right of 2 each; residuals -0.5, 0.5: 2 * 0.5 / 16
    assert figures["before"]["accuracy"] == {"mean": 0.25, "stderr": 0.25}
    assert figures["before"]["answered"] == 0.75
    assert figures["after"]["accuracy"] == {"mean": 0.75, "stderr": 0.25}
    # gains 2 and 0 of 2 each; residuals 1, -1: 2 * 2 / 16
    assert figures["after"]["difference"] == {"mean": 0.5, "stderr": 0.5}


def test_several_answers_to_a_question(make_prompt: Callable[..., Prompt]) -> None:
    def answer(prompt_id: str, sample: int, words: str | None, cut_off: bool = False) -> Graded:
        return Graded(
            prompt=make_prompt(prompt_id),
            model="m",
            sample=sample,
            text="x" if words is None else f"<think>\nx\n</think>\n\n{words}",
            score=float(words == "7"),
            num_tokens=10,
            finish_reason="length" if cut_off else "stop",
        )

    given = {"p0": ["7", "7", "8", None], "p1": ["8", "8", "8", "7"]}
    answers = [
        answer(name, sample, words, cut_off=words is None)
        for name, row in given.items()
        for sample, words in enumerate(row)
    ]
    figures = accuracies(answers)["m"]
    assert figures["cut_off"] == 1 / 8
    # pairs of p0: 5 of 6 hold a 7; in 3 it wins, in 2 it ties with 8.  Of p1: 3 of 6, all ties
    assert figures["pass_at"] == {
        "2": {"mean": pytest.approx(2 / 3), "stderr": pytest.approx(1 / 6)}
    }
    assert figures["majority_at"]["2"]["mean"] == pytest.approx((4 / 6 + 1.5 / 6) / 2)
    # with fewer answers to any prompt, there are none of which pairs could be drawn
    assert accuracies(answers[:6])["m"]["pass_at"] == {}


def marks(**by_model: list[list[bool]]) -> Marks:
    """Marks of models whose answers are given by prompt and sample."""
    return {
        name: {
            (f"p{prompt}", sample): right
            for prompt, samples in enumerate(answers)
            for sample, right in enumerate(samples)
        }
        for name, answers in by_model.items()
    }


def test_gain_over_the_middle_between_teacher_and_before() -> None:
    found = gain_figures(
        marks(
            before=[[False, False], [False, True]],
            stage1=[[True, False], [False, True]],
            stage2=[[True, True], [False, True]],
            teacher=[[True, True], [True, True]],
        ),
        ["before", "stage1", "stage2", "stage3"],
    )
    # a prompt's two answers: p0 gives 1 - 1/2 twice, p1 gives -1/2 and 1 - 1/2 - 1/2
    # sums 1 and -1/2 of 2 answers each, mean 1/8; residuals 3/4 and -3/4: 2 * 9/8 / 16
    assert found["gain"] == pytest.approx(
        {"mean": 0.125, "low": 0.125 - 12.706205 * 0.375, "high": 0.125 + 12.706205 * 0.375}
    )
    # stage1: 1 and 0 of 2, mean 1/4; residuals 1/2 and -1/2: 2 * 1/2 / 16
    assert found["stage_gains"] == {
        name: pytest.approx(
            {"mean": 0.25, "low": 0.25 - 12.706205 * 0.25, "high": 0.25 + 12.706205 * 0.25}
        )
        for name in ("stage1", "stage2")
    }


def test_only_answers_that_all_gave_are_paired() -> None:
    one = marks(after=[[True], [True]], before=[[False]])
    assert contrast(one, {"after": 1.0, "before": -1.0}) == {"mean": 1.0, "low": None, "high": None}
    assert contrast({"after": {("p0", 0): True}, "before": {}}, {"after": 1, "before": -1}) is None
    nothing: GainFigures = {"gain": None, "stage_gains": {}}
    assert gain_figures(marks(before=[[True]], teacher=[[True]]), ["before"]) == nothing
    assert gain_figures({}, ["before", "stage1"]) == nothing


def test_marks_tell_right_from_partly_right(make_prompt: Callable[..., Prompt]) -> None:
    def answer(model: str, score: float) -> Graded:
        return Graded(
            prompt=make_prompt("p0"),
            model=model,
            sample=3,
            text="<think>\nx\n</think>\n\ny",
            score=score,
            num_tokens=10,
            finish_reason="stop",
        )

    assert right_marks([answer("a", 1.0), answer("b", 0.5)]) == {
        "a": {("p0", 3): True},
        "b": {("p0", 3): False},
    }
