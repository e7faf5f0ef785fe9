"""Which server takes the next request."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from megatron_dasd.engines import endpoints as module
from megatron_dasd.engines.endpoints import Endpoint, Endpoints
from megatron_dasd.errors import UserError

Body = Callable[[Endpoints], Awaitable[None]]


def watched(urls: list[str], down: set[str], body: Body, patience: float = 5.0) -> None:
    """Run with the end points watched; those in ``down`` fail their health check."""

    async def check(url: str) -> str | None:
        return "is down" if url in down else None

    async def run() -> None:
        endpoints = Endpoints(urls, check, patience)
        watching = asyncio.create_task(endpoints.watch())
        try:
            await body(endpoints)
        finally:
            watching.cancel()

    asyncio.run(run())


def test_the_one_with_the_fewest_requests_of_those_that_are_up() -> None:
    async def body(endpoints: Endpoints) -> None:
        taken: list[Endpoint] = []
        await endpoints.choose()
        await asyncio.sleep(0.05)
        for _ in range(6):
            taken.append(await endpoints.choose())
            taken[-1].in_flight += 1
        assert sorted(endpoint.url for endpoint in taken) == ["a"] * 3 + ["c"] * 3

    watched(["a", "b", "c", "a"], {"b"}, body)


def test_one_that_fails_in_a_row_rests_longer_each_time_and_a_burst_counts_once() -> None:
    async def body(endpoints: Endpoints) -> None:
        endpoint = await endpoints.choose()
        for _ in range(2):
            endpoints.failed(endpoint)
        assert endpoint.rests_until == 0.0
        for _ in range(200):
            endpoints.failed(endpoint)
        assert 0.5 < endpoint.rests_until - time.monotonic() <= 1.0
        endpoint.rests_until = 0.0
        endpoints.failed(endpoint)
        assert 1.5 < endpoint.rests_until - time.monotonic() <= 2.0
        endpoint.rests_until = 0.0
        endpoints.succeeded(endpoint)
        endpoints.failed(endpoint)
        assert endpoint.rests_until == 0.0

    watched(["a"], set(), body)


def test_a_resting_one_is_waited_for_and_another_goes_before_it() -> None:
    async def body(endpoints: Endpoints) -> None:
        first = await endpoints.choose()
        await asyncio.sleep(0.05)
        endpoints.rest(first, 0.2)
        assert (await endpoints.choose()).url != first.url
        for url in ("a", "b"):
            endpoints.rest(next(e for e in endpoints._all if e.url == url), 0.2)
        started = time.monotonic()
        await endpoints.choose()
        assert time.monotonic() - started >= 0.15

    watched(["a", "b"], set(), body)


def test_none_up_is_told_with_what_each_said() -> None:
    async def body(endpoints: Endpoints) -> None:
        await endpoints.choose()

    with pytest.raises(UserError, match=r"for 0 s now: a \(is down\); b \(is down\); start one"):
        watched(["a", "b"], {"a", "b"}, body, patience=0.3)


def test_a_lost_one_comes_back_when_its_check_passes() -> None:
    down: set[str] = set()

    async def body(endpoints: Endpoints) -> None:
        endpoint = await endpoints.choose()
        down.add("a")
        endpoints.unreachable(endpoint, "connection refused")
        assert not endpoint.up
        await asyncio.sleep(0.3)
        down.clear()
        assert (await endpoints.choose()) is endpoint

    watched(["a"], down, body)


def test_one_that_is_announced_later_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIND_SECONDS", 0.02)
    announced: list[str] = []

    async def check(_: str) -> str | None:
        return None

    async def run() -> None:
        endpoints = Endpoints([], check, 5.0, find=lambda: announced)
        watching = asyncio.create_task(endpoints.watch())
        try:
            choosing = asyncio.create_task(endpoints.choose())
            await asyncio.sleep(0.05)
            assert not choosing.done()
            announced.append("late/")
            assert (await choosing).url == "late"
            announced.append("later")
            await asyncio.sleep(0.1)
            (await endpoints.choose()).in_flight += 1
            assert (await endpoints.choose()).url == "later"
        finally:
            watching.cancel()

    asyncio.run(run())


def test_none_was_ever_announced() -> None:
    async def check(_: str) -> str | None:
        return None

    async def run() -> None:
        with pytest.raises(UserError, match="no server answers.*none has been announced"):
            await Endpoints([], check, 0.05, find=list).choose()

    asyncio.run(run())


def test_none_rests_longer_than_patience() -> None:
    async def body(endpoints: Endpoints) -> None:
        endpoint = await endpoints.choose()
        endpoints.rest(endpoint, 86400.0)
        assert await asyncio.wait_for(endpoints.choose(), 3.0) is endpoint

    watched(["a"], set(), body, patience=0.5)
