"""Thinking parts and answers in a teacher's delimiters and in the normalised ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.records import Span
from megatron_dasd.text.thinking import (
    NORMALISED,
    continue_normalised,
    control_marker,
    normalise,
    span_text,
    split_thinking,
    to_teacher_form,
)

ANSWER = ThinkingFormat(open="", close=" Answer: ")
HARMONY = ThinkingFormat(
    open="<|channel|>analysis<|message|>",
    close="<|end|><|start|>assistant<|channel|>final<|message|>",
)


def test_default_delimiters_are_the_normalised_ones() -> None:
    assert ThinkingFormat() == NORMALISED


def test_spans_are_bytes_of_the_same_content() -> None:
    text = " Größe 2 + 3 = 5. Answer: 5 €\n"
    result = normalise(text, ANSWER)
    assert result is not None
    assert result.output == "<think>\nGröße 2 + 3 = 5.\n</think>\n\n5 €"
    assert result.text_spans == [Span(start=1, end=19), Span(start=28, end=33)]
    assert result.output_spans == [Span(start=8, end=26), Span(start=37, end=42)]


def test_harmony_channels_become_think_tags() -> None:
    text = HARMONY.open + "Add." + HARMONY.close + "7"
    result = normalise(text, HARMONY)
    assert result is not None
    assert result.output == "<think>\nAdd.\n</think>\n\n7"


@pytest.mark.parametrize(
    "text",
    ["no tags", "<think>a", "x <think>a</think>b", "<think> \n</think>b", "<think>a</think> ", ""],
)
def test_no_structure(text: str) -> None:
    assert split_thinking(text, NORMALISED) is None
    assert normalise(text, NORMALISED) is None


def test_a_blank_line_can_be_the_delimiter() -> None:
    result = normalise("\nwhy\nso\n\nyes\n\nindeed", ThinkingFormat(open="", close="\n\n"))
    assert result is not None
    assert result.output == "<think>\nwhy\nso\n</think>\n\nyes\n\nindeed"


CONTENT = st.text(alphabet="aé€😀 \n\t.<\u00a0", max_size=20).filter(lambda text: text.strip())

PLAIN = st.text(alphabet="aé€😀 \n.", max_size=20).map(str.strip).filter(bool)


@given(CONTENT, CONTENT, st.sampled_from([NORMALISED, ANSWER, HARMONY]))
def test_content_survives_byte_for_byte(thinking: str, answer: str, form: ThinkingFormat) -> None:
    text = form.open + thinking + form.close + answer
    result = normalise(text, form)
    assert result is not None
    parts = [thinking.strip(), answer.strip()]
    assert [span_text(text, span) for span in result.text_spans] == parts
    assert [span_text(result.output, span) for span in result.output_spans] == parts
    assert split_thinking(result.output, NORMALISED) == result.output_spans


@pytest.mark.parametrize(
    ("prefix", "form", "teacher_form"),
    [
        ("<think>\nTwo plus", NORMALISED, "<think>\nTwo plus"),
        ("<think>\nTwo plus ", ANSWER, "Two plus "),
        ("<think>\nSo 5.\n</think>\n\nIt is", NORMALISED, "<think>\nSo 5.\n</think>\n\nIt is"),
        ("<think>\nSo 5.\n</think>\n\nIt is", ANSWER, "So 5. Answer: It is"),
        ("<think>\nSo 5.\n</think>", ANSWER, "So 5. Answer: "),
        ("<think>\nAdd.\n</think>\n\n7", HARMONY, HARMONY.open + "Add." + HARMONY.close + "7"),
        ("<think>\nif x <", ANSWER, "if x <"),
        ("<think>\nSo 5.\n</th", NORMALISED, None),
        ("<think>\nSo 5.\n<", NORMALISED, None),
        ("<thi", NORMALISED, None),
        ("So 5.", NORMALISED, None),
    ],
)
def test_to_teacher_form(prefix: str, form: ThinkingFormat, teacher_form: str | None) -> None:
    assert to_teacher_form(prefix, form) == teacher_form


@pytest.mark.parametrize(
    ("prefix", "continuation", "form", "output"),
    [
        ("<think>\nTwo plus", " two. Answer: 4 ", ANSWER, "<think>\nTwo plus two.\n</think>\n\n4"),
        ("<think>\nTwo\n", "Answer: 4", ANSWER, "<think>\nTwo\n</think>\n\n4"),
        ("<think>", " Two. Answer: 4", ANSWER, "<think>\nTwo.\n</think>\n\n4"),
        ("<think>\nTwo", "</think>4", NORMALISED, "<think>\nTwo\n</think>\n\n4"),
        ("<think>\nTwo\n</think>", "\n4", NORMALISED, "<think>\nTwo\n</think>\n\n4"),
        ("<think>\nTwo\n</think>\n\nIt i", "s 4.\n", ANSWER, "<think>\nTwo\n</think>\n\nIt is 4."),
        ("<think>\nTwo", " and two", ANSWER, None),
        ("<think>\nTwo", " Answer: ", ANSWER, None),
        ("<think>\n", " Answer: 4", ANSWER, None),
        ("<think>\nTwo</t", "hink>4", NORMALISED, None),
    ],
)
def test_continue_normalised(
    prefix: str, continuation: str, form: ThinkingFormat, output: str | None
) -> None:
    assert continue_normalised(prefix, continuation, form) == output


@given(PLAIN, PLAIN, st.data(), st.sampled_from([NORMALISED, ANSWER, HARMONY]))
def test_a_teacher_that_goes_on_where_the_prefix_ends_restores_the_output(
    thinking: str, answer: str, data: st.DataObject, form: ThinkingFormat
) -> None:
    output = f"<think>\n{thinking}\n</think>\n\n{answer}"
    text = form.open + thinking + form.close + answer
    in_answer = data.draw(st.booleans())
    cut = data.draw(st.integers(0, len(answer if in_answer else thinking)))
    prefix = output[: output.index("\n</think>") + 11 + cut] if in_answer else output[: 8 + cut]
    seen = to_teacher_form(prefix, form)
    assert seen is not None
    assert text.startswith(seen)
    assert continue_normalised(prefix, text[len(seen) :], form) == output


@pytest.mark.parametrize(
    ("content", "marker"),
    [
        ("a clean text, 2 < 3 | 4 > 1", None),
        ("so </think> again", "</think>"),
        ("5 Answer: 6", "Answer:"),
        ("the <|im_end|> token", "<|im_end|>"),
    ],
)
def test_control_markers_are_found(content: str, marker: str | None) -> None:
    assert control_marker(content, ANSWER) == marker
