"""Length of responses in the student's tokens, prompt and end of turn included."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_dasd.config.base import TemplateVariables
from megatron_dasd.records import Response, Span
from megatron_dasd.text.bulk import BulkEncoder, Library, choose_library
from megatron_dasd.text.encoding import load_tokenizer, most_words_in_a_token
from megatron_dasd.text.layout import Layout, end_of_turn_id

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase

_CHECK_EVERY = 64
"""One response of this many, by a hash of its key, is also tokenised by the exact library, and the
ids are compared."""
_CHECK_CHARACTERS = 100_000
"""Characters compared of such a response, and of its prompt."""


class StudentTokenCounter:
    """Counts tokens at the speed of the fastest tokenizer that is exact."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        system_prompt: str | None,
        variables: TemplateVariables | None = None,
        encoder: BulkEncoder | None = None,
    ) -> None:
        """Prepare to count.

        Args:
            encoder: of the tokenizer; None: of the fastest library that is exact.

        Raises:
            UserError: the tokenizer has no token that ends a turn.
        """
        self._layout = Layout(tokenizer, system_prompt, variables=variables)
        if encoder is None:
            make_encoder = partial(BulkEncoder, tokenizer)
            encoder = make_encoder(choose_library(tokenizer, make_encoder)[0])
        self._encoder = encoder
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
            ExactnessError: the library gives other ids than the exact one.
        """
        laid = self._layout.lay_out_parts(
            response.prompt, output, spans, response.tool_calls, response.student_prefix
        )
        texts = [run for run in laid.runs if isinstance(run, str)]
        if is_checked(response):
            self._encoder.check(text[:_CHECK_CHARACTERS] for text in (laid.prompt, *texts))
        asked = self._encoder.encode([laid.prompt, laid.opening], parse_special=True)
        written = self._encoder.encode(texts, parse_special=False)
        num_special = len(laid.runs) - len(texts)
        return sum(map(len, [*asked, *written])) + len(response.student_prefix_ids) + num_special


def is_checked(response: Response) -> bool:
    """Whether a response is also tokenised by the exact library.

    Its key alone decides, not which process counts its tokens or what that has counted before.
    """
    return zlib.crc32(repr(response.key).encode()) % _CHECK_EVERY == 0


@lru_cache(maxsize=1)
def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder, loaded once."""
    return load_tokenizer(folder)


@lru_cache(maxsize=2)
def encoder_of(folder: Path, library: Library) -> BulkEncoder:
    """The encoder of a Hugging Face folder's tokenizer, made once for each library."""
    return BulkEncoder(tokenizer_of(folder), library)


def library_for(folder: Path) -> tuple[Library, str]:
    """The fastest library that gives the ids of a folder's tokenizer.

    Returns:
        (library, why it is not the fastest, if so)
    """
    return choose_library(tokenizer_of(folder), partial(encoder_of, folder))
