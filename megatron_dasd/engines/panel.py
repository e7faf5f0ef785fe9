"""Several teachers behind servers, each of which answers the requests of its own.

Requests are taken in their order, whoever answers them.  A teacher is connected to, and probed,
when its first request comes; each has its own bound of requests in flight.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol

from megatron_dasd.engines.base import (
    Failure,
    Generation,
    GenerationRequest,
    Meter,
    Scored,
    ScoringRequest,
    TopRequest,
)
from megatron_dasd.engines.server_engine import Ask, Opening, ServerEngine, answer_batches
from megatron_dasd.engines.top_answers import Top
from megatron_dasd.engines.top_engine import TopEngine


class _Addressed(Protocol):
    @property
    def teacher(self) -> str: ...


class Panel:
    """Teachers that generate and score, by name."""

    name = version = ""
    """Those of a teacher are its own: see :func:`engines.base.answering`."""

    def __init__(self, engines: Mapping[str, ServerEngine]) -> None:
        """Servers are asked only when there is work."""
        self.engines = engines
        self._rooms = {name: engine.concurrency for name, engine in engines.items()}

    def generate(
        self, batches: Iterable[tuple[int, Sequence[GenerationRequest]]], meter: Meter
    ) -> Iterator[tuple[int, list[Generation | Failure]]]:
        """Generate for numbered batches; see :class:`engines.base.Engine`."""
        openings = {n: partial(engine.generating, meter) for n, engine in self.engines.items()}
        opening = partial(_routed, openings, self._rooms)
        return answer_batches(batches, opening, sum(self._rooms.values()))

    def score(
        self, batches: Iterable[tuple[int, Sequence[ScoringRequest]]], meter: Meter
    ) -> Iterator[tuple[int, list[Scored | Failure]]]:
        """Log-probs of given texts; see :meth:`ServerEngine.score`."""
        openings = {name: partial(engine.scoring, meter) for name, engine in self.engines.items()}
        opening = partial(_routed, openings, self._rooms)
        return answer_batches(batches, opening, sum(self._rooms.values()))


class TopPanel:
    """Teachers that list their likeliest tokens, by name."""

    def __init__(self, engines: Mapping[str, TopEngine]) -> None:
        """Servers are asked only when there is work."""
        self.engines = engines

    def top(
        self, batches: Iterable[tuple[int, Sequence[TopRequest]]], meter: Meter, max_open: int
    ) -> Iterator[tuple[int, list[Top | Failure]]]:
        """The likeliest tokens; batches are begun while fewer than ``max_open`` are not taken."""
        openings = {name: partial(engine.ranking, meter) for name, engine in self.engines.items()}
        rooms = {name: engine.servers.concurrency for name, engine in self.engines.items()}
        opening = partial(_routed, openings, rooms)
        return answer_batches(batches, opening, sum(rooms.values()), max_open)


@asynccontextmanager
async def _routed[Q: _Addressed, A](
    openings: Mapping[str, Opening[Q, A]], rooms: Mapping[str, int], first: Sequence[Q]
) -> AsyncIterator[Ask[Q, A]]:
    """What passes each request to the teacher that it names."""
    async with AsyncExitStack() as stack:
        members = {
            name: _Member(opening, rooms[name], [q for q in first if q.teacher == name], stack)
            for name, opening in openings.items()
        }

        async def ask(request: Q) -> A:
            return await members[request.teacher].ask(request)

        yield ask


class _Member[Q, A]:
    def __init__(
        self, opening: Opening[Q, A], room: int, first: Sequence[Q], stack: AsyncExitStack
    ) -> None:
        self._opening, self._first, self._stack = opening, first, stack
        self._room, self._lock = asyncio.Semaphore(room), asyncio.Lock()
        self._ask: Ask[Q, A] | None = None

    async def ask(self, request: Q) -> A:
        async with self._lock:
            if self._ask is None:
                opened = self._opening(self._first or [request])
                self._ask = await self._stack.enter_async_context(opened)
            ask = self._ask
        async with self._room:
            return await ask(request)
