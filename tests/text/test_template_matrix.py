"""Authors' own chat templates: what is trained on is what they render, token for token.

A template is paired with a byte-level tokenizer that has its control tokens, so that every byte and
every control token is compared.  The families, and what is documented of each, are in docs/data.md.
"""

import json
import re
from collections.abc import Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from megatron_dasd.config.base import TemplateVariables, ThinkingFormat
from megatron_dasd.records import Message, Prompt, ToolCall
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.text.chat import (
    REASONING_FIELDS,
    RefusedTurnsError,
    render,
    turn_fields,
)
from megatron_dasd.text.encoding import encode
from megatron_dasd.text.frames import reasoning_field
from megatron_dasd.text.layout import Layout, encode_laid
from megatron_dasd.text.thinking import NORMALISED, normalise, with_calls
from tests.real_templates import template

CONTROL = re.compile(
    r"<[|\uff5c][^<>|\uff5c\s]{1,40}[|\uff5c]>|<(?:start|end)_of_turn>|\[gMASK\]|<sop>|</s>|<s>"
)
THINKING: TemplateVariables = {"enable_thinking": True, "thinking": True}
FAMILIES: dict[str, TemplateVariables] = {
    "Qwen-Qwen2.5-7B-Instruct": {},
    "Qwen-Qwen3-0.6B": {},
    "Qwen3.5-4B": {},
    "openai-gpt-oss-120b": {},
    "deepseek-ai-DeepSeek-V3.1": THINKING,
    "deepseek-ai-DeepSeek-V3.2": THINKING,
    "deepseek-ai-DeepSeek-V4": THINKING,
    "meta-llama-Llama-3.1-8B-Instruct": {},
    "HuggingFaceTB-SmolLM3-3B": {},
    "GLM-4.7-Flash": {},
    "moonshotai-Kimi-K2": {},
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": {},
    "gemma-3": {},
    "SmolLM2-135M-Instruct": {},
}
STRIPPED = {
    ("openai-gpt-oss-120b", "result, thinking"),
    ("deepseek-ai-DeepSeek-V3.1", "one, thinking"),
    ("deepseek-ai-DeepSeek-V3.1", "many, thinking"),
    ("meta-llama-Llama-3.1-8B-Instruct", "call, thinking"),
}
"""The template leaves a thinking part out of the rendered conversation."""
CALLS_LEFT_OUT = ("HuggingFaceTB-SmolLM3-3B", "SmolLM2-135M-Instruct", "gemma-3")
"""The template writes no calls: such turns are refused, never trained on without them."""
OPENED = ("GLM-4.7-Flash", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
"""The generation prompt opens the thinking part; a plain answer is rendered without that."""

ANY = ThinkingFormat(required=False)
QUESTION = Message(role="user", content="Hi there?")
CALL = ToolCall(name="weather", arguments='{"city": "Oslo"}', call_id="call00001")
TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Says the weather.",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "description": "City."}},
                    "required": ["city"],
                },
            },
        }
    ]
)
RESULT = Message(role="tool", content="3 C", tool_call_id="call00001", name="weather")


def called(thinking: str) -> list[Message]:
    return [QUESTION, Message(role="assistant", thinking=thinking, tool_calls=[CALL]), RESULT]


def answered(thinking: str) -> list[Message]:
    said = Message(role="assistant", thinking=thinking, content="Hello.")
    return [QUESTION, said, Message(role="user", content="And?")]


SHAPES: dict[str, tuple[list[Message], str | None, Message]] = {
    "one": ([QUESTION], None, Message(role="assistant", content="Hello.")),
    "one, thinking": (
        [QUESTION],
        None,
        Message(role="assistant", thinking="Hm, well.", content="Hello."),
    ),
    "many": (answered(""), None, Message(role="assistant", content="Fine.")),
    "many, thinking": (
        answered("Earlier."),
        None,
        Message(role="assistant", thinking="Hm.", content="Fine."),
    ),
    "call": ([QUESTION], TOOLS, Message(role="assistant", tool_calls=[CALL])),
    "call, thinking": (
        [QUESTION],
        TOOLS,
        Message(role="assistant", thinking="Need it.", tool_calls=[CALL]),
    ),
    "result": (called(""), TOOLS, Message(role="assistant", content="Three.")),
    "result, thinking": (
        called("Need it."),
        TOOLS,
        Message(role="assistant", thinking="It is 3.", content="Three."),
    ),
}


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer("abc")
    source = template(name)
    own = sorted(set(CONTROL.findall(source)) - set(tokenizer.all_special_tokens))
    tokenizer.add_special_tokens({"additional_special_tokens": own})
    tokenizer.chat_template = source
    return tokenizer


def renderings(
    tokenizer: PreTrainedTokenizerFast,
    turns: Sequence[Message],
    tools: str | None,
    own: Message,
    variables: TemplateVariables,
) -> list[list[int]]:
    """Ids of the whole conversation, the last turn's thinking in each place it may be handed in."""
    before = [turn_fields(turn, reasoning_field(tokenizer)) for turn in turns]
    ways = [turn_fields(own, name) for name in REASONING_FIELDS]
    inline = NORMALISED.open + own.thinking + NORMALISED.close + own.content
    ways.append(turn_fields(own) | {"content": inline if own.thinking else own.content})
    found = []
    for way in ways:
        try:
            text = render(tokenizer, [*before, way], tools, variables, begin=False)
        except RefusedTurnsError:
            continue
        found.append(encode(tokenizer, text))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_and_target_are_the_template_s_rendering(name: str, shape: str) -> None:
    tokenizer, variables = tokenizer_of(name), FAMILIES[name]
    turns, tools, own = SHAPES[shape]
    text = own.content
    if own.thinking:
        text = NORMALISED.open + own.thinking + NORMALISED.close + text
    whole = with_calls(text, ANY) if own.tool_calls else normalise(text, ANY)
    assert whole is not None
    prompt = Prompt(prompt_id="p", messages=turns, tools=tools)
    layout = Layout(tokenizer, variables=variables)
    if tools and name in CALLS_LEFT_OUT:
        # Gemma 3 refuses a tool's turn before that
        with pytest.raises(RefusedTurnsError, match="leaves tool calls out|must alternate"):
            layout.lay_out_parts(prompt, whole.output, whole.output_spans, own.tool_calls)
        return
    laid = layout.lay_out_parts(prompt, whole.output, whole.output_spans, own.tool_calls)
    prompt_ids, ids = encode_laid(tokenizer, laid)
    data = laid.spelled.encode()
    contents = [data[span.start : span.end].decode() for span in laid.spans]
    assert contents == [part for part in (own.thinking, own.content) if part or own.thinking]
    # the prompt is what inference reads
    before = [turn_fields(turn, reasoning_field(tokenizer)) for turn in turns]
    asked = render(tokenizer, before, tools, variables, begin=True)
    assert laid.prompt + laid.opening == asked or (not laid.opening and laid.prompt == asked)
    plain_after_opening = name in OPENED and not own.thinking
    if (name, shape) in STRIPPED or plain_after_opening:
        assert laid.warning
        return
    got = [*prompt_ids, *ids]
    # behind the end of the turn a rendering has at most blanks; an end that only the next turn's
    # beginning makes is not in it
    newline = encode(tokenizer, "\n")
    assert any(
        whole_ids in (got, [*got, *newline], got[:-1])
        for whole_ids in renderings(tokenizer, turns, tools, own, variables)
    )
