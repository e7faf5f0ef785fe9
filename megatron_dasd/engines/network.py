"""HTTP to servers: the session with its API key, proxies, errors in plain words.

The API key is in the headers of the session and nowhere else.
"""

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from megatron_dasd.errors import UserError

CONNECT_SECONDS = 10.0
_KEEP_ALIVE_SECONDS = 4.0
"""Shorter than servers keep an idle connection (5 s is common): a request on a connection that the
server is just closing would fail."""


@asynccontextmanager
async def open_session(key: str) -> AsyncIterator[aiohttp.ClientSession]:
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
        yield session


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
    """The proxy that the environment names for a URL."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return None if proxy_bypass(host) else getproxies().get(parts.scheme)


def error_text(error: BaseException) -> str:
    """A network error in a few words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorError):
        return (error.os_error.strerror or str(error.os_error)).lower()
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error).lower() or type(error).__name__
