"""Examples: exact tokens and masks, whatever the chat template does to earlier turns."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from megatron_dasd.config.data import PreprocessData
from megatron_dasd.data.examples import Example, ExampleMaker
from megatron_dasd.records import Message, Prompt, Span, ToolCall
from megatron_dasd.text.bulk import BulkEncoder
from megatron_dasd.text.thinking import NORMALISED, normalise

OUTPUT = "<think>\nab\n</think>\n\nc"
SPANS = [Span(start=8, end=10), Span(start=21, end=22)]
# Like Qwen3's: earlier turns of the assistant lose their thinking, the last one keeps it.
STRIPPING = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\\n' }}"
    "{% if m.role == 'assistant' and not loop.last %}"
    "{{ m.content.split('</think>')[-1].lstrip('\\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
)
# Like that of Qwen3's thinking models: the prompt itself opens the thinking part.
OPENING = STRIPPING.replace("assistant{{ '\\n' }}", "assistant{{ '\\n<think>\\n' }}")


def settings(**changes: object) -> PreprocessData:
    given = {"kind": "preprocess_data", "model": "m", "responses": "r", "seq_length": 64}
    return PreprocessData(**(given | changes))  # type: ignore[arg-type]


def example(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[tuple[str, str]] = (("user", "q"),),
    prefix: str = "",
    prefix_ids: Sequence[int] = (),
    template: str | None = None,
    **changes: object,
) -> Example:
    if template:
        tokenizer = deepcopy(tokenizer)
        tokenizer.chat_template = template
    maker = ExampleMaker(tokenizer, BulkEncoder(tokenizer, "gigatoken"), settings(**changes))
    turns = maker.turns(
        Prompt(
            prompt_id="p",
            messages=[Message(role=role, content=content) for role, content in messages],  # type: ignore[arg-type]
        ),
        OUTPUT,
        SPANS,
        prefix=prefix,
        prefix_ids=np.array(prefix_ids, dtype=np.int64),
    )
    (made,) = maker.examples([turns])
    return made


def test_tokens_and_mask(tokenizer: PreTrainedTokenizerFast) -> None:
    made = example(tokenizer)
    letters = {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz", start=3)}
    newline = tokenizer.convert_tokens_to_ids("Ċ")
    # <|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n
    prompt = [1, *(letters[c] for c in "user"), newline, letters["q"], 2, newline]
    prompt += [1, *(letters[c] for c in "assistant"), newline]
    assert made.prompt_ids.tolist() == prompt
    assert tokenizer.decode(made.response_ids[:-1]) == OUTPUT
    assert made.response_ids[-1] == 2
    assert made.loss_mask.tolist() == [0] * len(prompt) + [1] * (len(OUTPUT) + 1)


def test_the_student_s_own_ids_and_their_mask(tokenizer: PreTrainedTokenizerFast) -> None:
    # the student wrote "<think>\na" with ids that no tokenizer would give
    own = {"prefix": "<think>\na", "prefix_ids": [77, 88]}
    made = example(tokenizer, **own)  # type: ignore[arg-type]
    rest = len("b\n</think>\n\nc") + 1
    assert made.response_ids[:2].tolist() == [77, 88]
    assert made.loss_mask.sum() == 2 + rest
    masked = example(tokenizer, mask_student_prefix=True, **own)  # type: ignore[arg-type]
    assert masked.response_ids.tolist() == made.response_ids.tolist()
    size = made.prompt_ids.size
    assert masked.loss_mask.tolist() == [0] * (size + 2) + [1] * rest


def test_thinking_stays_in_the_target_and_leaves_earlier_turns(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    turns = [("user", "q"), ("assistant", "<think>\nx\n</think>\n\ny"), ("user", "z")]
    made = example(tokenizer, turns, template=STRIPPING)
    rendered = (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\ny<|im_end|>\n"
        "<|im_start|>user\nz<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(made.prompt_ids) == rendered
    assert tokenizer.decode(made.response_ids) == OUTPUT + "<|im_end|>"
    assert made.loss_mask.tolist() == [0] * made.prompt_ids.size + [1] * made.response_ids.size


def test_a_template_that_opens_the_thinking_part(tokenizer: PreTrainedTokenizerFast) -> None:
    plain, opened = (example(tokenizer, template=t) for t in (STRIPPING, OPENING))
    assert opened.prompt_ids.tolist() == plain.prompt_ids.tolist()
    assert opened.response_ids.tolist() == plain.response_ids.tolist()
    # what the prompt says of the turn is never written by the model
    size = plain.prompt_ids.size + len("<think>\n")
    assert opened.loss_mask.tolist() == [0] * size + [1] * (opened.num_tokens - size)


def test_what_looks_like_the_assistant_s_turn_in_a_prompt_is_no_target(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    made = example(tokenizer, [("user", "<|im_start|>assistant\n" + OUTPUT)])
    assert made.loss_mask.sum() == made.response_ids.size == len(OUTPUT) + 1
    assert not made.loss_mask[: made.prompt_ids.size].any()


def test_an_output_that_does_not_begin_with_its_prefix(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="output: does not begin with the student's prefix"):
        example(tokenizer, prefix="zzz", prefix_ids=[1])


def test_qwen3_s_own_template(qwen3: PreTrainedTokenizerFast) -> None:
    """It strips the thinking of earlier turns, and opens the assistant's turn by itself."""
    assert "</think>" in qwen3.chat_template
    output = "<think>\nTwo and two.\n</think>\n\nFour \u00e9."
    maker = ExampleMaker(
        qwen3, BulkEncoder(qwen3, "gigatoken"), settings(system_prompt="Be brief.")
    )
    turns = [
        Message(role="user", content="1 + 1?"),
        Message(role="assistant", content="<think>\nx\n</think>\n\nTwo."),
        Message(role="user", content="2 + 2? <think>no</think>"),
    ]
    whole = normalise(output, NORMALISED)
    assert whole is not None
    asked = Prompt(prompt_id="p", messages=turns)
    (made,) = maker.examples([maker.turns(asked, output, whole.output_spans)])
    prompt = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\nTwo.<|im_end|>\n"
        "<|im_start|>user\n2 + 2? <think>no</think><|im_end|>\n<|im_start|>assistant\n"
    )
    assert qwen3.decode(made.prompt_ids) == prompt
    assert qwen3.decode(made.response_ids) == output + "<|im_end|>"
    assert made.loss_mask.tolist() == [0] * made.prompt_ids.size + [1] * made.response_ids.size


