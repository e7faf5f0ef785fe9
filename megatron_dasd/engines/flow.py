"""Batches of requests through one asynchronous function, many at once, from a synchronous caller.

::

    batches ─► [ open batches: max_open ] ─► requests in flight: concurrency
                                                          │
    caller  ◄─ each batch when its last answer arrives ◄──┘

A slow request delays only its own batch; the others continue until ``max_open`` batches are open.
So the open batches bound the memory, however many there are in all.  Nothing runs while the caller
works on a batch: what arrives meanwhile waits in the sockets.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass


@dataclass
class _OpenBatch[Q, A]:
    number: int
    requests: Sequence[Q]
    answers: list[A | None]
    taken: int = 0
    answered: int = 0


def run_batches[Q, A](
    batches: Iterable[tuple[int, Sequence[Q]]],
    connect: Callable[[], AbstractAsyncContextManager[Callable[[Q], Awaitable[A]]]],
    *,
    concurrency: int,
    max_open: int,
) -> Iterator[tuple[int, list[A]]]:
    """Yield each numbered batch with its answers in order, batches as they are complete.

    Args:
        batches: taken one at a time, as there is room.
        connect: context manager of the function that answers one request; entered once.
        concurrency: requests in flight.
        max_open: batches begun and not yet given to the caller.

    Raises:
        Exception: the first that ``batches``, ``connect`` or an answer raises; what was in flight
            is cancelled.
    """
    with asyncio.Runner() as runner:
        flow = _Flow(batches, connect, concurrency, max_open)
        runner.run(flow.start())
        try:
            while (batch := runner.run(flow.next())) is not None:
                yield batch
        finally:
            runner.run(flow.stop())


class _Flow[Q, A]:
    def __init__(
        self,
        batches: Iterable[tuple[int, Sequence[Q]]],
        connect: Callable[[], AbstractAsyncContextManager[Callable[[Q], Awaitable[A]]]],
        concurrency: int,
        max_open: int,
    ) -> None:
        self._batches = iter(batches)
        self._connect = connect
        self._concurrency = concurrency
        self._room = asyncio.Semaphore(max_open)
        self._turn = asyncio.Lock()
        self._current: _OpenBatch[Q, A] | None = None
        self._complete: asyncio.Queue[_OpenBatch[Q, A] | BaseException | None] = asyncio.Queue()
        self._handed_out = False
        self._work_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._work_task = asyncio.create_task(self._work())

    async def next(self) -> tuple[int, list[A]] | None:
        if self._handed_out:
            self._room.release()
        batch = await self._complete.get()
        if isinstance(batch, BaseException):
            raise batch
        self._handed_out = batch is not None
        # complete: no answer is missing
        return (batch.number, batch.answers) if batch else None  # type: ignore[return-value]

    async def stop(self) -> None:
        assert self._work_task is not None
        self._work_task.cancel()
        await asyncio.gather(self._work_task, return_exceptions=True)

    async def _work(self) -> None:
        """Answer everything; the end, or the error that ended it, is queued like a batch."""
        try:
            async with self._connect() as ask, asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._answer(ask))
            self._complete.put_nowait(None)
        except Exception as error:
            self._complete.put_nowait(_first(error))

    async def _answer(self, ask: Callable[[Q], Awaitable[A]]) -> None:
        """Answer one request after the other until none is left."""
        while (taken := await self._take()) is not None:
            batch, position = taken
            batch.answers[position] = await ask(batch.requests[position])
            batch.answered += 1
            if batch.answered == len(batch.requests):
                self._complete.put_nowait(batch)

    async def _take(self) -> tuple[_OpenBatch[Q, A], int] | None:
        """The next request, as (batch, position); waits for room when it opens a batch."""
        async with self._turn:
            while self._current is None or self._current.taken == len(self._current.requests):
                await self._room.acquire()
                following = next(self._batches, None)
                if following is None:
                    self._room.release()
                    return None
                number, requests = following
                self._current = _OpenBatch(number, requests, [None] * len(requests))
                if not requests:
                    self._complete.put_nowait(self._current)
            position = self._current.taken
            self._current.taken += 1
            return self._current, position


def _first(error: BaseException) -> BaseException:
    """The first error of nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
