"""Sentence probabilities and classes against numbers worked out by hand."""

from collections.abc import Callable
from math import exp, log

import numpy as np
import pytest

from megatron_dasd.divergence.provenance import (
    classify,
    compare_sentences,
    join_unmeasured,
    sentence_probabilities,
)
from megatron_dasd.records import Response, ScoredResponse, Sentence, Span, TokenLogprobs

MakeResponse = Callable[..., ScoredResponse]


def test_the_probability_is_the_geometric_mean_of_the_sentence_s_tokens() -> None:
    logprobs = [log(0.5), log(0.125), log(0.9), log(0.2), log(0.3)]
    p = sentence_probabilities(logprobs, np.array([0, 0, -1, 2, 2]), num_sentences=3)
    # sqrt(0.5 * 0.125) = 0.25; the token of no sentence counts nowhere; sqrt(0.2 * 0.3)
    assert p == pytest.approx([0.25, np.nan, 0.06**0.5], rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("value", [0.5, float("nan"), float("-inf")])
def test_what_is_no_log_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="logprobs"):
        sentence_probabilities([-1.0, value], np.array([0, 0]), 1)


def test_classes_need_more_than_beta() -> None:
    teacher = np.array([0.75, 0.5, 0.25, 0.5, 0.5])
    student = np.array([0.25, 0.75, 0.5, 0.25, 0.5])
    # gaps 0.5, -0.25, -0.25, 0.25, 0: a gap of exactly beta is shared
    assert classify(teacher, student, beta=0.25) == [
        "teacher",
        "shared",
        "shared",
        "shared",
        "shared",
    ]
    assert classify(teacher, student, beta=0.2) == [
        "teacher",
        "student",
        "student",
        "teacher",
        "shared",
    ]


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


def scored(
    make_response: Callable[..., Response], teacher: TokenLogprobs, student: TokenLogprobs
) -> ScoredResponse:
    """Sentences "Oh. ", "B." and "C"; the teacher delimits by ":", the student as normalised."""
    return make_response(  # type: ignore[return-value]
        "Oh. B.:C",
        ScoredResponse,
        tokens=teacher,
        text_spans=[Span(start=0, end=6), Span(start=7, end=8)],
        output="<think>\nOh. B.\n</think>\n\nC",
        output_spans=[Span(start=8, end=14), Span(start=25, end=26)],
        student_tokens=student,
        student_model="student",
    )


def tokens(*pairs: tuple[int, float]) -> TokenLogprobs:
    """Tokens from (bytes, probability)."""
    return TokenLogprobs(
        token_ids=[0] * len(pairs),
        num_bytes=[size for size, _ in pairs],
        logprobs=[log(p) for _, p in pairs],
    )


def test_two_tokenizers_are_compared_sentence_by_sentence(make_response: MakeResponse) -> None:
    # teacher: "Oh." " B" "." ":" "C"; student: "<think>\n" "Oh" ". B" "." "\n</think>\n\n" "C" end
    teacher = tokens((3, 0.8), (2, 0.4), (1, 0.1), (1, 0.9), (1, 0.5))
    student = tokens((8, 0.9), (2, 0.9), (3, 0.4), (1, 0.6), (11, 0.9), (1, 0.45), (0, 0.7))
    sentences, num_tokens = compare_sentences(scored(make_response, teacher, student), beta=0.1)
    assert num_tokens == 4  # the delimiter is not counted
    expected = [
        Sentence(
            text="Oh. ", teacher_probability=0.8, student_probability=0.6, provenance="teacher"
        ),
        Sentence(text="B.", teacher_probability=0.2, student_probability=0.6, provenance="student"),
        Sentence(text="C", teacher_probability=0.5, student_probability=0.45, provenance="shared"),
    ]
    for found, wanted in zip(sentences, expected, strict=True):
        assert (found.text, found.provenance) == (wanted.text, wanted.provenance)
        assert found.teacher_probability == pytest.approx(wanted.teacher_probability, rel=1e-12)
        assert found.student_probability == pytest.approx(wanted.student_probability, rel=1e-12)


def test_a_sentence_inside_one_token_is_compared_with_its_neighbour(
    make_response: MakeResponse,
) -> None:
    # the student's token "Oh. B." holds both sentences: they are compared as one
    teacher = tokens((3, 0.8), (2, 0.4), (1, 0.1), (1, 0.9), (1, 0.5))
    student = tokens((8, 0.9), (6, 0.3), (11, 0.9), (1, 0.45))
    sentences, _ = compare_sentences(scored(make_response, teacher, student), beta=0.1)
    assert [sentence.text for sentence in sentences] == ["Oh. B.", "C"]
    assert sentences[0].teacher_probability == pytest.approx((0.8 * 0.4 * 0.1) ** (1 / 3))
    assert sentences[0].student_probability == pytest.approx(0.3)


def test_no_probability_is_lost_or_counted_twice(make_response: MakeResponse) -> None:
    teacher = tokens((2, 0.8), (3, 0.4), (1, 0.1), (1, 0.9), (1, 0.5))
    student = tokens(*[(1, 0.5)] * 26)
    sentences, _ = compare_sentences(scored(make_response, teacher, student), beta=0.1)
    total = sum(
        n * log(sentence.teacher_probability)
        for n, sentence in zip([2, 1, 1], sentences, strict=True)
    )
    assert exp(total) == pytest.approx(0.8 * 0.4 * 0.1 * 0.5)


def test_what_does_not_fit_is_refused(make_response: MakeResponse) -> None:
    good = tokens((8, 0.5))
    with pytest.raises(ValueError, match="num_bytes: sum to 25, the text has 26 bytes"):
        compare_sentences(scored(make_response, good, tokens((25, 0.5))), beta=0.1)
    continuation = make_response(
        "C",
        ScoredResponse,
        output="<think>\nA\n</think>\n\nC",
        output_spans=[Span(start=8, end=9), Span(start=20, end=21)],
        text_spans=[],
        student_tokens=tokens((21, 0.5)),
        student_model="student",
    )
    with pytest.raises(ValueError, match="text_spans"):
        compare_sentences(continuation, beta=0.1)
