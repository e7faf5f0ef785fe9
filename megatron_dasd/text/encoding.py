"""Text to token ids and token ids to bytes, for tokenizers that spell every text byte for byte.

Two models see the same text through different tokenizers; the byte is the unit that both share.
In a byte-level BPE vocabulary every entry is written in an alphabet of 256 printable characters,
one for each byte (the alphabet of GPT-2), so the bytes of a token can be read off its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from megatron_dasd.errors import UserError
from megatron_dasd.paths import check_links

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase

_PROBE = "a  b\r\n\t1234 e\u0301 \u00e9 \u65e5\u672c \U0001f600 \ufb01 '\u00bd\x00"
"""Runs of spaces, control characters, digits, and characters that Unicode normalisation changes."""

_FILES = (".jinja", ".json", ".model", ".txt")
"""Files of a tokenizer."""
_MOST_IDS = 1 << 23
"""A larger vocabulary is damage."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a Hugging Face folder, without its Unicode normalisation.

    Normalisation would give tokens of another text than the one that was scored or sampled; a
    byte-level vocabulary has no need of it.

    Raises:
        UserError: no tokenizer there, or one whose tokens do not spell a text byte for byte.
    """
    from transformers import AutoTokenizer  # takes seconds, and most commands load no tokenizer

    check_links(folder, _FILES)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of a damaged file the library raises any kind, a bare one too
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{folder}: no tokenizer that can be loaded ({reason})") from None
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"{folder}: wanted a tokenizer.json (a fast tokenizer)")
    backend.normalizer = None
    try:
        spelled = b"".join(token_bytes(tokenizer, encode(tokenizer, _PROBE)))
    except UnicodeEncodeError:
        spelled = b""
    except UserError:
        raise
    except Exception as error:  # see above
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{folder}: a tokenizer that does not encode ({reason})") from None
    if spelled != _PROBE.encode():
        raise UserError(
            f"{folder}: not a byte-level tokenizer: its tokens do not spell a text byte for byte"
        )
    return tokenizer


def encode(
    tokenizer: PreTrainedTokenizerBase, text: str, *, parse_special: bool = True
) -> list[int]:
    """Token ids of a text; none are added.

    Args:
        parse_special: whether a special token that is written out in the text becomes that token.
            True for rendered prompts; False for what a model or a user wrote.
    """
    return list(
        tokenizer.encode(
            text,
            add_special_tokens=False,
            split_special_tokens=not parse_special,
            verbose=False,  # texts longer than the model's context are cut or measured, not run
        )
    )


def token_bytes(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[bytes]:
    """The bytes of text that each token adds; none for special tokens.

    Tokens added to the vocabulary that are not special (Qwen3's ``<think>``) add their own text.
    Ids beyond the tokenizer's vocabulary, which models with a padded embedding can draw, add none.
    """
    table = _byte_table(tokenizer)
    return [table[i] if i < len(table) else b"" for i in ids]


def token_num_bytes(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """Number of UTF-8 bytes of text that each token adds; 0 for special tokens."""
    return [len(piece) for piece in token_bytes(tokenizer, ids)]


def most_words_in_a_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The largest number of words, separated by ASCII whitespace, that one token reaches into.

    It is 1 for tokenizers that cut at whitespace first, so that a text has no fewer tokens than
    words.
    """
    return max((len(piece.split()) for piece in _byte_table(tokenizer)), default=1)


def byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary: character -> byte.

    Printable Latin-1 bytes stand for themselves; the other 68 follow at U+0100 in byte order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + rank): byte for rank, byte in enumerate(others)
    }


@lru_cache(maxsize=8)
def _byte_table(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """Bytes of every id of the vocabulary, added tokens included.

    Raises:
        UnicodeEncodeError: an entry is not written in the byte alphabet.
    """
    # by characters of Latin-1, whose codes are the bytes; others are left, and refuse to be encoded
    latin = {character: chr(byte) for character, byte in byte_alphabet().items()}
    names = str.maketrans(latin | {chr(i): "\u0400" for i in range(256) if chr(i) not in latin})
    added = tokenizer.added_tokens_decoder
    table = [b""] * len(tokenizer)
    for token, index in tokenizer.get_vocab().items():
        if index in added:
            piece = b"" if added[index].special else token.encode()
        else:
            piece = token.translate(names).encode("latin-1")
        if index >= _MOST_IDS:
            raise UserError(f"{tokenizer.name_or_path}: token id {index} is out of range")
        if index >= len(table):  # ids with gaps: the vocabulary's size is not its last id + 1
            table += [b""] * (index + 1 - len(table))
        table[index] = piece
    return table
