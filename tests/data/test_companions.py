"""What is known of each token, by hand, and against the alignment that asks the text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from megatron_dasd.data.companions import ResponseTokens, TokenBytes, _has_wide_space
from megatron_dasd.records import Span
from megatron_dasd.text.alignment import sentence_of_tokens

NAN = float("nan")


class Table(TokenBytes):
    """A vocabulary of these pieces."""

    def __init__(self, *pieces: bytes) -> None:

        from megatron_dasd.data import companions

        self._num_bytes = np.array([len(piece) for piece in [*pieces, b""]])
        self._visible = np.array([companions._first_visible(piece) for piece in [*pieces, b""]])


PIECES = (
    b"ab",
    b" c",
    b"d",
    b" ",
    b"\n",
    b"e.",
    b"<t>",
    b"ab ",
    "é".encode()[:1],
    "é".encode()[1:],
)
TABLE = Table(*PIECES)


def response(ids: list[int], *spans: tuple[int, int]) -> ResponseTokens:
    output = b"".join(PIECES[i] for i in ids if i < len(PIECES)).decode()
    return ResponseTokens(output, np.array(ids), TABLE, [Span(start=s, end=e) for s, e in spans])


def logprobs(own: ResponseTokens, ids: list[int], *spans: tuple[int, int]) -> list[float | None]:
    sizes = np.array([len(PIECES[i]) if i < len(PIECES) else 0 for i in ids])
    values = own.teacher_logprobs(
        [Span(start=s, end=e) for s, e in spans],
        np.array(ids),
        sizes,
        -np.arange(1.0, len(ids) + 1),
    )
    return [None if np.isnan(value) else float(value) for value in values]


def test_one_tokenizer_token_for_token() -> None:
    # <t>ab c d, the teacher the same behind two markers without bytes; 99 is the end of turn
    own = response([6, 0, 1, 2, 99], (3, 8))
    assert logprobs(own, [99, 6, 99, 0, 1, 2], (3, 8)) == [None, -4, -5, -6, None]


def test_tokens_that_were_cut_otherwise_are_unknown() -> None:
    # "ab" " " "d" "d" against "ab " "d" "d": only the last two are the same tokens
    own = response([0, 3, 2, 2, 99], (0, 5))
    assert logprobs(own, [7, 2, 2], (0, 5)) == [None, None, -2, -3, None]


def test_the_same_bytes_at_another_place_are_another_token() -> None:
    own = response([2, 2, 99], (0, 2))
    assert logprobs(own, [2, 2, 2], (1, 3)) == [-2, -3, None]


def test_a_continuation_has_no_teacher_log_probs() -> None:
    assert logprobs(response([0, 99], (0, 2)), [0]) == [None, None]


@pytest.mark.parametrize(
    ("spans", "message"),
    [([(0, 1)], "text_spans: hold other content"), ([(9, 11)], "text_spans: reach beyond")],
)
def test_spans_of_the_teacher_that_do_not_fit(spans: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logprobs(response([0, 99], (0, 2)), [0], *spans)


@pytest.mark.parametrize("spans", [[(0, 3)], [(1, 2), (0, 1)], [(-1, 2)]])
def test_spans_outside_the_output(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="output_spans: do not lie in the output of 2 bytes"):
        response([0, 99], *spans)


def classes(own: ResponseTokens, sizes: list[int], numbers: list[int]) -> list[int]:
    return own.sentence_classes(np.array(sizes), np.array(numbers, np.uint8)).tolist()


def test_a_token_belongs_to_the_sentence_of_its_first_visible_byte() -> None:
    # <t> | "abe." "\n" | " c" "d" : sentences "abe.\n" and " cd", of which " " could go with either
    own = response([6, 0, 5, 4, 1, 2, 99], (3, 11))
    assert classes(own, [5, 3], [1, 2]) == [0, 1, 1, 1, 2, 2, 0]
    # a border inside the token " c", before its visible byte: it goes to the sentence behind
    assert classes(own, [6, 2], [1, 2]) == [0, 1, 1, 1, 2, 2, 0]
    # and behind it: it stays
    assert classes(own, [7, 1], [1, 2]) == [0, 1, 1, 1, 1, 2, 0]


def test_a_part_without_sentences_has_none() -> None:
    own = response([0, 4, 2, 99], (0, 2), (3, 4))
    assert classes(own, [1], [3]) == [0, 0, 3, 0]
    assert classes(own, [2, 1], [3, 1]) == [3, 0, 1, 0]
    assert classes(own, [], []) == [0, 0, 0, 0]


def test_sentences_of_another_text() -> None:
    with pytest.raises(ValueError, match="sentences: laid end to end are not the content"):
        classes(response([0, 99], (0, 2)), [3], [1])


@given(
    st.text(st.sampled_from("ab.\n é\u00a0\u3000\u2003日😀"), min_size=1, max_size=30),
    st.data(),
)
def test_classes_are_those_of_the_alignment(text: str, data: st.DataObject) -> None:
    """Whatever bytes the tokens hold: cut anywhere, also inside characters and spaces."""
    encoded = text.encode()
    size = len(encoded)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, size - 1)), max_size=12)) - {size})
    ends = sorted(data.draw(st.sets(st.integers(1, size), max_size=5)) | {size})
    pieces = [encoded[a:b] for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
    table = Table(*pieces)
    spans = [Span(start=0, end=size)]
    own = ResponseTokens(text, np.arange(len(pieces)), table, spans)
    sizes = np.diff([0, *ends])
    numbers = np.arange(1, len(ends) + 1, dtype=np.uint8)
    expected = sentence_of_tokens([len(piece) for piece in pieces], text, spans, ends) + 1
    assert own.sentence_classes(sizes, numbers).tolist() == expected.tolist()


@pytest.mark.parametrize("space", [chr(i) for i in range(0x80, 0x3001) if chr(i).isspace()])
def test_spaces_of_several_bytes_are_seen(space: str) -> None:
    assert _has_wide_space("é" + space)
    assert not _has_wide_space("é \n“x”日")


def test_the_table_of_a_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    table = TokenBytes(tokenizer)
    ids = np.array([*tokenizer.encode("a\n<|im_end|>"), 10_000])
    assert table.num_bytes(ids).tolist() == [1, 1, 0, 0]
    assert table.first_visible(ids).tolist() == [0, 0, 0, 0]
