"""Sentence probabilities and classes, rule by rule; test_by_hand.py has them all together."""

from math import exp, log

import numpy as np
import pytest

from megatron_dasd.divergence.provenance import (
    CLASSES,
    Comparison,
    ModelTokens,
    classify,
    compare,
    geometric_mean,
    join_unmeasured,
)
from megatron_dasd.records import Span


def names(codes: np.ndarray) -> list[str]:
    return [CLASSES[code] for code in codes.tolist()]


def test_the_probability_is_the_geometric_mean_of_the_sentence_s_tokens() -> None:
    totals = np.array([log(0.5) + log(0.125), 0.0, log(0.2) + log(0.3)])
    p = geometric_mean(totals, np.array([2, 0, 2]))
    assert p == pytest.approx([0.25, np.nan, 0.06**0.5], rel=1e-12, nan_ok=True)
    # a log-prob a little above 0 is rounding
    assert geometric_mean(np.array([1e-8]), np.array([1])).tolist() == [1.0]


def test_classes_need_more_than_beta() -> None:
    p = np.array([[0.75, 0.5, 0.25, 0.5, 0.5], [0.25, 0.75, 0.5, 0.25, 0.5]])
    # gaps 0.5, -0.25, -0.25, 0.25, 0: a gap of exactly beta is shared
    assert names(classify(p, beta=0.25)) == ["teacher", *["shared"] * 4]
    assert names(classify(p, beta=0.2)) == ["teacher", "student", "student", "teacher", "shared"]


@pytest.mark.parametrize(
    ("teacher", "student", "distilled", "name"),
    [
        (0.5, 0.5, 0.5, "shared"),
        (0.5, 0.5, 0.75, "shared"),  # a gap of exactly alpha
        (0.5, 0.5, 0.8125, "boosted"),
        (0.5, 0.5, 0.125, "boosted"),
        (0.75, 0.25, 0.75, "teacher"),
        (0.75, 0.25, 0.0, "teacher"),  # whatever became of it
        (0.25, 0.75, 0.75, "student"),
        # teacher and student are close, but the distilled student is close to one of them only
        (0.5, 0.625, 0.8125, "boosted"),
    ],
)
def test_classes_after_training(
    teacher: float, student: float, distilled: float, name: str
) -> None:
    p = np.array([[teacher], [student], [distilled]])
    assert names(classify(p, beta=0.25)) == [name]


def test_alpha_may_be_another_bound_than_beta() -> None:
    p = np.array([[0.5], [0.5], [0.75]])
    assert names(classify(p, beta=0.25, alpha=0.125)) == ["boosted"]
    # all three within alpha: shared, though teacher and student are beta apart
    wide = np.array([[0.75], [0.5], [0.5]])
    assert names(classify(wide, beta=0.125, alpha=0.5)) == ["shared"]


@pytest.mark.parametrize(
    ("measured", "parts", "joined"),
    [
        ([1, 1, 1], [0, 0, 1], [0, 1, 2]),
        ([1, 0, 1], [0, 0, 0], [0, 0, 1]),
        ([0, 1, 1], [0, 0, 0], [0, 0, 1]),
        # the answer's first sentence does not join the thinking part
        ([1, 0, 1], [0, 1, 1], [0, 1, 1]),
        # a part without any measured sentence is left out
        ([1, 0, 0], [0, 1, 1], [0, -1, -1]),
        ([0, 1], [0, 1], [-1, 0]),
    ],
)
def test_unmeasured_sentences_join_a_neighbour(
    measured: list[int], parts: list[int], joined: list[int]
) -> None:
    assert join_unmeasured(np.array(measured, bool), np.array(parts)).tolist() == joined


def tokens(text: str, spans: list[tuple[int, int]], *pairs: tuple[int, float]) -> ModelTokens:
    """A model's reading, tokens given as (bytes, probability)."""
    return ModelTokens(
        text,
        [Span(start=start, end=end) for start, end in spans],
        np.array([size for size, _ in pairs]),
        np.log([p for _, p in pairs]),
    )


def teacher(*pairs: tuple[int, float]) -> ModelTokens:
    """Sentences "Oh. ", "B." and "C", delimited by ":"."""
    return tokens("Oh. B.:C", [(0, 6), (7, 8)], *pairs)


def student(*pairs: tuple[int, float]) -> ModelTokens:
    """The same, normalised."""
    return tokens("<think>\nOh. B.\n</think>\n\nC", [(8, 14), (25, 26)], *pairs)


PARTS = ["Oh. B.", "C"]
USUAL = teacher((3, 0.8), (2, 0.4), (1, 0.1), (1, 0.9), (1, 0.5))


def test_a_sentence_inside_one_token_is_compared_with_its_neighbour() -> None:
    # the student's token "Oh. B." holds both sentences: they are compared as one
    comparison = compare(PARTS, [USUAL, student((8, 0.9), (6, 0.3), (11, 0.9), (1, 0.45))])
    assert comparison.texts == ["Oh. B.", "C"]
    assert comparison.probabilities[:, 0] == pytest.approx([(0.8 * 0.4 * 0.1) ** (1 / 3), 0.3])
    assert comparison.num_tokens.tolist() == [[3, 1], [1, 1]]


def test_three_models_join_what_any_of_them_has_no_token_for() -> None:
    whole = student((8, 0.9), (6, 0.3), (11, 0.9), (1, 0.45))
    each = student(*[(1, 0.5)] * 26)
    assert compare(PARTS, [USUAL, each]).texts == ["Oh. ", "B.", "C"]
    assert compare(PARTS, [USUAL, each, whole]).texts == ["Oh. B.", "C"]


def test_no_probability_is_lost_or_counted_twice() -> None:
    read = teacher((2, 0.8), (3, 0.4), (1, 0.1), (1, 0.9), (1, 0.5))
    comparison = compare(PARTS, [read, student(*[(1, 0.5)] * 26)])
    assert exp(comparison.totals[0].sum()) == pytest.approx(0.8 * 0.4 * 0.1 * 0.5)
    assert comparison.response_probabilities == pytest.approx([(0.016) ** (1 / 4), 0.5])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="num_bytes: sum to 25, the text has 26 bytes"):
        compare(PARTS, [USUAL, student((25, 0.5))])
    with pytest.raises(ValueError, match="num_bytes: holds a negative value"):
        compare(PARTS, [USUAL, student((27, 0.5), (-1, 0.5))])


@pytest.mark.parametrize("value", [0.5, float("nan"), float("-inf")])
def test_what_is_no_log_probability_is_refused(value: float) -> None:
    bad = ModelTokens("a", [Span(start=0, end=1)], np.array([1]), np.array([value]))
    with pytest.raises(ValueError, match="logprobs: hold a value"):
        compare(["a"], [bad])


def test_a_response_without_content_has_no_sentences() -> None:
    nothing = ModelTokens("", [], np.array([0]), np.array([-1.0]))
    comparison: Comparison = compare([], [nothing, nothing])
    assert comparison.texts == []
    assert np.isnan(comparison.response_probabilities).all()
    assert classify(comparison.probabilities, 0.1).size == 0
