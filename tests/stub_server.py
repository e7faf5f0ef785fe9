"""An OpenAI-compatible server over real HTTP that writes letters and fails as it is told to.

Its tokens are those of the ``tokenizer`` fixture: 0 to 2 are special, 2 ends a turn, ``3 + i`` is
the i-th small letter.  What it writes follows from the request, so that tests know it.
"""

import asyncio
import json
import math
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from aiohttp import web

Fault = Callable[[int, dict[str, Any]], str | None]
"""Called with the number of the request (from 0) and its body; names what is to go wrong."""
END = 2
MODEL = "stub-model"


def logprob_of(token: int) -> float:
    """ln p of a token in the stub's model, whatever stands before it."""
    return -0.125 * (token % 7) - 0.25


@cache
def next_logprobs(previous: int, vocab_size: int = 29) -> list[float]:
    """[tokens] ln p of every token after another, as the stub lists the likeliest ones."""
    logits = [-0.75 * ((5 * token + previous) % vocab_size) for token in range(vocab_size)]
    total = math.log(sum(map(math.exp, logits)))
    return [logit - total for logit in logits]


@cache
def likeliest(previous: int, top_k: int) -> list[tuple[int, float]]:
    """(token, ln p) of the k likeliest after another, the likeliest first."""
    ranked = sorted(enumerate(next_logprobs(previous)), key=lambda entry: -entry[1])
    return ranked[:top_k]


def listed(previous: int, own: int, top_k: int) -> dict[str, dict[str, Any]]:
    """A position of ``prompt_logprobs``, which lists the text's own token first."""
    entries = [(own, next_logprobs(previous)[own]), *likeliest(previous, top_k)]
    return {str(t): {"logprob": p, "rank": 1, "decoded_token": "x"} for t, p in entries}


