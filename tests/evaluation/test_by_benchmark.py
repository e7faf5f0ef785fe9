"""Figures by benchmark, worked out by hand, and the page that shows them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.evaluation import Evaluate
from megatron_dasd.evaluation.accuracy import vote_of
from megatron_dasd.evaluation.benchmark_page import write_page
from megatron_dasd.evaluation.by_benchmark import benchmark_figures, compared, these_questions
from megatron_dasd.json_values import read_object
from megatron_dasd.records import Graded, Prompt

MakePrompt = Callable[..., Prompt]
T1, T2 = 12.706205, 4.302653
"""Quantiles of one and two degrees of freedom."""
SECRET = "words of a made-up private question"


@pytest.fixture
def graded(make_prompt: MakePrompt) -> Callable[..., Graded]:
    def make(question: str, model: str, sample: int, right: bool, **more: object) -> Graded:
        name = question.split("/")[0]
        prompt = make_prompt(question, SECRET, domain=name, grader="math", reference_answer="1")
        one = Graded(
            prompt=prompt,
            model=model,
            sample=sample,
            text=f"<think>\nx\n</think>\n\n\\boxed{{{1 if right else sample + 2}}}",
            score=float(right),
            num_tokens=10 * (sample + 1),
            finish_reason="stop",
        )
        return replace(one, **more)  # type: ignore[arg-type]

    return make


def test_both_intervals_by_hand(graded: Callable[..., Graded]) -> None:
    # p 1 of 2, q 2 of 2: mean 3/4; within p the variance is 1/2, so sqrt(1/2 / 2) / 2 = 1/4
    answers = [
        graded("aime24/p", "a", 0, True),
        graded("aime24/p", "a", 1, False, finish_reason="length", text="cut", failure="timeout"),
        graded("aime24/q", "a", 0, True),
        graded("aime24/q", "a", 1, True),
    ]
    found = benchmark_figures(answers)["aime24"]
    model = found["models"]["a"]
    assert model["these_questions"] == pytest.approx(
        {"mean": 0.75, "low": 0.75 - T2 / 4, "high": 0.75 + T2 / 4}
    )
    # between the questions' means, 1/2 and 1: standard error sqrt(1/8 / 2) = 1/4
    assert model["new_questions"] == pytest.approx(
        {"mean": 0.75, "low": 0.75 - T1 / 4, "high": 0.75 + T1 / 4}
    )
    assert (model["num_questions"], model["num_answers"]) == (2, 4)
    assert (model["no_answer"], model["cut_off"]) == (0.25, 0.25)
    assert (model["mean_tokens"], model["median_tokens"], model["longest_tokens"]) == (15, 15, 20)
    assert model["failures"] == {"timeout": 1}
    assert found["questions"] == {"p": {"a": [1, 2]}, "q": {"a": [2, 2]}}


def test_one_answer_a_question_says_nothing_of_other_answers() -> None:
    assert these_questions({"p": [True], "q": [False]}) == {"mean": 0.5, "low": None, "high": None}


def test_models_are_paired_question_by_question() -> None:
    first = {"p": [True, False], "q": [False, False], "r": [True, True], "s": [True]}
    other = {"p": [True, True], "q": [True, False], "r": [True, True]}
    found = compared(other, first)
    # gains 1/2, 1/2, 0: mean 1/3, variance 1/12, standard error 1/6
    assert found["difference"] == pytest.approx(
        {"mean": 1 / 3, "low": 1 / 3 - T2 / 6, "high": 1 / 3 + T2 / 6}
    )
    assert (found["num_better"], found["num_same"], found["num_worse"]) == (2, 1, 0)
    with pytest.raises(ValueError, match="no question in common"):
        compared({"x": [True]}, first)


@pytest.mark.parametrize(
    ("grader", "answer", "vote"),
    [
        ("math", "So it is \\boxed{ \\frac{1}{2} }.", "\\frac{1}{2}"),
        ("math", "It is\n 7", "Itis7"),
        ("choice", "The answer is (B).", "B"),
        ("choice", "no letter", "noletter"),
    ],
)
def test_votes(graded: Callable[..., Graded], grader: str, answer: str, vote: str) -> None:
    one = graded("aime24/p", "a", 0, True, text=f"<think>\nx\n</think>\n\n{answer}")
    assert vote_of(replace(one, prompt=replace(one.prompt, grader=grader))) == vote


def test_the_page_stands_beside_the_report_and_shows_no_question(
    graded: Callable[..., Graded], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [
        graded(f"{name}/{question}", model, sample, sample < right)
        for name in ("aime25", "gpqa_diamond")
        for model, right in (("before", 1), ("after", 2))
        for question in ("p", "q")
        for sample in range(3)
    ]
    settings = Evaluate(
        kind="evaluate",
        models={"before": "a", "after": "b"},
        benchmarks={"aime25": "x", "gpqa_diamond": "y"},
        seed=1,
    )
    with StageFolder(tmp_path / "stage", "s", "evaluate", {}, {}) as folder:
        write_page(settings, folder, benchmark_figures(answers))
    page = (tmp_path / "stage" / "benchmarks.html").read_text()
    assert "83.0" in page  # the report's AIME25 after both temperatures
    assert "arXiv 2601.09088" in page
    assert "+33.3" in page
    saved = read_object(tmp_path / "stage" / "benchmarks.json")
    published = saved["published"]
    assert isinstance(published, dict)
    assert published["+ mixed policy"] == {"aime25": 83.3, "gpqa_diamond": 68.4}
    assert "AIME25 after: 66.7 % (66.7 to 66.7), 2 questions" in capsys.readouterr().out
    for name in ("benchmarks.html", "benchmarks.json"):
        assert SECRET not in (tmp_path / "stage" / name).read_text()
