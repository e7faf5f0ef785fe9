"""Lengths of responses in the student's tokens: those of what training sees."""

from collections.abc import Callable, Sequence

import pytest
from transformers import PreTrainedTokenizerBase

from megatron_dasd.arrays import Ints
from megatron_dasd.filters.token_counter import StudentTokenCounter, is_checked
from megatron_dasd.records import Response, Span
from megatron_dasd.text.bulk import BulkEncoder, ExactnessError
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


def test_a_fast_tokenizer_that_is_not_exact_is_found_out(
    tokenizer: PreTrainedTokenizerBase, make_response: Callable[..., Response]
) -> None:
    class Inexact(BulkEncoder):
        def encode(self, texts: Sequence[str], *, parse_special: bool) -> list[Ints]:
            found = super().encode(texts, parse_special=parse_special)
            return [
                ids[1:] if "1234567" in text else ids
                for text, ids in zip(texts, found, strict=True)
            ]

    counter = StudentTokenCounter(tokenizer, None, encoder=Inexact(tokenizer, "gigatoken"))
    responses = [make_response(OUTPUT, candidate=number) for number in range(640)]
    checked = [response for response in responses if is_checked(response)]
    assert 2 <= len(checked) <= 20  # a hash of the key chooses one of 64
    with pytest.raises(ExactnessError, match="ids differ for a text"):
        counter.count(checked[0], OUTPUT, [])
    unchecked = next(response for response in responses if not is_checked(response))
    counter.count(unchecked, OUTPUT, [])
