"""Words, runs and loops against counting them the plain way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dasd.filters.ngrams import (
    Words,
    longest_loop,
    longest_stretch,
    loop_at_end,
    loop_weight,
    numbered,
    runs_before,
    words_of,
)


def test_words_of_any_language() -> None:
    assert words_of("Let x_1 = 3.14, ok?") == ["Let", "x_1", "=", "3", ".", "14", ",", "ok", "?"]
    # Chinese and Japanese have no spaces: a character is a word
    assert words_of("答案是3。f(x)") == ["答", "案", "是", "3", "。", "f", "(", "x", ")"]
    assert words_of("größer als") == ["größer", "als"]


def test_vowel_signs_belong_to_words_and_thai_has_no_spaces() -> None:
    assert words_of("हिन्दी है।") == ["हिन्दी", "है", "।"]
    assert words_of("e\u0301t\u00e9") == ["e\u0301t\u00e9"]
    assert words_of("คำ") == ["ค", "ำ"]


@given(st.lists(st.integers(1, 3), max_size=40), st.integers(1, 4))
def test_the_run_before_is_found_as_by_hand(values: list[int], size: int) -> None:
    runs = [tuple(values[i : i + size]) for i in range(max(0, len(values) - size + 1))]
    before = [
        max((j for j in range(i) if runs[j] == run), default=-1) for i, run in enumerate(runs)
    ]
    assert runs_before(numbered([str(v) for v in values]), size).tolist() == before


def test_what_words_weigh() -> None:
    words = Words.of(["Let us add x_12 to 我们 | id | 7 more"], 1)
    assert words.words[:-1] == [
        "Let",
        "us",
        "add",
        "x_12",
        "to",
        "我",
        "们",
        "|",
        "id",
        "|",
        "7",
        "more",
    ]
    # the first word follows none; what stands after a mark or a number is no prose
    assert words.prose.tolist()[:-1] == [0, 1, 1, 1, 1, 0.5, 0.5, 0, 0, 0, 0, 0]
    assert words.values.tolist()[:-1] == [-1, -1, -1, 12, -1, -1, -1, -1, -1, -1, 7, -1]
    assert loop_weight("ab 1.") == pytest.approx(2.4)


def stretch(text: str) -> float:
    return longest_stretch(Words.of([text], 3), 3, 2.0)[0]


def test_a_stretch_counts_from_the_third_time_on() -> None:
    piece = "so we add all of them. "
    assert stretch(piece * 2) == 0
    # six words; the first of each copy follows a mark and is no prose
    assert stretch(piece * 3) == 5
    assert stretch(piece * 5) == 15
    # the new word after "Now" costs two
    assert stretch(piece * 3 + "Now then " + piece * 2) == 5 - 2 + 6 + 5
    assert longest_stretch(Words.of([piece * 3], 3), 3, 2.0)[1:] == (13, 20)


def test_a_counter_is_no_news_but_a_number_that_jumps_is() -> None:
    line = "so we look at case {} and see that it fails. "
    counted = "".join(line.format(3 * k) for k in range(10))
    assert stretch(counted) > 50
    primes = (2, 3, 7, 19, 53, 131, 311, 719, 1619, 3671)
    assert stretch("".join(line.format(k) for k in primes)) == stretch(counted) - 7 * 2


def test_the_longest_loop_lies_anywhere() -> None:
    text = "Good. " + "no, wait; " * 30 + "then fine."
    weight, start, period = longest_loop(Words.of([text], 4), 4, 4)
    assert weight == pytest.approx(30 * (6 + 2 * 0.2), abs=4)
    assert (start, period) == (2, 4)
    # numbers that count have one shape and are no loop; the same numbers again are
    counted = ", ".join(map(str, range(200)))
    assert longest_loop(Words.of([counted], 4), 4, 4)[0] == 0
    again = ", ".join(["12, 5, 3"] * 40)
    assert longest_loop(Words.of([again], 4), 4, 4)[1:] == (0, 6)


def has_loop(text: str, repeats: int, characters: int) -> str | None:
    """The rule, read off the text."""
    for period in range(1, len(text) // repeats + 1):
        times = max(repeats, -(-characters // period))
        end = text[-period * times :]
        if period * times <= len(text) and end == text[-period:] * times:
            return text[-period:]
    return None


@given(
    st.text(alphabet="ab", max_size=12),
    st.text(alphabet="abé", min_size=1, max_size=5),
    st.integers(0, 8),
    st.integers(2, 4),
    st.integers(1, 12),
)
def test_loops_are_found_as_by_hand(
    before: str, piece: str, times: int, repeats: int, characters: int
) -> None:
    text = before + piece * times
    assert loop_at_end(text, repeats, characters) == has_loop(text, repeats, characters)


@pytest.mark.parametrize("order", [6, 10])
def test_a_sequence_made_against_such_hashes_is_no_loop(order: int) -> None:
    # Thue-Morse: its halves have one polynomial hash modulo 2**64, whatever the base, and differ
    thue_morse = "a"
    for _ in range(order):
        thue_morse += thue_morse.translate(str.maketrans("ab", "ba"))
    half = len(thue_morse) // 2
    assert loop_at_end(thue_morse[:half] + thue_morse[half:], 2, half) is None
    assert loop_at_end(thue_morse * 2, 2, half) == thue_morse


def test_the_loop_may_be_cut_anywhere_and_must_be_long_enough() -> None:
    text = "Now " + "wait, no. " * 30 + "wai"
    assert loop_at_end(text, 4, 200) == text[-10:]
    assert loop_at_end("Now " + "wait, no. " * 6, 4, 200) is None
    assert loop_at_end("", 2, 1) is None
