"""Length of responses in the student's tokens, prompt and end of turn included."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from megatron_dasd.records import Response
from megatron_dasd.text.bulk import BulkEncoder, ExactnessError, choose_library
from megatron_dasd.text.chat import render_prompt
from megatron_dasd.text.encoding import end_of_turn_id, most_words_in_a_token, split_example

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase

_CHECK_EVERY = 64
"""One response of this many is also tokenised by the exact library, and the ids are compared."""
_CHECK_CHARACTERS = 100_000
"""Characters compared of such a response, and of its prompt."""


class StudentTokenCounter:
    """Counts tokens at the speed of the fastest tokenizer that is exact."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> None:
        """Choose the tokenizer library; print a line when it is not the fast one.

        Raises:
            UserError: the tokenizer has no token that ends a turn.
        """
        self._tokenizer, self._system_prompt = tokenizer, system_prompt
        self._make_encoder = partial(BulkEncoder, tokenizer)
        library, reason = choose_library(tokenizer, self._make_encoder)
        if reason:
            _report_fallback(reason)
        self._encoder = self._make_encoder(library)
        self._numbers = count()
        end_of_turn_id(tokenizer)  # the end of turn is counted, so it has to exist
        self.words_per_token = most_words_in_a_token(tokenizer)
        """Most words that a token of the student reaches into."""

    def count(self, response: Response, output: str) -> int:
        """Tokens that training would see of a response.

        Args:
            output: the whole response in the normalised form.

        Raises:
            ValueError: it does not begin with the student's prefix.
        """
        prompt = render_prompt(self._tokenizer, response.prompt.messages, self._system_prompt)
        asked, rest = split_example(prompt, output, response.student_prefix)
        if next(self._numbers) % _CHECK_EVERY == 0:
            self._check(asked[:_CHECK_CHARACTERS], rest[:_CHECK_CHARACTERS])
        (prompt_ids,) = self._encoder.encode([asked], parse_special=True)
        (rest_ids,) = self._encoder.encode([rest], parse_special=False)
        return len(prompt_ids) + len(response.student_prefix_ids) + len(rest_ids) + 1

    def _check(self, *texts: str) -> None:
        """Fall back to the exact library when the fast one gives other ids."""
        try:
            self._encoder.check(texts)
        except ExactnessError as error:
            _report_fallback(str(error))
            self._encoder = self._make_encoder("tokenizers")


def _report_fallback(reason: str) -> None:
    print(f"tokenising with tokenizers, not gigatoken: {reason}", flush=True)
