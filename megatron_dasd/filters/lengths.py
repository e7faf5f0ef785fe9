"""How long a response is in the student's tokens, prompt and end of turn included."""

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
_CHECK_CHARACTERS = 100_000
"""Of so many responses so much of one is tokenised exactly too, to compare the ids."""


class Lengths:
    """Counts tokens at the speed of the fastest tokenizer that is exact."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> None:
        """Choose the library, and say so where it is not the fast one."""
        self._tokenizer, self._system_prompt = tokenizer, system_prompt
        self._encoder_by = partial(BulkEncoder, tokenizer)
        library, reason = choose_library(tokenizer, self._encoder_by)
        if reason:
            self._tell(reason)
        self._encoder = self._encoder_by(library)
        self._numbers = count()
        end_of_turn_id(tokenizer)  # which counts, so it has to exist
        self.words_per_token = most_words_in_a_token(tokenizer)
        """Most words that a token of the student reaches into."""

    def of(self, response: Response, output: str) -> int:
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
        try:
            self._encoder.check(texts)
        except ExactnessError as error:
            self._tell(str(error))
            self._encoder = self._encoder_by("tokenizers")

    def _tell(self, reason: str) -> None:
        print(f"tokenising with tokenizers, not gigatoken: {reason}", flush=True)
