"""What training and worker hand each other."""

from pathlib import Path

import pytest

from megatron_dasd.errors import UserError
from megatron_dasd.training.exchange import Exchange, Round

MADE = Round(iteration=4, num_rows=2, data="data")


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    made = Exchange(tmp_path)
    made.make()
    return made


def test_finished_rounds_come_in_their_order_up_to_the_first_gap(exchange: Exchange) -> None:
    assert list(exchange.finished()) == []
    second = Round(iteration=9, num_rows=0, data="data", teacher_topk="top")
    for number, made in ((0, MADE), (1, second), (3, MADE)):
        exchange.publish(number, made)
    assert list(exchange.finished()) == [MADE, second]
    assert list(exchange.finished(1)) == [second]
    assert list(exchange.finished(2)) == []


def test_a_damaged_round_is_named(exchange: Exchange) -> None:
    (exchange.rounds / "00000.json").write_text("{")
    with pytest.raises(UserError, match=r"rounds/00000\.json: damaged"):
        list(exchange.finished())


def test_weights_are_wanted_until_they_are_there(exchange: Exchange) -> None:
    assert exchange.wanted() is None
    exchange.want_weights(7)
    assert exchange.wanted() == 7
    exchange.no_longer_wanted()
    assert exchange.wanted() is None
    exchange.no_longer_wanted()


def test_at_the_end_rounds_stay_and_what_was_under_way_goes(exchange: Exchange) -> None:
    exchange.publish(0, MADE)
    for number in (0, 1):
        exchange.round_folder(number).mkdir()
    exchange.want_weights(1)
    exchange.tidy_up()
    assert sorted(path.name for path in exchange.rounds.iterdir()) == ["00000", "00000.json"]
    assert not exchange.weights.exists()
    assert exchange.wanted() is None


def test_without_a_worker_there_is_nothing_to_tidy_up(tmp_path: Path) -> None:
    Exchange(tmp_path).tidy_up()
    assert list(tmp_path.iterdir()) == []
