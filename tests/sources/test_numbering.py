"""Candidates counted over all rows, and rows that do not fit together."""

import random

import numpy as np

from megatron_dasd.sources.numbering import Numbered, ScannedRows, number_rows


def numbered(
    ids: str, questions: str | None = None, answers: list[int] | None = None, heldout: str = ""
) -> Numbered:
    """A letter a row; ``x`` in ``heldout`` marks a row of a held-out file."""
    return number_rows(
        ScannedRows.of(
            [letter.encode() * 16 for letter in ids],
            [letter.encode() * 16 for letter in questions or ids],
            answers or [1] * len(ids),
            [mark == "x" for mark in heldout or "." * len(ids)],
        )
    )


def test_candidates_go_on_from_row_to_row() -> None:
    found = numbered("abaacb", answers=[1, 2, 3, 1, 1, 1])
    assert found.candidates.tolist() == [0, 0, 1, 4, 0, 2]
    assert found.num_records.tolist() == [1, 2, 3, 1, 1, 1]
    assert found.conflict is None


def test_they_are_those_of_a_count_row_by_row() -> None:
    chance = random.Random(7)
    ids = "".join(chance.choices("abcdefgh", k=500))
    answers = [chance.randrange(4) for _ in ids]
    found, counted = numbered(ids, answers=answers), dict.fromkeys(ids, 0)
    for row, (letter, number) in enumerate(zip(ids, answers, strict=True)):
        if number:
            assert found.candidates[row] == counted[letter]
        counted[letter] += number
    assert found.num_records.sum() == sum(max(1, number) for number in answers)


def test_a_malformed_row_is_passed_over() -> None:
    found = numbered("aaa", "abb", answers=[1, 0, 0])
    assert found.conflict is None
    assert found.num_records.tolist() == [1, 1, 1]


def test_an_id_of_two_questions_is_found_with_the_first() -> None:
    assert numbered("abab", "xyxz").conflict == (3, 1)


def test_a_question_in_the_other_split_counts_as_malformed() -> None:
    found = numbered("aaa", answers=[2, 3, 4], heldout=".x.")
    assert found.other_split.tolist() == [False, True, False]
    assert found.split_before(1) == "train"
    assert found.candidates[[0, 2]].tolist() == [0, 2]
    assert found.num_records.tolist() == [2, 1, 4]


def test_no_rows() -> None:
    found = number_rows(ScannedRows.joined([ScannedRows.of([], [], [], [])] * 2))
    assert np.concatenate([found.candidates, found.num_records]).size == 0
