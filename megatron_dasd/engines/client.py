"""One request to OpenAI-compatible servers, retried until it is answered well or set aside.

What a server says in an error is scrubbed before it is cut, stored or printed.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from megatron_dasd.config.base import Server
from megatron_dasd.engines.base import Failure, Meter
from megatron_dasd.engines.endpoints import Endpoint, Endpoints
from megatron_dasd.engines.faults import Attempts, Fault, Refusal, parse_retry_after
from megatron_dasd.engines.identity import ModelCheck
from megatron_dasd.engines.network import (
    CONNECTION_LOST,
    MOST_BYTES,
    NO_CONNECTION,
    Answer,
    Http,
    open_http,
    read_key,
)
from megatron_dasd.engines.services import RequestedWeights, announced_urls, request_weights
from megatron_dasd.engines.weights import Weights
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import JsonObject
from megatron_dasd.printing import say

NATIVE = "/generate"
"""Path of SGLang's own API, which lies beside ``/v1`` and not below it."""
_NOTICE_SECONDS = 3.0
"""Seconds without a server at the start, after which a line says what is waited for."""
_MOST_SET_ASIDE = 32
"""Requests set aside in a row at which the run ends: the servers are at fault, not the requests."""


class Client:
    """Asks the servers of one model; made by :func:`connected`."""

    def __init__(
        self,
        settings: Server,
        http: Http,
        meter: Meter,
        weights: Weights | None = None,
    ) -> None:
        self.settings = settings
        if weights and settings.service and settings.reload == "restart":
            request_weights(
                settings.service, RequestedWeights(str(weights.folder), weights.version)
            )
        self._models = ModelCheck(settings, http, weights)
        self._http = http
        self._meter = meter
        find = partial(announced_urls, settings.service) if settings.service else list
        self._endpoints = Endpoints(
            settings.urls, self._models.check, settings.patience_seconds, find=find
        )
        self._set_aside_in_a_row = 0
        self._watching: asyncio.Task[None] | None = None

    @property
    def model(self) -> str:
        """The model's name at the servers; known once one is up."""
        return self._models.model

    @property
    def version(self) -> str:
        """The servers' program and its version; known once one is up."""
        return self._models.version

    async def ask[A](
        self,
        path: str,
        body: JsonObject,
        read: Callable[[bytes], A],
        most_bytes: int = MOST_BYTES,
    ) -> A | Failure:
        """Post a request and read its answer; retries faults.

        Args:
            path: behind the base URL, e.g. ``/completions``; or :data:`NATIVE`.
            body: the model's name and the settings' extra fields are added.
            read: makes the result of an answer's bytes, or raises a Fault.
            most_bytes: longest body of the answer.

        Raises:
            UserError: no request of this run can be answered: no server is up, the key is not
                accepted, there is no such model or path.
        """
        fields = {"model": self.model} | body | self.settings.extra_body
        data = msgspec.json.encode(
            {name: value for name, value in fields.items() if value is not None}
        )
        attempts = Attempts(
            self.settings.max_attempts,
            self.settings.patience_seconds,
            seeded=fields.get("seed") is not None or fields.get("temperature") == 0,
        )
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Fault),
            stop=attempts.exhausted,
            wait=attempts.pause_seconds,
            after=self._count,
            reraise=True,
        )
        try:
            result: A = await retrying(self._attempt, path, data, read, most_bytes)
        except Fault as fault:
            return self._set_aside(Failure(kind=fault.kind, detail=self._http.scrub(fault.detail)))
        except Refusal as refusal:
            self._meter.fault("refused")
            return self._set_aside(Failure(kind="refused", detail=str(refusal)))
        self._set_aside_in_a_row = 0
        return result

    def _count(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        fault = state.outcome.exception()
        if isinstance(fault, Fault):
            self._meter.fault(fault.kind)

    def _set_aside(self, failure: Failure) -> Failure:
        self._set_aside_in_a_row += 1
        if self._set_aside_in_a_row >= _MOST_SET_ASIDE:
            raise UserError(
                f"{self._set_aside_in_a_row} requests in a row were not answered well, the last by "
                f"{failure.kind}: {failure.detail}; fix the server or the settings and run the "
                "same command again"
            )
        return failure

    async def _attempt[A](
        self, path: str, data: bytes, read: Callable[[bytes], A], most_bytes: int
    ) -> A:
        if self._watching and self._watching.done():
            self._watching.result()  # raises what ended it
        endpoint = await self._endpoints.choose()
        clock = asyncio.timeout(self.settings.deadline_seconds)
        try:
            with self._endpoints.serving(endpoint, clock):
                async with clock:
                    answer = await self._post(endpoint, path, data, most_bytes)
        except TimeoutError:
            if endpoint.lost.is_set():
                raise Fault("connection lost", f"{endpoint.url}: {endpoint.why_down}") from None
            self._endpoints.failed(endpoint)
            deadline = self.settings.deadline_seconds
            raise Fault("time-out", f"{endpoint.url}: no answer in {deadline:g} s") from None
        self._check_status(endpoint, path, answer)
        try:
            result = read(answer.body)
        except Fault:
            self._endpoints.failed(endpoint)
            raise
        self._endpoints.succeeded(endpoint)
        return result

    async def _post(self, endpoint: Endpoint, path: str, data: bytes, most_bytes: int) -> Answer:
        try:
            return await self._http.ask("POST", _address(endpoint, path), data, most_bytes)
        except Fault as fault:
            if fault.kind in (NO_CONNECTION, CONNECTION_LOST):
                self._endpoints.unreachable(endpoint, fault.detail)
                fault.detail = f"{_address(endpoint, path)}: {fault.detail}"
            raise

    def _check_status(self, endpoint: Endpoint, path: str, answer: Answer) -> None:
        """Raise what a status other than 200 means: a fault, a refusal, or the user's mistake."""
        status = answer.status
        if status == 200:
            return
        text = self._http.excerpt(answer)
        where = _address(endpoint, path)
        after = parse_retry_after(answer.retry_after)
        if status == 429:
            self._endpoints.rest(endpoint, after if after is not None else 0.0)
            raise Fault("http 429", f"{where}: {text}", counts=False, retry_after=after)
        if status == 408 or status >= 500:
            self._endpoints.failed(endpoint)
            raise Fault(f"http {status}", f"{where}: {text}", retry_after=after)
        if status in (401, 403):
            how = (
                f"the key in the environment variable {self.settings.api_key_env} is not accepted"
                if self.settings.api_key_env
                else "it needs a key: name its environment variable in api_key_env"
            )
            raise UserError(f"{where}: refused (status {status}): {how}")
        if status in (404, 405):
            raise UserError(f"{where}: no such path or model (status {status}): {text}")
        raise Refusal(f"status {status}: {text}")

    def require_no_secret(self, text: str) -> None:
        """Make sure that a text to be stored does not repeat the API key.

        Raises:
            Fault: it does.
        """
        if self._http.scrub.holds_secret(text):
            raise Fault("malformed answer", "the text repeats the API key")

    async def start(self) -> asyncio.Task[None]:
        """Begin to watch the servers and wait for the first; returns the task that watches."""
        watching = asyncio.create_task(self._endpoints.watch())
        chosen = asyncio.create_task(self._endpoints.choose())
        try:
            done, _ = await asyncio.wait(
                {watching, chosen},
                timeout=_NOTICE_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                patience = self.settings.patience_seconds
                service = [f"service {self.settings.service}"] if self.settings.service else []
                where = ", ".join([*self.settings.urls, *service])
                say(f"waiting up to {patience:g} s for a server at {where}")
                done, _ = await asyncio.wait(
                    {watching, chosen}, return_when=asyncio.FIRST_COMPLETED
                )
            for task in done:
                task.result()
        except BaseException:
            watching.cancel()
            chosen.cancel()
            await asyncio.gather(watching, chosen, return_exceptions=True)
            raise
        self._models.started = True
        self._watching = watching
        return watching


def _address(endpoint: Endpoint, path: str) -> str:
    return (endpoint.url.removesuffix("/v1") if path == NATIVE else endpoint.url) + path


@asynccontextmanager
async def connected(
    settings: Server, meter: Meter, weights: Weights | None = None
) -> AsyncIterator[Client]:
    """A client whose servers are watched; at least one is up.

    Args:
        weights: what they are to have, where they take new ones.

    Raises:
        UserError: no server answers within the settings' patience, it has no such model, or the
            key's environment variable is not set.
    """
    key = read_key(settings.api_key_env)
    async with open_http(key) as http:
        client = Client(settings, http, meter, weights)
        watching = await client.start()
        try:
            yield client
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
