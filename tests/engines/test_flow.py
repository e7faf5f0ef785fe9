"""Batches through an asynchronous function: order, bounds, errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from megatron_dasd.engines.flow import run_batches
from megatron_dasd.errors import UserError

Ask = Callable[[int], Awaitable[int]]


@asynccontextmanager
async def squares() -> AsyncIterator[Ask]:
    async def ask(number: int) -> int:
        await asyncio.sleep(0.001 * (number % 5))
        return number * number

    yield ask


def test_every_batch_comes_back_whole_and_in_its_order() -> None:
    batches = {7 * b: list(range(10 * b, 10 * b + b)) for b in range(6)}
    found = list(run_batches(batches.items(), squares, concurrency=4, max_open=3))
    assert len(found) == 6
    assert dict(found) == {b: [n * n for n in numbers] for b, numbers in batches.items()}


def test_no_batches() -> None:
    assert list(run_batches([], squares, concurrency=4, max_open=3)) == []


def test_a_slow_request_holds_back_its_own_batch_only() -> None:
    released = asyncio.Event()

    @asynccontextmanager
    async def first_is_slow() -> AsyncIterator[Ask]:
        async def ask(number: int) -> int:
            if number == 0:
                await released.wait()
            return number

        yield ask

    found = []
    batches = ((b, [2 * b, 2 * b + 1]) for b in range(20))
    for number, _ in run_batches(batches, first_is_slow, concurrency=2, max_open=3):
        found.append(number)
        if len(found) == 19:
            released.set()
    assert found[-1] == 0
    assert sorted(found) == list(range(20))


def test_so_many_batches_are_begun_and_no_more() -> None:
    begun, most = 0, 0
    done: list[int] = []

    def batches() -> Iterator[tuple[int, list[int]]]:
        nonlocal begun, most
        for b in range(50):
            begun += 1
            most = max(most, begun - len(done))
            yield b, [b] * 4

    for number, _ in run_batches(batches(), squares, concurrency=16, max_open=3):
        done.append(number)
    assert len(done) == 50
    # the one that the caller has just taken is counted here still
    assert most <= 3 + 1


def test_never_more_in_flight_than_allowed() -> None:
    now, most = 0, 0

    @asynccontextmanager
    async def counting() -> AsyncIterator[Ask]:
        async def ask(number: int) -> int:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1
            return number

        yield ask

    list(run_batches(((b, [b] * 3) for b in range(30)), counting, concurrency=7, max_open=99))
    assert most == 7


def test_the_first_error_ends_it_after_what_is_complete() -> None:
    @asynccontextmanager
    async def fails() -> AsyncIterator[Ask]:
        async def ask(number: int) -> int:
            if number == 5:
                raise UserError("five")
            return number

        yield ask

    flow = run_batches(((b, [b]) for b in range(9)), fails, concurrency=1, max_open=9)
    assert [next(flow)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="five"):
        next(flow)


def test_an_error_of_the_batches_and_of_the_connection() -> None:
    def batches() -> Iterator[tuple[int, list[int]]]:
        yield 0, [1]
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        list(run_batches(batches(), squares, concurrency=2, max_open=2))

    @asynccontextmanager
    async def never() -> AsyncIterator[Ask]:
        raise UserError("no way")
        yield

    with pytest.raises(UserError, match="no way"):
        list(run_batches([(0, [1])], never, concurrency=2, max_open=2))


def test_leaving_early_cancels_what_is_in_flight() -> None:
    ended = []

    @asynccontextmanager
    async def slow() -> AsyncIterator[Ask]:
        async def ask(number: int) -> int:
            if number:
                await asyncio.sleep(60)
            return number

        try:
            yield ask
        finally:
            ended.append(True)

    for _ in run_batches(((b, [b]) for b in range(9)), slow, concurrency=4, max_open=9):
        break
    assert ended == [True]
