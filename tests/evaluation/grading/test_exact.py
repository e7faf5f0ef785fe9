"""Which answers are the same."""

import pytest

from megatron_dasd.evaluation.grading.exact import is_same


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("7", "7", True),
        ("7.0", "7", True),
        ("+7", "7", True),
        ("-7", "7", False),
        ("007", "7", True),
        ("1,000.50", "1000.5", True),
        ("1,00", "100", False),
        ("1/2", "0.5", True),
        ("1/0", "1/0", True),
        ("0.1", "0.10000000000000000001", False),
        ("$12", "12", True),
        ("7.", "7", True),
        ("The answer is 7", "7", False),
        ("seven", "7", False),
        ("Mother-in-law.", "mother-in-law", True),
        ("  two   words ", "Two words", True),
        ("“yes”", "yes", False),
        ('"Yes"', "yes", True),
        ("ﬁve", "five", True),  # compatibility ligature
        ("yes, it is", "yes", False),
        ("\\boxed{42}", "42", True),
        ("The answer is \\boxed{\\frac{1}{2}}.", "1/2", True),
        ("\\boxed{41}, no: \\boxed{42}", "42", True),
        ("\\boxed{41}", "42", False),
        ("\u22125", "-5", True),
        ("x = 42", "42", True),
        ("x = -1/2", "-0.5", True),
        ("x = y", "y", False),
        ("(3, 4)", "(3,4)", True),
        ("(3, 4)", "(4,3)", False),
    ],
)
def test_exact(answer: str, reference: str, same: bool) -> None:
    assert is_same(answer, reference) is same
    assert is_same(reference, answer) is same
