"""The channels of gpt-oss, from text and from tokens."""

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.text.encoding import encode, token_bytes
from megatron_dasd.text.harmony import (
    MARKERS,
    has_tool_call,
    marker_bytes,
    parse_harmony,
    split_harmony,
    text_bytes,
    without_markers,
)
from megatron_dasd.text.thinking import (
    continue_normalised,
    normalise,
    span_text,
    to_teacher_form,
)

HARMONY = ThinkingFormat(format="harmony")
PLAIN = (
    "<|channel|>analysis<|message|> Sum é: 2.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>It is 2."
)
CALL = (
    "<|channel|>analysis<|message|>Ask.<|end|><|start|>assistant<|channel|>commentary "
    'to=functions.add <|constrain|>json<|message|>{"a": 1}<|call|>'
)
CALL_IN_ROLE = (
    "<|start|>assistant to=functions.add<|channel|>commentary<|constrain|>json<|message|>{}<|call|>"
)


def test_messages_with_their_channels() -> None:
    messages = parse_harmony(PLAIN)
    assert messages is not None
    assert [(m.channel, m.recipient, PLAIN[m.start : m.end], m.closed) for m in messages] == [
        ("analysis", None, " Sum é: 2.", True),
        ("final", None, "It is 2.", False),
    ]


def test_tool_calls_are_told_by_their_recipient() -> None:
    messages = parse_harmony(CALL)
    assert messages is not None
    assert messages[1].channel == "commentary"
    assert messages[1].recipient == "functions.add"
    assert CALL[messages[1].start : messages[1].end] == '{"a": 1}'
    assert has_tool_call(CALL)
    assert has_tool_call(CALL_IN_ROLE)
    assert not has_tool_call(PLAIN)
    # words about a call are none
    assert not has_tool_call(PLAIN.replace("Sum", "to=functions.add"))
    assert not has_tool_call("I call to=functions.add")


def test_thinking_and_answer_by_bytes() -> None:
    spans = split_harmony(PLAIN)
    assert spans is not None
    assert [span_text(PLAIN, span) for span in spans] == ["Sum é: 2.", "It is 2."]
    assert split_harmony("<|start|>assistant" + PLAIN + "<|return|>") is not None


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        "",
        "no format at all",
        "<|channel|>final<|message|>An answer alone.",
        "<|channel|>analysis<|message|>Thinking alone.",
        "<|channel|>analysis<|message|> <|end|><|start|>assistant<|channel|>final<|message|>a",
        "<|channel|>analysis<|message|>a<|end|><|channel|>analysis<|message|>b<|end|>"
        "<|channel|>final<|message|>c",
        "<|channel|>commentary<|message|>a<|end|><|channel|>final<|message|>c",
        "<|channel|>analysis to=python<|message|>a<|end|><|channel|>final<|message|>c",
        "<|channel|>analysis<|message|>a<|end|>b<|channel|>final<|message|>c",
        "<|channel|>analysis",
        "<|message|>a",
    ],
)
def test_other_forms_are_none_to_learn_from(text: str) -> None:
    assert split_harmony(text) is None


def test_into_the_normalised_form_and_back() -> None:
    normalised = normalise(PLAIN, HARMONY)
    assert normalised is not None
    assert normalised.output == "<think>\nSum é: 2.\n</think>\n\nIt is 2."
    for span, own in zip(normalised.output_spans, normalised.text_spans, strict=True):
        assert span_text(normalised.output, span) == span_text(PLAIN, own)
    assert to_teacher_form("<think>\nSum", HARMONY) == "<|channel|>analysis<|message|>Sum"
    assert to_teacher_form("<think>\na\n</think>\n\nb", HARMONY) == (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b"
    )
    more = " is 2.<|end|><|start|>assistant<|channel|>final<|message|>Two"
    assert continue_normalised("<think>\nSum", more, HARMONY) == (
        "<think>\nSum is 2.\n</think>\n\nTwo"
    )


def test_a_long_hostile_text_is_read_in_linear_time() -> None:
    assert parse_harmony("<|channel|>analysis<|message|>" * 40_000) is not None
    many = parse_harmony("<|channel|>analysis<|message|>a<|end|>" * 40_000)
    assert many is not None
    assert len(many) == 40_000
    assert parse_harmony("<|start|>" * 100_000) is None


@pytest.fixture(scope="module")
def harmony_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer("abcdefghijklmnopqrstuvwxyz")
    names = [*MARKERS, "<|return|>"]
    tokenizer.add_tokens([AddedToken(name, special=True) for name in names], special_tokens=True)
    return tokenizer


def test_markers_are_text_and_the_end_of_turn_is_not(
    harmony_tokenizer: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast
) -> None:
    text = "<|channel|>final<|message|>ab<|return|>"
    ids = encode(harmony_tokenizer, text)
    assert len(ids) == 10
    assert b"".join(text_bytes(harmony_tokenizer, ids)) == b"<|channel|>final<|message|>ab"
    assert b"".join(token_bytes(harmony_tokenizer, ids)) == b"finalab"
    assert len(marker_bytes(harmony_tokenizer)) == len(MARKERS)
    assert marker_bytes(tokenizer) == {}
    assert text_bytes(tokenizer, [3, 2]) == [b"a", b""]


def test_the_text_of_a_server_that_leaves_special_tokens_out() -> None:
    assert without_markers(PLAIN) == "analysis Sum é: 2.assistantfinalIt is 2."
    assert without_markers("a <| b") == "a <| b"


def test_harmony_has_its_own_delimiters() -> None:
    with pytest.raises(ValueError, match="leave open and close out"):
        ThinkingFormat(format="harmony", open="<think>")


def test_the_real_tokenizer_s_markers(gptoss: PreTrainedTokenizerBase) -> None:
    """Each marker is one special token of gpt-oss, and a text with tool calls comes back whole."""
    for text in (PLAIN, CALL, CALL_IN_ROLE):
        ids = encode(gptoss, text)
        special = {i for i, t in gptoss.added_tokens_decoder.items() if t.special}
        assert sum(i in special for i in ids) == sum(text.count(marker) for marker in MARKERS)
        assert b"".join(text_bytes(gptoss, ids)).decode() == text
    assert has_tool_call(b"".join(text_bytes(gptoss, encode(gptoss, CALL))).decode())
    normalised = normalise(b"".join(text_bytes(gptoss, encode(gptoss, PLAIN))).decode(), HARMONY)
    assert normalised is not None
    assert normalised.output == "<think>\nSum \u00e9: 2.\n</think>\n\nIt is 2."
