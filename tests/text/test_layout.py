"""Responses laid out by chat templates: beginnings, ends and parts found by rendering."""

import json
from collections.abc import Sequence
from itertools import chain

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from megatron_dasd.errors import UserError
from megatron_dasd.records import Message, Prompt, Span, ToolCall
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.text.layout import Layout, bytes_in_output, encode_laid, end_of_turn_id
from megatron_dasd.text.thinking import NORMALISED

END = 2  # of the shared tokenizer
QUESTION = Prompt(prompt_id="p", messages=[Message(role="user", content="q?")])
OUTPUT = "<think>\nab\n</think>\n\nc"
SPANS = [Span(start=8, end=10), Span(start=21, end=22)]
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\\n' + m.content }}<|im_end|>{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}BEGIN{% endif %}"
)


def templated(begin: str = "", template: str = TURNS) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer("abc")
    tokenizer.chat_template = template.replace("BEGIN", begin)
    return tokenizer


def written(tokenizer: PreTrainedTokenizerBase, layout: Layout, spans: Sequence[Span]) -> str:
    output = OUTPUT if len(spans) > 1 else "c"
    laid = layout.lay_out_parts(QUESTION, output, spans)
    return str(tokenizer.decode([*chain(*encode_laid(tokenizer, laid))]))


def test_thinking_and_answer_stand_behind_the_generation_prompt() -> None:
    tokenizer = templated()
    laid = Layout(tokenizer).lay_out_parts(QUESTION, OUTPUT, SPANS)
    assert laid.prompt == "<|im_start|>user\nq?<|im_end|>\n<|im_start|>assistant\n"
    assert (laid.opening, laid.runs, laid.spelled) == ("", (OUTPUT, END), OUTPUT)
    assert (list(laid.spans), laid.warning) == (SPANS, "")


def test_a_plain_answer_has_no_thinking_part() -> None:
    laid = Layout(templated()).lay_out_parts(QUESTION, "c", [Span(start=0, end=1)])
    assert (laid.runs, laid.spelled) == (("c", END), "c")


def test_a_prompt_that_opens_the_thinking_part_opens_it_once() -> None:
    tokenizer = templated("<think>{{ '\\n' }}")
    laid = Layout(tokenizer).lay_out_parts(QUESTION, OUTPUT, SPANS)
    assert laid.opening == "<think>\n"
    assert laid.runs == (OUTPUT.removeprefix("<think>\n"), END)
    assert (laid.spelled, list(laid.spans)) == (OUTPUT, SPANS)
    assert laid.prompt.endswith("assistant\n")


def test_a_prompt_that_closes_the_thinking_part_is_refused_with_the_setting() -> None:
    closes = "{% if enable_thinking is not defined %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    tokenizer = templated(closes)
    with pytest.raises(UserError, match=r"closes the thinking part.*enable_thinking: true"):
        Layout(tokenizer).lay_out_parts(QUESTION, OUTPUT, SPANS)
    plain = written(tokenizer, Layout(tokenizer), [Span(start=0, end=1)])
    assert plain.endswith("assistant\n<think>\n\n</think>\n\nc<|im_end|>")
    open_again = Layout(tokenizer, variables={"enable_thinking": True})
    assert written(tokenizer, open_again, SPANS).count("<think>") == 1


def test_what_ends_a_turn_is_the_template_s_not_eos_token() -> None:
    tokenizer = templated()
    tokenizer.eos_token = "<|im_start|>"
    assert end_of_turn_id(tokenizer) == END
    assert Layout(tokenizer).lay_out_parts(QUESTION, OUTPUT, SPANS).runs[-1] == END
    tokenizer.chat_template = None
    assert end_of_turn_id(tokenizer) == 1
    bare = byte_tokenizer("a")
    bare.chat_template = bare.eos_token = None
    with pytest.raises(UserError, match="names no eos_token"):
        end_of_turn_id(bare)


def test_a_turn_that_only_the_next_one_ends() -> None:
    tokenizer = templated(template=TURNS.replace("<|im_end|>{{ '\\n' }}", ""))
    laid = Layout(tokenizer).lay_out_parts(QUESTION, OUTPUT, SPANS)
    assert laid.runs == (OUTPUT, tokenizer.convert_tokens_to_ids("<|im_start|>"))


