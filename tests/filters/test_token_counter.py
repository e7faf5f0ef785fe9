"""Lengths of responses in the student's tokens: those of what training sees."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from megatron_dasd.filters import token_counter
from megatron_dasd.filters.token_counter import StudentTokenCounter
from megatron_dasd.records import Response, Span
from megatron_dasd.text.bulk import BulkEncoder, ExactnessError, Library
from megatron_dasd.text.chat import render_prompt
from megatron_dasd.text.encoding import encode

OUTPUT = (
    "<think>\nLet x = 3.14; \u00e9 \U0001f600 <|im_end|> 1234567\n</think>\n\nIt is $\\frac{1}{2}$."
)


@pytest.mark.parametrize("name", ["tokenizer", "qwen3"])
def test_prompt_response_and_end_of_turn(
    name: str, request: pytest.FixtureRequest, make_response: Callable[..., Response]
) -> None:
    tokenizer: PreTrainedTokenizerBase = request.getfixturevalue(name)
    for prefix, prefix_ids in (("", []), ("<think>\nLet", [5, 6, 7])):
        response = make_response(OUTPUT, student_prefix=prefix, student_prefix_ids=prefix_ids)
        spans = [Span(start=8, end=48), Span(start=59, end=79)]
        prompt = render_prompt(tokenizer, response.prompt.messages, "Be brief.")
        rest = OUTPUT.removeprefix(prefix)
        num_tokens = len(encode(tokenizer, prompt)) + len(prefix_ids) + 1
        num_tokens += len(encode(tokenizer, rest, parse_special=False))
        counter = StudentTokenCounter(tokenizer, "Be brief.")
        assert counter.count(response, OUTPUT, spans) == num_tokens


def test_a_fast_tokenizer_that_is_not_exact_is_left(
    tokenizer: PreTrainedTokenizerBase,
    make_response: Callable[..., Response],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    used: list[Library] = []

    class Inexact(BulkEncoder):
        def __init__(self, tokenizer: PreTrainedTokenizerBase, library: Library) -> None:
            super().__init__(tokenizer, library)
            self.library = library

        def check(self, texts: Any) -> None:
            if self.library == "gigatoken" and any("1234567" in text for text in texts):
                raise ExactnessError("ids differ for a text")

        def encode(self, texts: Any, *, parse_special: bool) -> Any:
            used.append(self.library)
            return super().encode(texts, parse_special=parse_special)

    monkeypatch.setattr(token_counter, "BulkEncoder", Inexact)
    StudentTokenCounter(tokenizer, None).count(make_response(OUTPUT), OUTPUT, [])
    assert set(used) == {"tokenizers"}
    told = capsys.readouterr().out
    assert told == "tokenising with tokenizers, not gigatoken: ids differ for a text\n"
