"""Attempts of a hostile or broken server, through the real client over real HTTP."""

import asyncio
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from megatron_dasd.config.base import Server
from megatron_dasd.engines.answers import read_generation
from megatron_dasd.engines.base import Failure, Generation
from megatron_dasd.engines.client import connected
from megatron_dasd.engines.server_engine import ServerEngine
from megatron_dasd.errors import UserError
from tests.engines.test_server_engine import Seen, request

KEY = "sk-SECRET-0123456789abcdef"
GOOD: dict[str, Any] = {
    "choices": [
        {
            "text": "ab",
            "finish_reason": "stop",
            "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-0.1, -0.2]},
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2},
}
MODELS = {"data": [{"id": "m", "owned_by": "x"}]}
DEEP = b"[" * 300_000 + b"]" * 300_000


def http(body: object, status: str = "200 OK", *headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


def choice(**fields: object) -> bytes:
    return http(GOOD | {"choices": [GOOD["choices"][0] | fields]})


def content(**fields: object) -> bytes:
    token = {"token": "a", "logprob": -0.1, "bytes": [97]} | fields
    chat = {"message": {"content": "a"}, "logprobs": {"content": [token]}, "finish_reason": "stop"}
    return http({"choices": [chat]})


def packed(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    blank = b" " * (1 << 20)
    data = b"".join(packer.compress(blank) for _ in range(size >> 20)) + packer.flush()
    return http(data, "200 OK", "Content-Encoding: gzip")


def chunked(size: int) -> bytes:
    block = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + block * (size >> 20) + b"0\r\n\r\n"


ANSWERS: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "gzip of 200 MB": (lambda: packed(200 << 20), "answer too long"),
    "chunks of 60 MB": (lambda: chunked(60 << 20), "answer too long"),
    "5 GB declared": (b"HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\n", "answer too long"),
    "gzip junk": (http(b"\x1f\x8bjunk", "200 OK", "Content-Encoding: gzip"), "truncated answer"),
    "deep": (http(b'{"choices":' + DEEP + b"}"), "malformed"),
    "deep in a field that is not read": (http(b'{"x":' + DEEP + b',"choices":[]}'), "malformed"),
    "half a surrogate pair": (
        http(json.dumps(GOOD).replace('"ab"', '"\\ud800b"').encode()),
        "malformed",
    ),
    "not UTF-8": (http(json.dumps(GOOD).encode().replace(b"ab", b"\xff\xfe")), "malformed"),
    "NUL": (
        choice(text="\0b", logprobs={"tokens": ["\0", "b"], "token_logprobs": [-1, -1]}),
        "malformed",
    ),
    "ids of 2^70": (choice(token_ids=[2**70, 2]), "malformed"),
    "ids of 2^40": (choice(token_ids=[2**40, 2]), "malformed"),
    "negative ids": (choice(token_ids=[-5, 2]), "malformed"),
    "prompt ids of 2^70": (choice(prompt_token_ids=[2**70]), "malformed"),
    "usage of 2^70": (
        http(GOOD | {"usage": {"prompt_tokens": 2**70, "completion_tokens": 2}}),
        "malformed",
    ),
    "negative usage": (http(GOOD | {"usage": {"completion_tokens": -2}}), "malformed"),
    "bytes of 300": (content(bytes=[300]), "malformed"),
    "negative bytes": (content(bytes=[-1]), "malformed"),
    "a log-prob of -1e300": (content(logprob=-1e300), "no log-probs"),
    "a log-prob of 1e400": (
        http(json.dumps(GOOD).replace("-0.1", "-1e400").encode()),
        "malformed",
    ),
    "the key as finish_reason": (choice(finish_reason=KEY), "no finish reason"),
    "escapes as finish_reason": (choice(finish_reason="\x1b[2J"), "no finish reason"),
    "the key in an error": (http(b" " * 1180 + KEY.encode(), "400 Bad"), "refused"),
    "the key in a status line": (b"HTTP/1.1 200 OK\r\nBearer " + KEY.encode() + b"\r\n\r\n", ""),
    "escapes in an error": (http(b"\x1b[2J", "400 Bad"), "refused"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", "connection lost"),
    "429 for a day": (http(b"", "429 X", "Retry-After: 86400"), "http 429"),
    "429 for ever": (http(b"", "429 X", "Retry-After: inf"), "http 429"),
    "503 for a day": (http(b"", "503 X", "Retry-After: 86400"), "http 503"),
    "redirect to a file": (http(b"", "307 T", "Location: file:///etc/passwd"), "refused"),
    "redirect to no address": (http(b"", "307 T", "Location: http://[::1"), "refused"),
    "redirects in a circle": (http(b"", "307 T", "Location: /v1/completions"), "redirected"),
}


class Hostile:
    """Answers every request by its path with the same bytes."""

    def __init__(self, **answers: bytes) -> None:
        """``models``, ``version`` and ``completions`` may be given."""
        sound = {"models": http(MODELS), "version": http({"version": "1"})}
        self.answers = sound | {"completions": http(GOOD)} | answers
        self.seen: list[str] = []

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.seen.append(head)
                sizes = [li.split(":")[1] for li in head.split("\r\n") if "ent-Length:" in li]
                await reader.readexactly(int(sizes[0]) if sizes else 0)
                path = head.split(" ")[1].rsplit("/", 1)[1]
                writer.write(self.answers.get(path, http(b"", "404 No")))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()


async def asked(url: str, **fields: Any) -> tuple[Generation | Failure, str]:
    given: dict[str, Any] = {
        "urls": [url],
        "api_key_env": "K",
        "deadline_seconds": 20,
        "max_attempts": 2,
        "patience_seconds": 1,
    }
    async with connected(Server(**given | fields), Seen()) as client:
        answer = await client.ask("/completions", {"prompt": "x"}, read_generation)
        return answer, client.version


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", KEY)


def assert_clean(text: str) -> None:
    assert text.isprintable()
    assert not any(KEY[at : at + 8].lower() in text.lower() for at in range(len(KEY) - 7))


@pytest.mark.parametrize("name", ANSWERS)
def test_a_hostile_answer_is_set_aside_soon(name: str) -> None:
    given, kind = ANSWERS[name]
    data = given if isinstance(given, bytes) else given()

    async def run() -> tuple[Generation | Failure, str]:
        async with Hostile(completions=data) as url:
            tracemalloc.start()
            return await asyncio.wait_for(asked(url), 80)

    started = time.monotonic()
    try:
        answer, _ = asyncio.run(run())
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()
    assert isinstance(answer, Failure)
    assert answer.kind.startswith(kind)
    assert_clean(answer.detail)
    assert time.monotonic() - started < 60  # of 15 on a machine that is idle


IDENTITIES = {
    "models named with the key": {"models": http({"data": [{"id": KEY}, {"id": "\x1b[2J"}]})},
    "one model named with the key": {"models": http({"data": [{"id": KEY}]})},
    "one model named with escapes": {"models": http({"data": [{"id": "\x1b[2J"}]})},
    "models, deep": {"models": http(b'{"x":' + DEEP + b',"data":[]}')},
    "models, 40 MB": {"models": http(b'{"data":[{"id":"m"}],"x":"' + b"a" * (40 << 20) + b'"}')},
    "no completions": {"completions": http(KEY.encode() + b"\x1b[2J", "404 No")},
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_server_that_gives_no_sound_model_is_refused_in_a_clean_line(name: str) -> None:
    async def run() -> None:
        async with Hostile(**IDENTITIES[name]) as url:
            await asyncio.wait_for(asked(url), 80)

    with pytest.raises(UserError) as error:
        asyncio.run(run())
    assert_clean(str(error.value))


@pytest.mark.parametrize(
    "version", [{"version": KEY}, {"version": "\x1b[2J"}, {"version": "1" * 9999}]
)
def test_a_version_is_clean_and_short(version: object) -> None:
    async def run() -> tuple[Generation | Failure, str]:
        async with Hostile(version=http(version)) as url:
            return await asked(url)

    answer, known = asyncio.run(run())
    assert isinstance(answer, Generation)
    assert_clean(known)
    assert len(known) <= 100


def test_a_deep_version_leaves_the_program_alone() -> None:
    async def run() -> tuple[Generation | Failure, str]:
        async with Hostile(version=http(b'{"x":' + DEEP + b"}")) as url:
            return await asked(url)

    assert asyncio.run(run())[1] == "x"


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
@pytest.mark.parametrize("path", ["completions", "models"])
def test_a_redirect_to_another_host_is_not_followed(status: str, path: str) -> None:
    other = Hostile()

    async def run() -> tuple[Generation | Failure, str]:
        async with other as there:
            leads = http(b"", status, f"Location: {there}/{path}")
            async with Hostile(**{path: leads}) as url:
                return await asked(url)

    if path == "models":
        with pytest.raises(UserError, match="it redirects to http://127"):
            asyncio.run(run())
    else:
        answer, _ = asyncio.run(run())
        assert isinstance(answer, Failure)
        assert "it redirects to http://127" in answer.detail
    assert not other.seen


def test_a_redirect_on_the_same_host_is_followed() -> None:
    async def run() -> tuple[Generation | Failure, str]:
        moved = http(b"", "307 T", "Location: /v1/other")
        async with Hostile(completions=moved, other=http(GOOD)) as url:
            return await asked(url)

    assert isinstance(asyncio.run(run())[0], Generation)


def test_a_text_that_repeats_the_key_is_not_stored() -> None:
    told = [{"token": c, "logprob": -0.5, "bytes": list(c.encode())} for c in KEY]
    chat = {"message": {"content": KEY}, "logprobs": {"content": told}, "finish_reason": "stop"}

    async def run() -> Generation | Failure:
        async with Hostile(completions=http({"choices": [chat]})) as url:
            server = Server(urls=[url], api="chat", api_key_env="K", max_attempts=1)
            async with connected(server, Seen()) as client:
                return await ServerEngine(server, None)._generate(client, Seen(), request(1))

    answer = asyncio.run(run())
    assert isinstance(answer, Failure)
    assert answer.detail == "the text repeats the API key"
