from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from tenacity import Future, RetryCallState, Retrying

from megatron_dasd.engines.faults import Attempts, Fault, parse_retry_after


def state(fault: Fault, number: int = 1) -> RetryCallState:
    call = RetryCallState(Retrying(), None, (), {})
    call.attempt_number = number
    call.outcome = Future.construct(number, fault, has_exception=True)
    return call


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("-1", 0.0), (None, None), ("soon", None), ("", None), ("nan", 0.0)],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    found = parse_retry_after(at)
    assert found is not None
    assert 25 < found <= 30


def test_faults_that_count_use_attempts_up() -> None:
    attempts = Attempts(max_attempts=3, patience_seconds=60)
    assert [attempts.exhausted(state(Fault("x"))) for _ in range(3)] == [False, False, True]


def test_faults_that_do_not_count_use_patience_up() -> None:
    attempts = Attempts(max_attempts=1, patience_seconds=5)
    later = state(Fault("http 429", counts=False, retry_after=2.0))
    pauses, told = [], []
    for _ in range(4):
        pauses.append(attempts.pause_seconds(later))
        told.append(attempts.exhausted(later))
    assert told == [False, False, False, True]
    assert min(pauses[:2]) >= 2.0
    assert 5.0 <= sum(pauses[:3]) < 5.5


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("asked", ["1e9", "inf", "86400", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_server_cannot_ask_for_more_than_patience(counts: bool, asked: str) -> None:
    attempts = Attempts(max_attempts=100, patience_seconds=5)
    later = state(Fault("http 503", counts=counts, retry_after=parse_retry_after(asked)))
    pauses = [attempts.pause_seconds(later) for _ in range(3)]
    assert 5.0 <= pauses[0] <= 5.5
    assert max(pauses[1:]) <= 0.5


def test_pauses_grow_and_vary() -> None:
    attempts = Attempts(max_attempts=9, patience_seconds=5)
    pauses = [[attempts.pause_seconds(state(Fault("x"), n)) for _ in range(200)] for n in (1, 4)]
    assert 0 <= min(pauses[0]) < max(pauses[0]) <= 0.5
    assert 2.0 < max(pauses[1]) <= 4.0
    assert len(set(pauses[1])) > 100
