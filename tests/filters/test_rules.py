"""The quality rules, each at its bound."""

import time
from collections.abc import Callable

import pytest

from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.selection import Repetition
from megatron_dasd.filters.rules import (
    contents,
    is_repetitive,
    is_tool_call,
    normalise_response,
    text_reason,
)
from megatron_dasd.records import Response, Span
from megatron_dasd.text.thinking import NORMALISED

MakeResponse = Callable[..., Response]
ANSWER = ThinkingFormat(open="", close=" Answer: ")


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "add"}',
        "<|python_tag|>print(1)",
        "<|channel|>commentary to=functions.add<|message|>",
        '{"tool_calls": []}',
        "<function=add>",
        "[TOOL_CALLS] x",
    ],
)
def test_tool_calls_are_recognised(text: str) -> None:
    assert is_tool_call(f"so {text}")


def test_talk_of_tools_is_no_tool_call() -> None:
    assert not is_tool_call("the function call f(x) maps to functions of x; a tool, 2 < 3")


@pytest.mark.parametrize(
    ("text", "fields", "reason"),
    [
        ("<think>a</think>b", {}, None),
        ("<think>a</think>b", {"finish_reason": "length"}, "truncation"),
        ("<think>a</think><tool_call>", {}, "tool_call"),
        ("<think>a", {}, "structure"),
        ("<think>a</think>", {}, "structure"),
        ("<think>a</think>b</think>c", {}, "control_marker"),
        ("<think>a<|end|></think>b", {}, "control_marker"),
        # truncation is asked first
        ("<think>a", {"finish_reason": "length"}, "truncation"),
    ],
)
def test_one_reason_from_the_form(
    make_response: MakeResponse, text: str, fields: dict[str, str], reason: str | None
) -> None:
    response = make_response(text, **fields)
    assert text_reason(response, normalise_response(response, NORMALISED), NORMALISED) == reason


def test_a_continuation_is_judged_joined(make_response: MakeResponse) -> None:
    response = make_response(
        " two. Answer: 4", student_prefix="<think>\nTwo plus", student_prefix_ids=[7, 8]
    )
    normalised = normalise_response(response, ANSWER)
    assert normalised is not None
    assert normalised.output == "<think>\nTwo plus two.\n</think>\n\n4"
    assert normalised.output_spans == [Span(start=8, end=21), Span(start=32, end=33)]
    assert normalised.text_spans == []
    assert contents(normalised) == ["Two plus two.", "4"]
    assert text_reason(response, normalised, ANSWER) is None
    unfinished = make_response(
        " two.", student_prefix="<think>\nTwo plus", student_prefix_ids=[7, 8]
    )
    assert normalise_response(unfinished, ANSWER) is None


def test_bounds_are_the_largest_allowed_counts() -> None:
    bounds = Repetition(
        max_repeated_lines=2, max_repeated_sentences=2, ngram_words=3, max_ngram_count=2
    )
    # a line of three words without a full stop, in both parts together
    assert not is_repetitive(["a b c\nx\na b c", "y"], bounds)
    assert is_repetitive(["a b c\nx\na b c", "a  b c"], bounds)
    # fewer words do not count
    assert not is_repetitive(["a b\n" * 9], Repetition(ngram_words=30))
    # a sentence inside lines
    loose = bounds.model_copy(update={"max_ngram_count": 9})
    assert not is_repetitive(["So a b. So c d. So a b."], loose)
    assert is_repetitive(["So a b. So c d. So a b. Or e.", "So a b."], loose)
    # a run of three words inside sentences: "we have one" twice, then three times
    tight = bounds.model_copy(update={"max_repeated_sentences": 9})
    assert not is_repetitive(["now we have one of we have one"], tight)
    assert is_repetitive(["now we have one of we have one if we have one"], tight)


def test_a_run_of_words_does_not_cross_the_parts() -> None:
    bounds = Repetition(ngram_words=2, max_ngram_count=1)
    assert not is_repetitive(["a b", "c a", "b"], bounds)
    assert is_repetitive(["a b", "c a b"], bounds)


def test_repetition_takes_linear_time() -> None:
    text = " ".join(str(i) for i in range(200_000))
    start = time.perf_counter()
    assert not is_repetitive([text, ""], Repetition())
    assert time.perf_counter() - start < 5