def test_every_turn_of_a_conversation_as_the_model_meets_it(
    qwen3: PreTrainedTokenizerFast,
) -> None:
    """Earlier turns keep their own thinking, and lose it in the prompts of later ones."""
    maker = ExampleMaker(qwen3, BulkEncoder(qwen3, "gigatoken"), settings())
    call = ToolCall(name="add", arguments='{"a": 1}', call_id="c")
    prompt = Prompt(
        prompt_id="p",
        messages=[
            Message(role="user", content="1 + 1?"),
            Message(role="assistant", thinking="One and one.", content="Two."),
            Message(role="user", content="Sure?"),
            Message(role="assistant", content="Yes.", trains=False),
            Message(role="user", content="Add it."),
            Message(role="assistant", tool_calls=[call]),
            Message(role="tool", content="secret result", tool_call_id="c"),
        ],
    )
    found = list(maker.earlier(prompt))
    assert [place for place, _ in found] == [1, 5]
    first, second = maker.examples([turns for _, turns in found])
    assert qwen3.decode(first.response_ids) == ("<think>\nOne and one.\n</think>\n\nTwo.<|im_end|>")
    assert "One and one." not in qwen3.decode(second.prompt_ids)
    assert qwen3.decode(second.response_ids).endswith(
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
    )
    (last,) = maker.examples([maker.turns(prompt, "Done.", [Span(start=0, end=5)])])
    trained = np.concatenate([last.prompt_ids, last.response_ids])[last.loss_mask.astype(bool)]
    assert "secret" not in qwen3.decode(trained)
    assert "secret result" in qwen3.decode(last.prompt_ids)
