import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from megatron_dasd.errors import UserError
from megatron_dasd.records import Message
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.text.chat import read_few_shot, render_or_refuse, render_prompt

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


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = {
    ENDLESS: "it takes more than 2 s",
    "{{ 'x' * 10**11 }}": "it takes more than 512 MiB",
    "{{ 'x' * 4 * 10**7 }}": "it gives more than 32 MiB",
    "{{ 1 // 0 }}": "integer division or modulo by zero",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}": "maximum recursion depth exceeded",
    "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}": "maximum recursion depth exceeded",
    "{% for %}": "Expected an expression, got 'end of statement block'",
    "{{ ''.__class__.__mro__ }}": "access to attribute '__class__' of 'str' object is unsafe.",
    "{{ raise_exception('\x1b[31m\nred') }}": r"\x1b[31m red",
}


@pytest.mark.parametrize("template", HOSTILE, ids=HOSTILE.values())
def test_a_template_has_limits(template: str) -> None:
    hostile = byte_tokenizer("ab")
    hostile.chat_template = template
    told = f": the chat template refuses the turns user ({HOSTILE[template]})"
    assert render_or_refuse(hostile, [QUESTION], None, {}) == ("", told)


def test_a_template_has_limits_off_the_main_thread_and_the_next_call_works() -> None:
    hostile = byte_tokenizer("ab")
    hostile.chat_template = (
        f"{{% if messages[0].content == 'q?' %}}{ENDLESS}{{% endif %}}{{{{ messages[0].content }}}}"
    )
    with ThreadPoolExecutor() as threads:
        late = threads.submit(render_prompt, hostile, [QUESTION])
        with pytest.raises(UserError, match="takes more than 2 s"):
            late.result()
    sane = Message(role="user", content="\ud800 sane \U0001f600")
    assert render_prompt(hostile, [sane]) == sane.content
