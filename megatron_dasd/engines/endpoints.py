"""Several servers of one model: which are up, and which takes the next request.

An end point that cannot be reached gets no requests until its health check passes again.  When the
check fails several times in a row, its requests in flight move to others.  One that answers 429, or
fails several times in a row, gets no requests for a while.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from megatron_dasd.errors import UserError

_FAILURES_IN_A_ROW = 3
_HEALTH_SECONDS = 10.0
"""Between two health checks of an end point that is up."""
_FIRST_CHECK_SECONDS, _LAST_CHECK_SECONDS = 0.2, 10.0
"""Between two health checks of one that is down: at first, and at most."""
_LONGEST_REST_SECONDS = 30.0
_FIND_SECONDS = 5.0
"""Between two looks for further end points."""


@dataclass(eq=False)
class Endpoint:
    """One server."""

    url: str
    up: bool = False
    why_down: str = "not asked yet"
    in_flight: int = 0
    failures: int = 0
    """Failed attempts in a row."""
    rests_until: float = 0.0
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while it is down."""
    clocks: set[asyncio.Timeout] = field(default_factory=set)
    """Time limits of its requests in flight, which expire when the end point is lost."""


class Endpoints:
    """The end points of one model."""

    def __init__(
        self,
        urls: list[str],
        check: Callable[[str], Awaitable[str | None]],
        patience_seconds: float,
        find: Callable[[], list[str]] = list,
    ) -> None:
        """End points, all down until checked.

        Args:
            check: checks the health of the server at a URL; returns what is wrong, None for
                nothing.
            patience_seconds: how long to wait while none is up.
            find: returns further URLs; called every few seconds.
        """
        self._all: list[Endpoint] = []
        self._find = find
        self._add(urls)
        self._add(find())
        self._check = check
        self._patience = patience_seconds
        self._changed = asyncio.Event()
        self._none_up_since: float | None = time.monotonic()

    async def watch(self) -> None:
        """Check the health of all end points, those found later too, until cancelled."""
        tasks: list[asyncio.Task[None]] = []
        try:
            while True:
                new = self._all[len(tasks) :]
                tasks += [asyncio.create_task(self._watch(endpoint)) for endpoint in new]
                if tasks:
                    done, _ = await asyncio.wait(
                        tasks, timeout=_FIND_SECONDS, return_when=asyncio.FIRST_COMPLETED
                    )
                    for task in done:  # it has failed
                        task.result()
                else:
                    await asyncio.sleep(_FIND_SECONDS)
                self._add(self._find())
        finally:
            for task in tasks:
                task.cancel()

    def _add(self, urls: list[str]) -> None:
        known = {endpoint.url for endpoint in self._all}
        for url in dict.fromkeys(url.rstrip("/") for url in urls):
            if url not in known:
                endpoint = Endpoint(url)
                endpoint.lost.set()
                self._all.append(endpoint)

    async def _watch(self, endpoint: Endpoint) -> None:
        pause, misses = _FIRST_CHECK_SECONDS, 0
        while True:
            wrong = await self._check(endpoint.url)
            if wrong is None:
                pause, misses = _FIRST_CHECK_SECONDS, 0
                self._mark_up(endpoint)
                try:  # the next check is due in a while, or at once when it is lost
                    await asyncio.wait_for(endpoint.lost.wait(), _HEALTH_SECONDS)
                except TimeoutError:
                    continue
            else:
                misses += 1
                if not endpoint.up or misses >= _FAILURES_IN_A_ROW:
                    self._mark_down(endpoint, wrong)
                if misses >= _FAILURES_IN_A_ROW:
                    for clock in endpoint.clocks:
                        if not clock.expired():
                            clock.reschedule(asyncio.get_running_loop().time())
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LAST_CHECK_SECONDS)

    @contextmanager
    def serving(self, endpoint: Endpoint, clock: asyncio.Timeout) -> Iterator[None]:
        """Count a request to the end point; its clock expires when the end point is lost."""
        endpoint.in_flight += 1
        endpoint.clocks.add(clock)
        try:
            yield
        finally:
            endpoint.in_flight -= 1
            endpoint.clocks.discard(clock)

    async def choose(self) -> Endpoint:
        """The end point with the fewest requests; waits while none takes any.

        Raises:
            UserError: none has been up for ``patience_seconds``.
        """
        while True:
            now = time.monotonic()
            up = [endpoint for endpoint in self._all if endpoint.up]
            ready = [endpoint for endpoint in up if endpoint.rests_until <= now]
            if ready:
                return min(ready, key=lambda endpoint: endpoint.in_flight)
            if up:
                until = min(endpoint.rests_until for endpoint in up)
            else:
                assert self._none_up_since is not None
                until = self._none_up_since + self._patience
                if until <= now:
                    raise UserError(self._all_lost())
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), until - now)
            except TimeoutError:
                continue

    def succeeded(self, endpoint: Endpoint) -> None:
        """The end point has answered."""
        endpoint.failures = 0

    def failed(self, endpoint: Endpoint) -> None:
        """An attempt failed by the server's fault, though it could be reached."""
        if endpoint.rests_until > time.monotonic():
            return  # one of many that were under way when it began to fail
        endpoint.failures += 1
        beyond = endpoint.failures - _FAILURES_IN_A_ROW
        if beyond >= 0:
            self.rest(endpoint, min(2.0**beyond, _LONGEST_REST_SECONDS))

    def unreachable(self, endpoint: Endpoint, why: str) -> None:
        """The end point could not be reached, or the connection was lost."""
        self._mark_down(endpoint, why)

    def rest(self, endpoint: Endpoint, seconds: float) -> None:
        """Send the end point no requests for some seconds, at most ``patience_seconds``."""
        seconds = min(seconds, self._patience)
        endpoint.rests_until = max(endpoint.rests_until, time.monotonic() + seconds)

    def _mark_up(self, endpoint: Endpoint) -> None:
        if not endpoint.up:
            endpoint.up = True
            endpoint.lost.clear()
            self._none_up_since = None
            self._changed.set()

    def _mark_down(self, endpoint: Endpoint, why: str) -> None:
        endpoint.why_down = why
        if endpoint.up:
            endpoint.up = False
            endpoint.lost.set()
            if not any(other.up for other in self._all):
                self._none_up_since = time.monotonic()
                self._changed.set()

    def _all_lost(self) -> str:
        each = "; ".join(f"{endpoint.url} ({endpoint.why_down})" for endpoint in self._all)
        each = each or "none has been announced"
        return (
            f"no server answers, for {self._patience:.0f} s now: {each}; start one and run the "
            "same command again, which resumes from here"
        )
