"""Column addition: styles as they are written, carries, and the check of steps."""

import random
from itertools import islice

import pytest

from megatron_dasd.tasks.column_addition import (
    STYLES,
    Column,
    Step,
    Sum,
    check_steps,
    draw_sums,
    read_sum,
)

CARRIES = Sum(347, 285)


def test_columns_carry_from_right_to_left() -> None:
    assert CARRIES.columns == [Column(7, 5, 0), Column(4, 8, 1), Column(3, 2, 1)]
    assert CARRIES.answer == "632"
    assert Sum(999, 1).columns[2] == Column(9, 0, 1)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("terse", "7+5+0=12\n4+8+1=13\n3+2+1=06"),
        (
            "explained",
            "7+5+0=12\n4+8+1=13\n3+2+1=06\n"
            "Units: write 2, carry 1.\nTens: write 3, carry 1.\nHundreds: write 6, no carry.",
        ),
        (
            "wordy",
            "7+5+0=12\n4+8+1=13\n3+2+1=06\n"
            "That was not hard. I went from right to left. Now I write the result.",
        ),
    ],
)
def test_styles(style: str, text: str) -> None:
    assert {str(name): write for name, write in STYLES.items()}[style](CARRIES) == text


def test_every_style_has_every_right_step_and_no_other() -> None:
    for problem in islice(draw_sums(random.Random(1), "any"), 500):
        result = 0
        for place, column in enumerate(problem.columns):
            result += column.total % 10 * 10**place
        result += problem.columns[-1].total // 10 * 1000
        assert str(result) == problem.answer
        for write in STYLES.values():
            steps = [
                step for step in check_steps(problem, write(problem)) if step.right is not None
            ]
            assert [step.right for step in steps] == [True, True, True]


def test_sums_are_distinct_and_without_carries_where_asked() -> None:
    drawn = list(islice(draw_sums(random.Random(2), "none"), 2000))
    assert len(set(drawn)) == 2000
    for problem in drawn:
        assert all(column.total < 10 for column in problem.columns)
        for write in STYLES.values():
            assert "+1=" not in write(problem)
            assert ", carry" not in write(problem)
    with_carry = [
        any(column.total > 9 for column in problem.columns)
        for problem in islice(draw_sums(random.Random(3), "any"), 2000)
    ]
    # no carry: units and tens 55 of 100 pairs each, hundreds 36 of 81: 13.4 %
    assert sum(with_carry) / 2000 == pytest.approx(1 - 0.55 * 0.55 * 36 / 81, abs=0.03)


def test_a_forgotten_carry_is_a_wrong_step_though_its_equation_holds() -> None:
    assert check_steps(CARRIES, "So: 7+5+0=12, 4+8+0=12") == [
        Step("So: ", None),
        Step("7+5+0=12", True),
        Step(", ", None),
        Step("4+8+0=12", False),
    ]
    assert check_steps(CARRIES, "7+5+0=12\n4+8+1=13\n3+2+1=06\n0+0=0")[-1] == Step("0+0=0", False)
    assert check_steps(CARRIES, "") == []


def test_only_a_whole_prompt_is_a_sum() -> None:
    assert read_sum("347+285") == CARRIES
    assert read_sum("347+285+1") is None
    assert read_sum("What is 347+285?") is None
