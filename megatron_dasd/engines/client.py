"""One request to OpenAI-compatible servers, asked until it is answered well or set aside.

The API key stands in the headers of the session and nowhere else; where a server says it back in
an error, it is struck out.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from megatron_dasd.config.base import Server
from megatron_dasd.engines.base import Failure, Meter
from megatron_dasd.engines.endpoints import Endpoint, Endpoints
from megatron_dasd.engines.faults import Attempts, Fault, Refusal, parse_retry_after
from megatron_dasd.engines.services import Wanted, announced_urls, want_weights
from megatron_dasd.engines.weights import Weights, bring
from megatron_dasd.errors import UserError

_CONNECT_SECONDS = 10.0
_HEALTH_TIMEOUT_SECONDS = 30.0
_KEEP_ALIVE_SECONDS = 4.0
"""Shorter than servers keep an idle connection (5 s is common), or requests would run into its
end."""
_TELL_AFTER_SECONDS = 3.0
"""Without a server at the start, it is told that one is waited for."""
_MOST_DETAIL = 300
"""Characters of an answer that are told in an error."""
_NEVER_ANSWERED_WELL = 32
"""So many requests set aside in a row, and none answered well between: the servers are at fault,
not the requests."""


class Client:
    """Asks the servers of one model; made by :func:`connected`."""

    def __init__(
        self,
        settings: Server,
        session: aiohttp.ClientSession,
        key: str,
        meter: Meter,
        weights: Weights | None = None,
    ) -> None:
        self.settings = settings
        self._weights = weights
        self.model = settings.model or ""
        """The model's name at the servers."""
        self.version = ""
        """The servers' program and its version."""
        if weights and settings.service and settings.reload == "restart":
            self.model = weights.version  # the name by which they serve it
            want_weights(settings.service, Wanted(str(weights.folder), weights.version))
        self._session = session
        self._key = key
        self._meter = meter
        find = partial(announced_urls, settings.service) if settings.service else list
        self._endpoints = Endpoints(
            settings.urls, self._health, settings.patience_seconds, find=find
        )
        self._set_aside_in_a_row = 0
        self._started = False

    async def ask[A](
        self, path: str, body: dict[str, Any], read: Callable[[bytes], A]
    ) -> A | Failure:
        """Post a request and read its answer, as often as it takes.

        Args:
            path: behind the base URL, e.g. ``/completions``.
            body: the model's name and the settings' extra fields are added.
            read: makes the result of an answer's bytes, or raises a Fault.

        Raises:
            UserError: no request of this run can be answered: no server is up, the key is not
                accepted, there is no such model or path.
        """
        fields = {"model": self.model} | body | self.settings.extra_body
        data = msgspec.json.encode(
            {name: value for name, value in fields.items() if value is not None}
        )
        attempts = Attempts(self.settings.max_attempts, self.settings.patience_seconds)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Fault),
            stop=attempts.exhausted,
            wait=attempts.pause_seconds,
            after=self._count,
            reraise=True,
        )
        try:
            result: A = await retrying(self._attempt, path, data, read)
        except Fault as fault:
            return self._set_aside(Failure(kind=fault.kind, detail=fault.detail))
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
        if self._set_aside_in_a_row >= _NEVER_ANSWERED_WELL:
            raise UserError(
                f"{self._set_aside_in_a_row} requests in a row were not answered well, the last by "
                f"{failure.kind}: {failure.detail}; mend the server or the settings and give the "
                "same command"
            )
        return failure

    async def _attempt[A](self, path: str, data: bytes, read: Callable[[bytes], A]) -> A:
        endpoint = await self._endpoints.choose()
        clock = asyncio.timeout(self.settings.deadline_seconds)
        try:
            with self._endpoints.serving(endpoint, clock):
                async with clock:
                    status, headers, raw = await self._post(endpoint, path, data)
        except TimeoutError:
            if endpoint.lost.is_set():
                raise Fault("connection lost", f"{endpoint.url}: {endpoint.why_down}") from None
            self._endpoints.failed(endpoint)
            deadline = self.settings.deadline_seconds
            raise Fault("time-out", f"{endpoint.url}: no answer in {deadline:g} s") from None
        self._check_status(endpoint, path, status, headers, raw)
        try:
            result = read(raw)
        except Fault:
            self._endpoints.failed(endpoint)
            raise
        self._endpoints.succeeded(endpoint)
        return result

    async def _post(self, endpoint: Endpoint, path: str, data: bytes) -> tuple[int, Any, bytes]:
        url = endpoint.url + path
        try:
            async with self._session.post(url, data=data, proxy=_proxy(url)) as answer:
                return answer.status, answer.headers, await answer.read()
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
        ) as error:
            # before anything was sent
            self._endpoints.unreachable(endpoint, _why(error))
            raise Fault("no connection", f"{url}: {_why(error)}", counts=False) from None
        except aiohttp.ClientPayloadError:
            raise Fault("truncated answer", f"{url}: the answer ends early") from None
        except (aiohttp.ClientError, OSError) as error:
            self._endpoints.unreachable(endpoint, _why(error))
            raise Fault("connection lost", f"{url}: {_why(error)}") from None

    def _check_status(
        self, endpoint: Endpoint, path: str, status: int, headers: Any, raw: bytes
    ) -> None:
        """Sort out every answer but a good one."""
        if status == 200:
            return
        said = self._told(raw)
        where = f"{endpoint.url}{path}"
        if status == 429:
            after = parse_retry_after(headers.get("Retry-After"))
            self._endpoints.rest(endpoint, after if after is not None else 0.0)
            raise Fault("http 429", f"{where}: {said}", counts=False, retry_after=after)
        if status == 408 or status >= 500:
            self._endpoints.failed(endpoint)
            after = parse_retry_after(headers.get("Retry-After"))
            raise Fault(f"http {status}", f"{where}: {said}", retry_after=after)
        if status in (401, 403):
            how = (
                f"the key in the environment variable {self.settings.api_key_env} is not accepted"
                if self.settings.api_key_env
                else "it wants a key: name its environment variable in api_key_env"
            )
            raise UserError(f"{where}: refused (status {status}): {how}")
        if status in (404, 405):
            raise UserError(f"{where}: no such path or model (status {status}): {said}")
        raise Refusal(f"status {status}: {said}")

    def _told(self, raw: bytes) -> str:
        """The beginning of what a server says, on one line, the key struck out."""
        text = " ".join(raw[: 4 * _MOST_DETAIL].decode(errors="replace").split())
        if self._key:
            text = text.replace(self._key, "***")
        return text[:_MOST_DETAIL]

    # -- health and identity ---------------------------------------------------------------------

    async def start(self) -> asyncio.Task[None]:
        """Begin to watch the servers and wait for the first; returns the task that watches."""
        watching = asyncio.create_task(self._endpoints.watch())
        chosen = asyncio.create_task(self._endpoints.choose())
        try:
            done, _ = await asyncio.wait(
                {watching, chosen},
                timeout=_TELL_AFTER_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                patience = self.settings.patience_seconds
                service = [f"service {self.settings.service}"] if self.settings.service else []
                where = ", ".join([*self.settings.urls, *service])
                print(f"waiting up to {patience:g} s for a server at {where}", flush=True)
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
        self._started = True
        return watching

    async def _health(self, url: str) -> str | None:
        """Ask a server for its models; gives what is wrong with it.

        Raises:
            UserError: at the start of a run, when it serves other models.
        """
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_SECONDS):
                async with self._session.get(f"{url}/models", proxy=_proxy(url)) as answer:
                    status, raw = answer.status, await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            return _why(error)
        if status in (401, 403):  # the first request will tell; no wait for a server helps
            return None
        if status != 200:
            return f"status {status}"
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            models = msgspec.json.decode(raw, type=_Models).data
            if not self.version:
                self.version = await self._read_version(url, models[0].owned_by if models else "")
            return self._choose_model(url, [m.id for m in models]) or await self._bring(url)
        return "its list of models is no JSON"

    def _choose_model(self, url: str, names: list[str]) -> str | None:
        if not self.model and len(names) == 1:
            self.model = names[0]
        if self.model in names:
            return None
        shown = ", ".join(names[:8]) or "none"
        want = f"does not serve {self.model}" if self.model else "which model is not named"
        if not self._started and self.settings.reload != "restart":
            raise UserError(f"{url}: {want} in the settings (it serves: {shown})")
        return f"serves other models: {shown}"

    async def _bring(self, url: str) -> str | None:
        """Give a server the weights of the stage, if it has others; gives what is wrong.

        Raises:
            UserError: at the start of a run, when it does not take them.
        """
        by = self.settings.reload
        if self._weights is None or by is None or by == "restart":
            return None
        try:
            wrong = await bring(self._session, url.removesuffix("/v1"), by, self._weights)
        except (aiohttp.ClientError, OSError) as error:
            return _why(error)
        if wrong and not self._started:
            raise UserError(f"{url}: {wrong}")
        return wrong

    async def _read_version(self, url: str, program: str) -> str:
        """``vllm 0.32.0``; the program alone where the server tells no version."""
        root = url.removesuffix("/v1")
        for path in ("/version", "/get_server_info"):
            with suppress(aiohttp.ClientError, OSError, msgspec.DecodeError, UnicodeDecodeError):
                async with (
                    asyncio.timeout(_CONNECT_SECONDS),
                    self._session.get(root + path, proxy=_proxy(url)) as answer,
                ):
                    if answer.status == 200:
                        version = msgspec.json.decode(await answer.read(), type=_Version).version
                        return f"{program} {version}".strip()
        return program or "unknown"


class _Model(msgspec.Struct):
    id: str
    owned_by: str = ""


class _Models(msgspec.Struct):
    data: list[_Model]


class _Version(msgspec.Struct):
    version: str


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
    key = _read_key(settings)
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        client = Client(settings, session, key, meter, weights)
        watching = await client.start()
        try:
            yield client
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


def _read_key(settings: Server) -> str:
    if settings.api_key_env is None:
        return ""
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key:
        raise UserError(f"the environment variable {settings.api_key_env} (api_key_env) is not set")
    if not key.isascii() or not key.isprintable():
        raise UserError(
            f"the environment variable {settings.api_key_env} holds characters that no key has"
        )
    return key


@lru_cache
def _proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return None if proxy_bypass(host) else getproxies().get(parts.scheme)


def _why(error: BaseException) -> str:
    """An error of the network in a few words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorError):
        return (error.os_error.strerror or str(error.os_error)).lower()
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error).lower() or type(error).__name__