def test_delimiters_that_are_special_tokens_become_them_and_content_does_not() -> None:
    tokenizer = templated()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    open_id, close_id = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    laid = Layout(tokenizer).lay_out_parts(QUESTION, OUTPUT, SPANS)
    assert laid.runs == (open_id, "\nab\n", close_id, "\n\nc", END)
    assert (laid.spelled, laid.spans) == (
        "\nab\n\n\nc",
        (Span(start=1, end=3), Span(start=6, end=7)),
    )
    _, ids = encode_laid(tokenizer, laid)
    assert ids.count(open_id) == 1


def test_the_student_s_own_beginning_stays_as_it_wrote_it() -> None:
    prefix = "<think>\na"
    laid = Layout(templated()).lay_out_parts(QUESTION, OUTPUT, SPANS, prefix=prefix)
    assert laid.runs == ("b\n</think>\n\nc", END)
    assert (laid.spelled, list(laid.spans)) == (OUTPUT, SPANS)
    cut = Layout(templated()).lay_out_parts(QUESTION, prefix, [], prefix=prefix, ends=False)
    assert cut.runs == ()
    with pytest.raises(ValueError, match="does not begin with the student's prefix"):
        Layout(templated()).lay_out_parts(QUESTION, OUTPUT, SPANS, prefix="zzz")


def test_a_template_that_leaves_all_thinking_out_says_so() -> None:
    stripping = TURNS.replace("m.content", "m.content.split('</think>')[-1]")
    laid = Layout(templated(template=stripping)).lay_out_parts(QUESTION, OUTPUT, SPANS)
    assert laid.runs == (OUTPUT, END)
    assert laid.warning == "the template leaves the thinking part out of a rendered conversation"


def test_bytes_of_another_rendering_stand_for_those_of_the_output() -> None:
    # "ab" </think> "c": the delimiters are tokens without bytes
    own = [Span(start=0, end=2), Span(start=2, end=3)]
    assert bytes_in_output([0, 1, 1, 0, 1, 0], own, OUTPUT, SPANS) == [8, 1, 1, 11, 1, 0]
    # shorter delimiters that are text, in tokens of their own
    own = [Span(start=3, end=5), Span(start=9, end=10)]
    assert bytes_in_output([3, 2, 4, 1], own, OUTPUT, SPANS) == [8, 2, 11, 1]


CALL = ToolCall(name="weather", arguments='{"city": "Oslo"}', call_id="c1")
TOOLS = json.dumps(
    [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": {}}}]
)
ASKED = Prompt(
    prompt_id="p", messages=[Message(role="user", content="Weather in Oslo?")], tools=TOOLS
)


def test_qwen3_writes_its_calls_and_reads_them_back(qwen3: PreTrainedTokenizerBase) -> None:
    output = NORMALISED.open + "I need the tool." + NORMALISED.close
    end = len(output)
    spans = [Span(start=8, end=24), Span(start=end, end=end)]
    second = ToolCall(name="weather", arguments='{"city": "Bergen"}', call_id="c2")
    laid = Layout(qwen3).lay_out_parts(ASKED, output, spans, [CALL, second])
    target = qwen3.decode(encode_laid(qwen3, laid)[1])
    assert target == (
        "<think>\nI need the tool.\n</think>\n\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Bergen"}}\n</tool_call><|im_end|>'
    )
    # the inverse: messages from what is trained on
    thinking, _, rest = target.removesuffix("<|im_end|>").partition("</think>")
    read = [json.loads(part.split("</tool_call>")[0]) for part in rest.split("<tool_call>")[1:]]
    assert thinking.removeprefix("<think>").strip() == "I need the tool."
    assert [(one["name"], one["arguments"]) for one in read] == [
        (call.name, json.loads(call.arguments)) for call in (CALL, second)
    ]
    assert '"name": "weather"' in laid.prompt  # the schemas are the prompt's


def test_a_control_token_in_a_call_is_refused(qwen3: PreTrainedTokenizerBase) -> None:
    bad = ToolCall(name="weather", arguments='{"city": "<|im_end|>"}')
    with pytest.raises(ValueError, match=r"hold the control token <\|im_end\|>"):
        Layout(qwen3).lay_out_parts(ASKED, "", [], [bad])
