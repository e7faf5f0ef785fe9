"""Words, runs and loops against counting them the plain way."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dasd.filters.ngrams import loop_at_end, most_frequent_run, numbered, words_of


def test_words_of_any_language() -> None:
    assert words_of("Let x_1 = 3.14, ok?") == ["Let", "x_1", "=", "3", ".", "14", ",", "ok", "?"]
    # Chinese and Japanese have no spaces: a character is a word
    assert words_of("答案是3。f(x)") == ["答", "案", "是", "3", "。", "f", "(", "x", ")"]
    assert words_of("größer als") == ["größer", "als"]


@given(st.lists(st.integers(1, 3), max_size=40), st.integers(1, 4))
def test_the_most_frequent_run_is_counted_as_by_hand(values: list[int], size: int) -> None:
    runs = Counter(tuple(values[i : i + size]) for i in range(len(values) - size + 1))
    count, start = most_frequent_run(numbered([str(v) for v in values]), size)
    assert count == max(runs.values(), default=0)
    if runs:
        assert runs[tuple(values[start : start + size])] == count


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
