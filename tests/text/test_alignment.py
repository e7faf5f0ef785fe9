"""Tokens to sentences: every case by hand, and that no byte of content counts twice or never."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dasd.records import Span
from megatron_dasd.text.alignment import NO_SENTENCE, sentence_of_tokens
from megatron_dasd.text.sentences import split_sentences


def place(tokens: list[str | bytes], spans: list[tuple[int, int]], ends: list[int]) -> list[int]:
    """Sentences of tokens that are given by what they spell."""
    pieces = [token if isinstance(token, bytes) else token.encode() for token in tokens]
    text = b"".join(pieces).decode()
    at = [Span(start=start, end=end) for start, end in spans]
    return sentence_of_tokens([len(piece) for piece in pieces], text, at, ends).tolist()


def test_a_token_over_a_border_belongs_to_where_it_begins() -> None:
    # "A. B." with the sentences "A. " and "B."; the token ". B" begins in the first
    assert place(["A", ". B", "."], [(0, 5)], [3, 5]) == [0, 0, 1]
    # " B" begins with whitespace of the first sentence, its first visible byte is in the second
    assert place(["A.", " B", "."], [(0, 5)], [3, 5]) == [0, 1, 1]


def test_whitespace_alone_belongs_to_the_sentence_before() -> None:
    assert place(["A.", "\n", "\n", "B"], [(0, 5)], [4, 5]) == [0, 0, 0, 1]


def test_whitespace_that_opens_a_span_belongs_to_its_first_sentence() -> None:
    assert place([" ", "A.", " ", "B"], [(0, 5)], [4, 5]) == [0, 0, 0, 1]


def test_special_tokens_and_delimiters_belong_to_none() -> None:
    # <think>\nA. B.\n</think>\n\nC<end of turn>
    tokens: list[str | bytes] = [
        "<think>", "\n", "A.", " B.", "\n", "</think>", "\n\n", "C", b"",
    ]  # fmt: skip
    expected = [-1, -1, 0, 1, -1, -1, -1, 2, -1]
    assert place(tokens, [(8, 13), (24, 25)], [3, 5, 6]) == expected
    # the same content in other delimiters, where tokens hold content and delimiter together
    tokens = ["A. ", "B. Ans", "wer:", " C"]
    assert place(tokens, [(0, 5), (14, 15)], [3, 5, 6]) == [0, 1, -1, 2]
    # a token that begins with a delimiter's byte
    assert place(["A", ":C", "D"], [(0, 1), (2, 4)], [1, 3]) == [0, -1, 1]


def test_a_character_split_over_tokens_and_unicode_whitespace() -> None:
    # "é.\u3000ü": é and ü have 2 bytes, the ideographic space has 3
    e, space, u = "é".encode(), "\u3000".encode(), "ü".encode()
    tokens = [e[:1], e[1:] + b".", space[:2], space[2:] + u[:1], u[1:]]
    assert place(tokens, [(0, 8)], [6, 8]) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("num_bytes", "ends", "message"),
    [([1, 1], [3], "num_bytes: sum to 2, the text has 3"), ([3], [2], "do not cover")],
)
def test_what_does_not_fit_is_refused(num_bytes: list[int], ends: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sentence_of_tokens(num_bytes, "abc", [Span(start=0, end=3)], ends)


def test_nothing_at_all() -> None:
    assert sentence_of_tokens([], "", [], []).tolist() == []
    assert sentence_of_tokens([0], "", [], []).tolist() == [NO_SENTENCE]


CONTENT = st.text(alphabet="ab.! \né\u3000", max_size=30).map(str.strip).filter(bool)


@given(CONTENT, CONTENT, st.data())
def test_agrees_with_the_rule_byte_by_byte(thinking: str, answer: str, data: st.DataObject) -> None:
    text = f"<think>\n{thinking}\n</think>\n\n{answer}"
    first, second = thinking.encode(), answer.encode()
    spans = [(8, 8 + len(first)), (19 + len(first), 19 + len(first) + len(second))]
    sentences = [s for part in (thinking, answer) for s in split_sentences(part)]
    ends = np.cumsum([len(s.encode()) for s in sentences]).tolist()
    size = len(text.encode())
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=20)))
    borders = [0, *cuts, size]

    # The rule, one byte at a time.
    owner: list[int] = [NO_SENTENCE] * size
    byte_of_content = [b for start, end in spans for b in range(start, end)]
    index = [i for i, s in enumerate(sentences) for _ in s.encode()]
    for byte, sentence in zip(byte_of_content, index, strict=True):
        owner[byte] = sentence
    visible = [not c.isspace() for c in text for _ in c.encode()]
    expected = []
    for start, end in pairwise(borders):
        anchor = next((b for b in range(start, end) if visible[b]), start)
        expected.append(owner[anchor] if end > start else NO_SENTENCE)

    num_bytes = np.diff(borders).tolist()
    at = [Span(start=start, end=end) for start, end in spans]
    assert sentence_of_tokens(num_bytes, text, at, ends).tolist() == expected
