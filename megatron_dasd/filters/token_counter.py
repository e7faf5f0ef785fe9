"""Length of responses in the student's tokens, prompt and end of turn included."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from megatron_dasd.config.base import TemplateVariables
from megatron_dasd.printing import say
from megatron_dasd.records import Response, Span
from megatron_dasd.text.bulk import BulkEncoder, ExactnessError, choose_library
from megatron_dasd.text.encoding import most_words_in_a_token
from megatron_dasd.text.layout import Layout, end_of_turn_id

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase

_CHECK_EVERY = 64
"""One response of this many is also tokenised by the exact library, and the ids are compared."""
_CHECK_CHARACTERS = 100_000
"""Characters compared of such a response, and of its prompt."""


class StudentTokenCounter:
    """Counts tokens at the speed of the fastest tokenizer that is exact."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        system_prompt: str | None,
        variables: TemplateVariables | None = None,
    ) -> None:
        """Choose the tokenizer library; print a line when it is not the fast one.

        Raises:
            UserError: the tokenizer has no token that ends a turn.
        """
        self._layout = Layout(tokenizer, system_prompt, variables=variables)
        self._make_encoder = partial(BulkEncoder, tokenizer)
        library, reason = choose_library(tokenizer, self._make_encoder)
        if reason:
            _report_fallback(reason)
        self._encoder = self._make_encoder(library)
        self._numbers = count()
        end_of_turn_id(tokenizer, variables)  # the end of turn is counted, so it has to exist
        self.words_per_token = most_words_in_a_token(tokenizer)
        """Most words that a token of the student reaches into."""

    def count(self, response: Response, output: str, spans: Sequence[Span]) -> int:
        """Tokens that training would see of a response.

        Args:
            output: the whole response in the normalised form.
            spans: thinking part and answer in it.

        Raises:
            ValueError: it does not begin with the student's prefix, or the template refuses the
                turns.
        """
        laid = self._layout.lay_out_parts(
            response.prompt, output, spans, response.tool_calls, response.student_prefix
        )
        texts = [run for run in laid.runs if isinstance(run, str)]
        if next(self._numbers) % _CHECK_EVERY == 0:
            self._check(*(text[:_CHECK_CHARACTERS] for text in (laid.prompt, *texts)))
        asked = self._encoder.encode([laid.prompt, laid.opening], parse_special=True)
        written = self._encoder.encode(texts, parse_special=False)
        num_special = len(laid.runs) - len(texts)
        return sum(map(len, [*asked, *written])) + len(response.student_prefix_ids) + num_special

    def _check(self, *texts: str) -> None:
        """Fall back to the exact library when the fast one gives other ids."""
        try:
            self._encoder.check(texts)
        except ExactnessError as error:
            _report_fallback(str(error))
            self._encoder = self._make_encoder("tokenizers")


def _report_fallback(reason: str) -> None:
    say(f"tokenising with tokenizers, not gigatoken: {reason}")
