"""Accuracy and its standard errors, worked out by hand."""

from collections.abc import Callable

from megatron_dasd.evaluation.accuracy import accuracies
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
