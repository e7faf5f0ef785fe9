"""Bulk encoding: the ids of ``encode``, whichever library gives them."""

from functools import partial

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from megatron_dasd.text.bulk import BulkEncoder, ExactnessError, Library, choose_library
from megatron_dasd.text.encoding import encode

TEXTS = ["abc", "", "a\nb <|im_end|> é日", "<|im_start|>user\nq<|im_end|>\n"]


@pytest.mark.parametrize("library", ["gigatoken", "tokenizers"])
@pytest.mark.parametrize("parse_special", [True, False])
def test_the_ids_are_those_of_encode(
    library: Library, parse_special: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = BulkEncoder(tokenizer, library).encode(TEXTS, parse_special=parse_special)
    expected = [encode(tokenizer, text, parse_special=parse_special) for text in TEXTS]
    assert [ids.tolist() for ids in found] == expected
    assert (2 in expected[2]) is parse_special


def test_gigatoken_is_taken_where_it_is_exact(tokenizer: PreTrainedTokenizerFast) -> None:
    assert choose_library(tokenizer, partial(BulkEncoder, tokenizer)) == ("gigatoken", "")


def test_a_vocabulary_that_gigatoken_refuses() -> None:
    merges = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merges)
    library, reason = choose_library(tokenizer, partial(BulkEncoder, tokenizer))
    assert library == "tokenizers"
    assert "no single-byte vocab entry" in reason
    assert "\n" not in reason
    assert BulkEncoder(tokenizer, library).encode(["abb"], parse_special=True)[0].tolist() == [2, 1]


class Inexact(BulkEncoder):
    """One whose fast library takes a newline for a space."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, library: Library) -> None:
        super().__init__(tokenizer, library)
        fast = self._fast

        class Library:
            def encode_batch(self, texts: list[str], parallel: bool) -> object:
                return fast.encode_batch([t.replace("\n", " ") for t in texts], parallel=parallel)

        self._fast = Library()  # type: ignore[assignment]


def test_ids_that_are_not_exact_are_found_out(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Inexact(tokenizer, "gigatoken")
    encoder.check(["abc", "a b"])
    with pytest.raises(ExactnessError, match="ids differ for a text that begins 'a\\\\nb'"):
        encoder.check(["abc", "a\nb"])
    library, reason = choose_library(tokenizer, partial(Inexact, tokenizer))
    assert library == "tokenizers"
    assert "ids differ" in reason
    np.testing.assert_array_equal(encoder.encode(["ab"], parse_special=True)[0], [3, 4])
