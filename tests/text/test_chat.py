import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from megatron_dasd.errors import UserError
from megatron_dasd.records import Message
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.text.chat import read_few_shot, render_prompt

QUESTION = Message(role="user", content="q?")
EXAMPLE = [Message(role="user", content="u"), Message(role="assistant", content="a")]
TASKS_OWN = Message(role="system", content="own")


def test_a_prompt_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (
        render_prompt(tokenizer, [QUESTION])
        == "<|im_start|>user\nq?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_system_turn_then_examples_then_the_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    assert render_prompt(tokenizer, [QUESTION], "be brief", EXAMPLE) == (
        "<|im_start|>system\nbe brief<|im_end|>\n"
        "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nq?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_prompts_own_system_turn_stands_before_the_settings_one(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert render_prompt(tokenizer, [TASKS_OWN, QUESTION], "be brief", EXAMPLE) == render_prompt(
        tokenizer, [QUESTION], "own", EXAMPLE
    )


def test_no_template_is_the_users_mistake() -> None:
    bare = byte_tokenizer("ab")
    bare.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        render_prompt(bare, [QUESTION])


def test_a_template_that_refuses_the_turns_is_named() -> None:
    strict = byte_tokenizer("ab")
    strict.chat_template = "{{ raise_exception('no system turn here') }}"
    with pytest.raises(UserError, match=r"refuses the turns system, user \(no system turn here\)"):
        render_prompt(strict, [QUESTION], "be brief")


def test_few_shot_turns_come_in_pairs(tmp_path: Path) -> None:
    file = tmp_path / "few_shot.jsonl"
    rows = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    assert read_few_shot(file) == EXAMPLE
    assert read_few_shot(None) == []
    file.write_text(json.dumps(rows[0]))
    with pytest.raises(UserError, match=r"few_shot\.jsonl: wanted pairs"):
        read_few_shot(file)
