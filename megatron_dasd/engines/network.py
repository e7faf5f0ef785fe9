"""HTTP to servers: bounded answers, no redirects elsewhere, proxies, errors in plain words.

The API key is in the headers of the session and in the scrubber, and nowhere else.
"""

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec

from megatron_dasd.config.base import is_http_address, url_fault
from megatron_dasd.engines.faults import Fault
from megatron_dasd.engines.scrub import Scrubber
from megatron_dasd.errors import UserError

CONNECT_SECONDS = 10.0
_KEEP_ALIVE_SECONDS = 4.0
"""Shorter than servers keep an idle connection (5 s is common): a request on a connection that the
server is just closing would fail."""
MOST_BYTES = 32 << 20
"""Longest body of an answer, decompressed: log-probs of about 250,000 tokens.  A request whose
answer is larger by its nature says so."""
_MOST_REDIRECTS = 4
NO_CONNECTION, CONNECTION_LOST = "no connection", "connection lost"
"""Kinds of faults after which a server counts as unreachable."""


@dataclass(frozen=True)
class Answer:
    """A server's answer to one request, whole."""

    status: int
    body: bytes
    retry_after: str | None
    """The header of this name."""
    location: str = ""
    """Where a redirect leads that was not followed."""


class Http:
    """Requests of one session."""

    def __init__(self, session: aiohttp.ClientSession, scrub: Scrubber) -> None:
        """Every text of a server goes through ``scrub`` before it is cut, stored or printed."""
        self._session = session
        self.scrub = scrub

    async def ask(
        self, method: str, url: str, data: bytes | None = None, most_bytes: int = MOST_BYTES
    ) -> Answer:
        """Make one request and read its answer; redirects are followed on the same host alone.

        Args:
            most_bytes: longest body of the answer, decompressed.

        Raises:
            Fault: no connection, or no whole answer of a bounded size; its detail is clean.
        """
        at = url
        for _ in range(_MOST_REDIRECTS):
            answer = await self._ask(method, at, data, most_bytes)
            further = _same_origin(at, method, answer)
            if further is None:
                return answer
            at = further
        raise Fault("redirected", f"{url}: more than {_MOST_REDIRECTS} redirects")

    async def _ask(self, method: str, url: str, data: bytes | None, most_bytes: int) -> Answer:
        try:
            async with self._session.request(
                method, url, data=data, proxy=proxy_of(url), allow_redirects=False
            ) as answer:
                return Answer(
                    answer.status,
                    await _read(answer, url, most_bytes),
                    answer.headers.get("Retry-After"),
                    answer.headers.get("Location", ""),
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # before anything was sent
            raise Fault(NO_CONNECTION, self._error_text(error), counts=False) from None
        except aiohttp.ClientPayloadError:
            raise Fault("truncated answer", f"{url}: the answer ends early") from None
        except (aiohttp.ClientError, OSError, ValueError, AssertionError) as error:
            # aiohttp has checks of its own that raise the last two
            raise Fault(CONNECTION_LOST, self._error_text(error)) from None

    def excerpt(self, answer: Answer) -> str:
        """What an answer other than the expected one says: the beginning of its body, clean."""
        if 300 <= answer.status < 400:
            return f"it redirects to {self.scrub(answer.location)}, which is not followed"
        return self.scrub(answer.body)

    def _error_text(self, error: BaseException) -> str:
        return self.scrub(_error_text(error))


async def _read(answer: aiohttp.ClientResponse, url: str, most_bytes: int) -> bytes:
    """The body; aiohttp decompresses it in pieces as they are taken, so that memory is bounded."""
    declared = answer.content_length
    plain = "Content-Encoding" not in answer.headers
    if plain and declared is not None and declared <= most_bytes:
        return await answer.read()  # never more than it declares
    chunks, size = [], 0
    if not plain or declared is None:
        async for chunk in answer.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > most_bytes:
                break
        else:
            return b"".join(chunks)
    answer.close()  # the rest is not read
    raise Fault("answer too long", f"{url}: more than {most_bytes >> 20} MiB")


def _same_origin(url: str, method: str, answer: Answer) -> str | None:
    """Where an answer redirects this request to at the same origin; None: nowhere, or elsewhere."""
    kept = answer.status in (307, 308) or (answer.status in (301, 302) and method == "GET")
    if not kept or not answer.location:
        return None
    try:
        further = urljoin(url, answer.location)
        return further if not url_fault(further) and _origin(further) == _origin(url) else None
    except ValueError:
        return None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def decode[T](decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    """Read an answer's JSON.

    Raises:
        Fault: it is not sound.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise Fault("malformed answer", str(error)) from None
    except msgspec.DecodeError as error:
        if literal := next((name for name in (b"NaN", b"Infinity") if name in raw), None):
            what = f"the answer holds {literal.decode()}, which is no number of JSON"
            raise Fault("no log-probs", what, of_content=True) from None
        raise Fault("malformed JSON", str(error)) from None
    except UnicodeDecodeError:
        raise Fault("malformed JSON", "not UTF-8") from None
    except RecursionError:
        raise Fault("malformed JSON", "nested too deeply") from None


@asynccontextmanager
async def open_http(key: str) -> AsyncIterator[Http]:
    """A session for any number of requests at a time.

    Args:
        key: API key; empty for none.
    """
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield Http(session, Scrubber.from_environment(key))


def read_key(variable: str | None) -> str:
    """The API key in an environment variable; empty without a variable.

    Raises:
        UserError: the variable is not set, or holds what cannot be a key.
    """
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"the environment variable {variable} (api_key_env) is not set")
    if not key.isascii() or not key.isprintable():
        raise UserError(f"the environment variable {variable} holds characters that no key has")
    return key


@lru_cache
def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL.

    Raises:
        UserError: it names no address of an HTTP proxy.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = None if proxy_bypass(host) else getproxies().get(parts.scheme)
    if proxy and not is_http_address(proxy):
        raise UserError(
            f"the environment variable {parts.scheme}_proxy holds no http:// or https:// "
            "address of a proxy"
        )
    return proxy


def _error_text(error: BaseException) -> str:
    """A network error in a few words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorError):
        return (error.os_error.strerror or str(error.os_error)).lower()
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientResponseError):  # without the URL, which may be the proxy's
        return f"{error.message or 'no sound answer'} (status {error.status})".lower()
    return str(error).lower() or type(error).__name__
