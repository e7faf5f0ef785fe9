"""Letters of multiple-choice answers."""

import pytest

from megatron_dasd.evaluation.grading.choice import CHOICE, letter_of
from tests.evaluation.grading.judged_answers import LETTERS, pairs


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("( b ).", "B"),
        ("**B**", "B"),
        ("$B$", "B"),
        ("B.", "B"),
        ("B) the mitochondrion", "B"),
        ("(B) the mitochondrion", "B"),
        ("B: the mitochondrion", "B"),
        ("**B.** the mitochondrion", "B"),
        ("\\boxed{B}", "B"),
        ("\\boxed{(B)}", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ("$\\boxed{\\mathbf{b}}$", "B"),
        ("First \\boxed{A}, then I saw that it is \\boxed{C}.", "C"),
        ("The answer is (C), so \\boxed{B}.", "B"),
        ("Answer: B", "B"),
        ("answer: (b)", "B"),
        ("**Answer:** B", "B"),
        ("The correct answer is B.", "B"),
        ("The correct answer is **B**.", "B"),
        ("The answer is option D", "D"),
        ("The best choice is (D) because A is wrong", "D"),
        ("The answer is A. No: the answer is B.", "B"),
        ("Both A and C look right, but the answer is C", "C"),
        ("The answer is a dog", None),
        ("The answer is A-bomb", "A"),
        ("The answer is Ada", None),
        ("The answer is 12", None),
        ("B and C", None),
        ("I would take a walk", None),
        ("A dog barks", None),
        ("", None),
        ("\\boxed{12}", None),
        ("\0", None),
        ("\ud800", None),
    ],
)
def test_letters(answer: str, letter: str | None) -> None:
    assert letter_of(answer) == letter


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("\\boxed{B}", "B", 1.0),
        ("The answer is (b).", "(B)", 1.0),
        ("\\boxed{C}", "B", 0.0),
        ("no idea", "B", 0.0),
        ("12", "12", 0.0),  # a reference without a letter is never right
    ],
)
def test_scores(answer: str, reference: str, score: float) -> None:
    assert CHOICE.make("")(answer, reference, {}) == score


@pytest.mark.parametrize("text", ["(" * 10**6, "answer " * 10**5, "\\boxed{" * 10**5, " " * 10**6])
def test_long_answers_take_no_time(text: str) -> None:
    assert letter_of(text) is None


def test_answers_judged_by_hand() -> None:
    found = [(answer, letter_of(answer) or "-") for answer, _ in pairs(LETTERS)]
    assert found == pairs(LETTERS)


def test_takes_no_argument() -> None:
    with pytest.raises(ValueError, match="takes no 'x' after its name"):
        CHOICE.make("x")
