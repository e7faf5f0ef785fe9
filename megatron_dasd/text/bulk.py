"""Many texts to token ids at the speed of the fastest tokenizer that is exact.

``gigatoken`` is some 25 times as fast as ``tokenizers`` and does not take every vocabulary.  It is
used where it takes this one and its ids are found equal: of a probe at the start, and of a sample
of the texts on the way.  Either way the ids are those of ``text.encoding.encode``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import gigatoken
import numpy as np
from tokenizers import Tokenizer

from megatron_dasd.arrays import Ints

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase

Library = Literal["gigatoken", "tokenizers"]

_PROBE = (
    "<think>\n1. Let x = 3.14 (or 22/7?), then 2x\u00b2 \u2264 1234567; so\n\n\tf(x) = {x: 1}\n",
    "\r\n</think>\n\n**Answer:**  $\\frac{1}{2}$ we'll don't I'M  ",
    "a  b\r\n\t1234 e\u0301 \u00e9 \u65e5\u672c\u8a9e \U0001f600\u200d\U0001f469 \ufb01 \x00",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d",
    "\u0924\u0947 \u2003\u3000x \n \n  \n",
    "",
)


class ExactnessError(Exception):
    """A text that both libraries do not give the same ids of."""


class BulkEncoder:
    """Encodes batches of texts, by one of two libraries; the ids are the same."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, library: Library) -> None:
        """Load the tokenizer into the library.

        Args:
            tokenizer: as ``text.encoding.load_tokenizer`` gives it.
            library: as :func:`choose_library` says.
        """
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._fast = (
            gigatoken.Tokenizer.from_json(self._backend.to_str())
            if library == "gigatoken"
            else None
        )
        added = tokenizer.added_tokens_decoder
        self._is_special = np.zeros(max(len(tokenizer), *added, 0) + 1, dtype=np.bool_)
        self._is_special[[index for index, token in added.items() if token.special]] = True

    def encode(self, texts: Sequence[str], *, parse_special: bool) -> list[Ints]:
        """Token ids of each text; none are added.

        Args:
            texts: any number of them.
            parse_special: whether a special token that is written out in a text becomes that token.
        """
        if self._fast is None:
            return self._encode_exactly(texts, parse_special)
        encoded = self._fast.encode_batch(list(texts), parallel=False).layout
        ids = np.asarray(encoded.content.data).astype(np.int64)
        borders = np.asarray(encoded.offsets.data)
        found = [ids[start:end] for start, end in pairwise(borders.tolist())]
        if not parse_special and self._is_special[ids].any():  # the fast library always parses
            for index, own in enumerate(found):
                if self._is_special[own].any():
                    (found[index],) = self._encode_exactly([texts[index]], parse_special)
        return found

    def check(self, texts: Iterable[str]) -> None:
        """Make sure that both libraries agree on some texts.

        Raises:
            ExactnessError: they do not.
        """
        if self._fast is None:
            return
        for text in texts:
            for parse_special in (True, False):
                (fast,) = self.encode([text], parse_special=parse_special)
                (exact,) = self._encode_exactly([text], parse_special)
                if not np.array_equal(fast, exact):
                    raise ExactnessError(f"ids differ for a text that begins {text[:40]!r}")
                if not self._is_special[exact].any():
                    break  # no special token is written out: both ways are one

    def _encode_exactly(self, texts: Sequence[str], parse_special: bool) -> list[Ints]:
        self._backend.no_truncation()  # transformers sets these for every call, and so do we
        self._backend.no_padding()
        self._backend.encode_special_tokens = not parse_special
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]


def choose_library(
    tokenizer: PreTrainedTokenizerBase, encoder_by: Callable[[Library], BulkEncoder]
) -> tuple[Library, str]:
    """Find the fastest library that gives a tokenizer's ids.

    Returns:
        (library, why it is not the fastest, if so)
    """
    try:
        fast = encoder_by("gigatoken")
        added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        fast.check([*_PROBE, " ".join(added), "x".join(added)])
    except ExactnessError as error:
        return "tokenizers", str(error)
    except (RuntimeError, ValueError) as error:
        return "tokenizers", str(error).splitlines()[0]
    return "gigatoken", ""
