"""Expressions that are the same."""
# ruff: noqa: RUF001 -- the marks are meant

import msgspec
import pytest

from megatron_dasd.evaluation.grading.base import Check
from megatron_dasd.evaluation.grading.mathematics import (
    MathSettings,
    in_latex,
    make_check,
    readings,
)
from tests.evaluation.grading.judged_answers import LETTERS, RIGHT, WRONG, pairs


@pytest.fixture(scope="module")
def check() -> Check:
    return make_check("")


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("The answer is $\\frac{1}{2}$.", "1/2", 1.0),
        ("\\boxed{0.5}", "\\frac{1}{2}", 1.0),
        ("0.5", "1/2", 1.0),
        ("\\frac{2}{4}", "$\\frac12$", 1.0),
        ("So we get \\boxed{3\\sqrt{2}}", "\\sqrt{18}", 1.0),
        ("$(x-1)(x+1)$", "x^2 - 1", 1.0),
        ("$\\{2, 1\\}$", "\\{1, 2\\}", 1.0),
        ("$x = 5$", "5", 1.0),
        ("1,000", "1000", 1.0),
        ("\\[ \\frac{\\pi}{4} \\]", "\\pi/4", 1.0),
        ("$[0, 1)$", "[0, 1)", 1.0),
        ("It looks like $1$. Checking again gives $2$.", "2", 1.0),
        ("\\boxed{1} and \\boxed{2}", "\\{1, 2\\}", 1.0),
        ("$\\frac{1}{3}$", "1/2", 0.0),
        ("0.5001", "1/2", 0.0),
        ("$x^2 + 1$", "x^2 - 1", 0.0),
        ("$\\{1, 2, 3\\}$", "\\{1, 2\\}", 0.0),
        ("$(0, 1)$", "[0, 1)", 0.0),
        ("I do not know", "7", 0.0),
        ("", "7", 0.0),
        ("$\\infty", "7", 0.0),
        ("\0", "7", 0.0),
    ],
)
def test_scores(check: Check, answer: str, reference: str, score: float) -> None:
    assert check(answer, reference, {}) == score


def test_answers_judged_by_hand(check: Check) -> None:
    assert len({*pairs(RIGHT), *pairs(WRONG), *pairs(LETTERS)}) >= 300
    assert [pair for pair in pairs(RIGHT) if check(*pair, {}) != 1.0] == []
    assert [pair for pair in pairs(WRONG) if check(*pair, {}) != 0.0] == []


def test_latex_is_never_left_bare() -> None:
    assert readings("3\\frac{1}{2} cups") == [" $3\\frac{1}{2}$ cups"]
    assert readings("It is (3, 4).") == ["It is (3, 4).", "$It is (3, 4).$", "It is $(3, 4)$ "]
    assert in_latex("−½√2 × 10³") == "-\\frac{1}{2}\\sqrt{2} \\times  10^{3}"


def test_rounding_is_a_setting(check: Check) -> None:
    assert check("$0.3333$", "1/3", {}) == 0.0
    assert check("$0.3333$", "1/3", {"float_rounding": 3}) == 1.0


def test_settings_are_checked() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `rounding`"):
        msgspec.convert({"rounding": 3}, MathSettings)


def test_takes_no_argument() -> None:
    with pytest.raises(ValueError, match="takes no 'x' after its name"):
        make_check("x")
