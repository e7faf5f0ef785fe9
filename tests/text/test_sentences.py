"""The sentence splitter: where chains of thought are cut, and that nothing is lost."""
# ruff: noqa: RUF001 -- the full-width marks are meant

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dasd.text.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
        ("Pi is 3.14. Next.", ["Pi is 3.14. ", "Next."]),
        ("So x = 5. then y = 6.", ["So x = 5. ", "then y = 6."]),
        ("Fruit, e.g. apples, cf. Dr. Hu.", ["Fruit, e.g. apples, cf. Dr. Hu."]),
        ("See no. 5. Is it? no. Yes.", ["See no. 5. ", "Is it? ", "no. ", "Yes."]),
        ("At 5 p.m. we left. At 6 p.m. We ate.", ["At 5 p.m. we left. ", "At 6 p.m. ", "We ate."]),
        ("1. Add. 2\n  b) no\n2. Take.", ["1. Add. ", "2\n  ", "b) no\n", "2. Take."]),
        ("It is\n5.\nDone", ["It is\n", "5.\n", "Done"]),
        ("Hmm... wait. Well... No", ["Hmm... wait. ", "Well... ", "No"]),
        ('A "no." Then (yes.) **Bold.** End', ['A "no." ', "Then (yes.) ", "**Bold.** ", "End"]),
        ("One \n\n  Two", ["One \n\n  ", "Two"]),
        ("  lead. Next \n", ["  lead. ", "Next \n"]),
        ("答案是3。所以对！\n好", ["答案是3。", "所以对！\n", "好"]),
        ("Let $a. b$ be. So \\(c. d\\). \\[ e.\n f \\\\[2pt] \\] g. $$ h.\ni $$", [
            "Let $a. b$ be. ", "So \\(c. d\\). ", "\\[ e.\n f \\\\[2pt] \\] g. ", "$$ h.\ni $$",
        ]),
        ("It costs $5. Then $6.", ["It costs $5. ", "Then $6."]),
        ("An unclosed \\[ bracket. Next.", ["An unclosed \\[ bracket. ", "Next."]),
    ],
)  # fmt: skip
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(st.text(alphabet="aB1.!? \n\t$\\[]()。…\"'é", max_size=80))
def test_the_sentences_joined_are_the_text(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    assert all(sentence.strip() for sentence in sentences) or not text.strip()


@given(st.text(alphabet="ab.!? \n", max_size=60).filter(lambda text: text.strip()))
def test_whitespace_opens_no_sentence_but_the_first(text: str) -> None:
    assert not any(sentence[0].isspace() for sentence in split_sentences(text)[1:])


@pytest.mark.parametrize("unit", [".", " ", "\n ", "$a ", "\\[", "\\( ", "\\[a\\(", "$$ a", ".)"])
def test_time_is_linear_in_the_text(unit: str) -> None:
    text = unit * 100_000 + "x"
    start = time.perf_counter()
    assert "".join(split_sentences(text)) == text
    assert time.perf_counter() - start < 3  # about 0.05 s; a quadratic scan takes minutes
