"""The ledger: which row enters when, worked out by hand, and what is left of it after a kill."""

from pathlib import Path

import pytest

from megatron_dasd.errors import UserError
from megatron_dasd.training.ledger import Ledger, Place, Schedule, plan_rows, read_ledger


def one(_iteration: int) -> int:
    return 1


def test_rows_enter_as_soon_as_there_is_room() -> None:
    room = {4: 0, 5: 2, 6: 0, 7: 1, 8: 2}
    assert plan_rows(4, 3, 100, 4, 8, room.__getitem__) == [5, 5, 7, 8]
    assert plan_rows(0, 3, 100, 4, 8, room.__getitem__) == []


def test_rows_that_would_be_too_old_or_too_late_are_left_out() -> None:
    # weights of iteration 3 are one old in iteration 5, two in 6
    assert plan_rows(3, 3, 2, 5, 100, one) == [5, 6, None]
    assert plan_rows(3, 3, 0, 5, 100, one) == [None, None, None]
    assert plan_rows(3, 3, 100, 5, 6, one) == [5, 6, None]


def test_the_schedule_numbers_rows_and_tells_their_age() -> None:
    schedule = Schedule()
    schedule.take(
        [
            {"round": 0, "weights": 0, "iterations": [3, 4, None]},
            {"reached": 16},
            {"round": 1, "weights": 2, "iterations": [4]},
        ]
    )
    assert schedule.num_rounds == 2
    assert schedule.reached == 16
    assert [list(schedule.rows(i)) for i in (2, 3, 4)] == [
        [],
        [Place(0, 0)],
        [Place(0, 1), Place(1, 0)],
    ]
    assert [schedule.num_up_to(i) for i in (2, 3, 4, 9)] == [0, 1, 3, 3]
    places = [Place(0, 0), Place(0, 1), Place(0, 2), Place(1, 0)]
    assert [schedule.number(place) for place in places] == [0, 1, 2, 3]
    assert [schedule.place(number) for number in range(4)] == places
    assert schedule.age(Place(0, 1), 4) == 3
    assert schedule.age(Place(1, 0), 4) == 1
    assert schedule.figures() == {
        "rounds": 2,
        "rows": 3,
        "rows_left_out": 1,
        "mean_age": 2.0,  # 2, 3 and 1
        "max_age": 3,
    }


def test_a_round_that_gave_nothing_takes_a_number_too() -> None:
    schedule = Schedule()
    schedule.take([{"round": i, "weights": i, "iterations": n * [9]} for i, n in enumerate([0, 2])])
    assert schedule.place(0) == Place(1, 0)
    assert schedule.number(Place(1, 1)) == 1


def test_without_rows_there_are_figures_too() -> None:
    figures = Schedule().figures()
    assert figures == {
        "rounds": 0,
        "rows": 0,
        "rows_left_out": 0,
        "mean_age": None,
        "max_age": None,
    }


def test_rows_share_the_room_with_those_of_rounds_before(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    (first,) = ledger.enter(2, 0, 50, 1, 100, one)
    (second,) = ledger.enter(2, 0, 50, 2, 100, one)
    assert first["iterations"] == [1, 2]
    assert second["iterations"] == [3, 4]
    assert list(read_ledger(tmp_path / "ledger.jsonl").rows(3)) == [Place(1, 0)]


def test_how_far_training_has_come_is_written_now_and_then(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    added = [ledger.reach(iteration) for iteration in range(1, 12)]
    assert [line for lines in added for line in lines] == [{"reached": 8}, {"reached": 16}]
    assert added[8] == [{"reached": 16}]  # before iteration 9


def test_a_line_that_a_kill_has_cut_off_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path).enter(1, 0, 50, 1, 100, one)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"round": 1, "wei')
    assert read_ledger(path).num_rounds == 1
    ledger = Ledger(path)
    assert path.read_bytes() == whole
    assert len(ledger.lines) == 1
    assert ledger.enter(1, 0, 50, 1, 100, one) == [{"round": 1, "weights": 0, "iterations": [2]}]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"reached": 8}\n{"rea\n')
    with pytest.raises(UserError, match=r"ledger\.jsonl: line 2 is damaged"):
        Ledger(path)


def test_no_file_is_an_empty_ledger(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "none").num_rounds == 0