def written_ids(body: dict[str, Any]) -> list[int]:
    """What the stub writes for a request: letters by its seed, and an end of turn if it fits."""
    seed = body.get("seed", 0)
    letters = [3 + (seed // 7 + 5 * i) % 26 for i in range(1 + seed % 9)]
    return [*letters, END][: body["max_tokens"]]


def spelled(ids: list[int]) -> str:
    """The text of the letters among the tokens."""
    return "".join(chr(ord("a") + i - 3) for i in ids if i > END)


def native_answer(body: dict[str, Any]) -> dict[str, Any]:
    """An answer of SGLang's own API, in which the first position has no log-probs."""
    ids, start, top_k = (
        body["input_ids"],
        body.get("logprob_start_len", 0),
        body["top_logprobs_num"],
    )
    around = list(pairwise(ids[start:]))
    own = [[next_logprobs(before)[token], token, None] for before, token in around]
    top = [[[p, token, None] for token, p in likeliest(before, top_k)] for before, _ in around]
    meta: dict[str, Any] = {"input_token_logprobs": [[None, ids[start], None], *own]}
    return {"text": "", "meta_info": meta | {"input_top_logprobs": [None, *top]}}


@dataclass
class StubServer:
    """Serves on a free port of this machine, in a thread of its own; a context manager."""

    fault: Fault = lambda number, body: None
    temper: Callable[[float, float], float] = lambda logprob, temperature: logprob
    """What sampling makes of a log-prob at a temperature."""
    key: str | None = None
    frozen: bool = False
    """Takes requests, health checks too, and answers none."""
    port: int = 0
    host: str = "127.0.0.1"
    """The address that it listens on."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Every request for text, in order."""
    answered: Counter[int] = field(default_factory=Counter)
    """Good answers by seed."""
    most_in_flight: int = 0
    model: str = MODEL
    """The name that it serves."""
    weights: str | None = None
    """Version of the weights that it has; None: it tells none."""
    loaded: list[str] = field(default_factory=list)
    """Folders that it was told to load, in order."""
    stubborn: bool = False
    """Says that it has loaded weights and has not."""
    _in_flight: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End at once, as if killed: what is in flight is cut off."""
        if self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/version", self._version)
        for path in ("/weight_info", "/model_info"):
            app.router.add_get(path, self._weight_info)
        for path in ("/pause", "/resume", "/reset_prefix_cache"):
            app.router.add_post(path, self._fine)
        app.router.add_post("/collective_rpc", self._reload)
        app.router.add_post("/update_weight_version", self._name_weights)
        app.router.add_post("/update_weights_from_disk", self._load_from_disk)
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/generate", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _end(self) -> None:
        await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        if self.frozen:
            await asyncio.sleep(60)
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "no"}, status=401)
        return web.json_response({"data": [{"id": self.model, "owned_by": "stub"}]})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "1.2.3"})

    async def _weight_info(self, request: web.Request) -> web.Response:
        if self.weights is None:
            return web.Response(status=404)
        return web.json_response({"weight_version": self.weights})

    async def _fine(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def _reload(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert body["method"] == "reload_weights"
        return self._load(body["kwargs"]["weights_path"], self.weights)

    async def _name_weights(self, request: web.Request) -> web.Response:
        self.weights = self.weights if self.stubborn else (await request.json())["new_version"]
        return web.json_response({"success": True})

    async def _load_from_disk(self, request: web.Request) -> web.Response:
        body = await request.json()
        return self._load(body["model_path"], body["weight_version"])

    def _load(self, folder: str, version: str | None) -> web.Response:
        if not Path(folder).is_dir():
            return web.json_response({"error": f"no {folder}"}, status=500)
        self.loaded.append(folder)
        self.weights = self.weights if self.stubborn else version
        return web.json_response({"success": True})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            said = f"Incorrect API key: {request.headers.get('Authorization')}"
            return web.json_response({"error": said}, status=401)
        body = await request.json()
        number = len(self.bodies)
        self.bodies.append(body)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            fault = self.fault(number, body)
            if self.frozen:
                await asyncio.sleep(60)
            if fault is not None and (answer := await self._fail(fault, request, body)):
                return answer
            self.answered[body.get("seed", 0)] += 1
            if request.path == "/generate":
                return web.json_response(native_answer(body))
            return web.json_response(self._good(body, "chat" in request.path, fault))
        finally:
            self._in_flight -= 1

    def _good(self, body: dict[str, Any], chat: bool, fault: str | None) -> dict[str, Any]:
        """An answer, or one with the fault in its content."""
        ids = written_ids(body)
        temperature = body.get("temperature", 1.0)
        logprobs: list[Any] = [self.temper(logprob_of(i), temperature) for i in ids]
        usage = {"prompt_tokens": len(body.get("prompt", [])), "completion_tokens": len(ids)}
        if fault == "short log-probs":
            logprobs = logprobs[:-1]
        if fault == "null log-probs":
            logprobs = [None] * len(logprobs)
        if fault == "positive log-probs":
            logprobs = [4.5] * len(logprobs)
        text = "other" if fault == "other text" else spelled(ids)
        choice: dict[str, Any] = {"index": 0, "token_ids": ids}
        choice["finish_reason"] = "stop" if ids[-1] == END else "length"
        if fault == "no finish reason":
            choice["finish_reason"] = None
        names = [spelled([i]) or "<|im_end|>" for i in ids]
        if chat:
            choice["message"] = {"role": "assistant", "content": text}
            told = [
                {"token": name, "logprob": value, "bytes": list(name.encode())}
                for name, value in zip(names, logprobs, strict=False)
            ]
            choice["logprobs"] = {"content": told}
        else:
            choice["text"] = text
            choice["logprobs"] = {"tokens": names, "token_logprobs": logprobs}
        if fault == "no log-probs":
            choice["logprobs"] = None
        choice["prompt_token_ids"] = body.get("prompt", [3, 4])
        if not body.get("return_token_ids"):
            del choice["token_ids"], choice["prompt_token_ids"]
        if top_k := body.get("prompt_logprobs"):
            around = pairwise(body["prompt"])
            choice["prompt_logprobs"] = [None, *(listed(*pair, top_k) for pair in around)]
        elif "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [
                {str(i): {"logprob": logprob_of(i)}} if at else None
                for at, i in enumerate(body["prompt"])
            ]
        if body.get("echo"):
            echoed = [logprob_of(i) if at else None for at, i in enumerate(body["prompt"])]
            choice["logprobs"]["token_logprobs"] = echoed + logprobs
        return {
            "model": MODEL,
            "choices": [] if fault == "no choices" else [choice],
            "usage": usage,
        }

    async def _fail(
        self, fault: str, request: web.Request, body: dict[str, Any]
    ) -> web.StreamResponse | None:
        """Fail in the transport; None for faults that are in the content."""
        if fault == "reset":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if fault == "hang":
            await asyncio.sleep(60)
        if fault == "slow":
            await asyncio.sleep(0.5)
        if fault == "malformed":
            return web.Response(text='{"choices": [{"text": "ab', content_type="application/json")
        if fault == "wrong type":
            return web.json_response({"choices": "none"})
        if fault == "truncated":
            whole = json.dumps(self._good(body, False, None)).encode()
            answer = web.StreamResponse(headers={"Content-Length": str(len(whole))})
            await answer.prepare(request)
            await answer.write(whole[: len(whole) // 2])
            assert request.transport is not None
            request.transport.close()
            return answer
        if fault.startswith("429"):
            after = fault.removeprefix("429").strip()
            return web.json_response(
                {"error": "later"}, status=429, headers={"Retry-After": after} if after else {}
            )
        if fault.isdigit():
            return web.json_response({"error": "as told"}, status=int(fault))
        return None
