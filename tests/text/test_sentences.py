"""The sentence splitter: where chains of thought are cut, and that nothing is lost."""
# ruff: noqa: RUF001 -- full-width marks and other scripts are meant

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dasd.text.sentences import split_sentences
from tests.text.marked_sentences import mistakes


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
        ("وقف؟نعم. لا۔ ہاں", ["وقف؟", "نعم. ", "لا۔ ", "ہاں"]),
        ("है।३.५ है॥ हाँ! ठीक", ["है।", "३.५ है॥ ", "हाँ! ", "ठीक"]),
        ("３．１４です．次．", ["３．１４です．", "次．"]),
        ("ជា។ այո։ አዎ። ဟုတ်။ end", ["ជា។ ", "այո։ ", "አዎ። ", "ဟုတ်။ ", "end"]),
        ("ตอบ 3.5 บาท\nจบ", ["ตอบ 3.5 บาท\n", "จบ"]),
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


@pytest.mark.timeout(60)  # a second for all; a scan that is quadratic in the text takes minutes
@pytest.mark.parametrize(
    "unit",
    [
        ".",
        " ",
        "\n ",
        "$a ",
        "\\[",
        "\\( ",
        "\\[a\\(",
        "$$ a",
        ".)",
        "`",
        "``` ",
        "` ",
        "``",
        "```a`",
    ],
)
def test_a_long_text_of_half_delimiters_is_split(unit: str) -> None:
    text = unit * 100_000 + "x"
    assert "".join(split_sentences(text)) == text


def test_sentences_marked_by_hand() -> None:
    # missed: a formula that holds its own full stop; too many: cells of a table, "Case 1. x > 0"
    assert mistakes(split_sentences) == (1, 5, True)


@pytest.mark.parametrize(
    "text",
    [
        "```\nx = 1. Or\ny? No.\n```\nOut. Here",
        "~~~ no fence. Here",
        "Use `a. b` now. Then ``c. d`` too",
        "An unclosed ``` fence. Then\nmore. Yes",
        "``` one line. Of code ``` and. Text",
    ],
)
def test_code_loses_nothing_and_is_cut_at_line_breaks_alone(text: str) -> None:
    assert "".join(split_sentences(text)) == text


def test_code_blocks_are_cut_at_their_line_breaks() -> None:
    text = "Try:\n```python\nx = 1.  # ok. Done\nprint('a. b')\n```\nNow. Yes"
    assert split_sentences(text) == [
        "Try:\n", "```python\n", "x = 1.  # ok. Done\n", "print('a. b')\n", "```\n", "Now. ", "Yes",
    ]  # fmt: skip
    assert split_sentences("Use `a. b` here. Then") == ["Use `a. b` here. ", "Then"]
    assert split_sentences("A ` alone. Then b") == ["A ` alone. ", "Then b"]


@given(st.text(alphabet="a.`\n $", max_size=40))
def test_every_cut_inside_a_closed_block_of_code_is_at_a_line_break(inside: str) -> None:
    code = "```" + inside.replace("`", "'") + "\n```"
    pieces = split_sentences(code)
    assert "".join(pieces) == code
    assert all("\n" in piece for piece in pieces[:-1])
