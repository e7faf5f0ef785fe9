"""A completions server that gives one prepared answer at once: what is left is the client's time.

Usage: instant_server.py CORE [TOP_K]

Prints its port, then serves until it is killed.  The answer has everything that vLLM 0.32 sends
with ``logprobs: 0`` and ``return_token_ids``, for 512 tokens; with TOP_K what it sends with
``prompt_logprobs: TOP_K`` about a text of the request's length, whose tokens are ``text_ids``.
"""

import asyncio
import json
import os
import random
import sys
from functools import cache

from aiohttp import web

NUM_TOKENS = 512
FIRST_LETTER, NUM_LETTERS = 3, 26
"""Ids of the letters in the benchmark's tokenizer."""


def prepared_answer() -> bytes:
    """The body of every answer."""
    ids = [FIRST_LETTER + (7 * i) % NUM_LETTERS for i in range(NUM_TOKENS)]
    texts = [chr(ord("a") + i - FIRST_LETTER) for i in ids]
    logprobs = [-1.2345678901 / (1 + i % 11) for i in range(NUM_TOKENS)]
    choice: dict[str, object] = {
        "index": 0,
        "text": "".join(texts),
        "logprobs": {
            "text_offset": list(range(NUM_TOKENS)),
            "token_logprobs": logprobs,
            "tokens": texts,
            "top_logprobs": [{t: lp} for t, lp in zip(texts, logprobs, strict=True)],
        },
        "finish_reason": "length",
        "stop_reason": None,
        "token_ids": ids,
        "prompt_logprobs": None,
        "prompt_token_ids": [1, 3, 4, 5],
    }
    usage = {"prompt_tokens": 4, "total_tokens": 4 + NUM_TOKENS, "completion_tokens": NUM_TOKENS}
    answer = {
        "id": "cmpl-0",
        "object": "text_completion",
        "created": 0,
        "model": "instant",
        "choices": [choice],
        "usage": usage,
    }
    return json.dumps(answer).encode()


def text_ids(num_tokens: int) -> list[int]:
    """The text that top-k is asked of."""
    return [FIRST_LETTER + (7 * i) % NUM_LETTERS for i in range(num_tokens)]


@cache
def top_answer(num_tokens: int, top_k: int) -> bytes:
    """The body of an answer with the likeliest tokens of a text."""
    ids, chance = text_ids(num_tokens), random.Random(num_tokens)
    positions: list[object] = [None]
    for own in ids[1:]:
        likeliest = chance.sample(range(100, 151_000), top_k)
        logprobs = sorted((-4.5 - chance.random() * 9 for _ in likeliest), reverse=True)
        entries = [(own, -12.345678901234567), *zip(likeliest, logprobs, strict=True)]
        positions.append(
            {
                str(token): {"logprob": logprob, "rank": rank, "decoded_token": " token"}
                for rank, (token, logprob) in enumerate(entries)
            }
        )
    choice = {"index": 0, "text": "a", "finish_reason": "length", "prompt_logprobs": positions}
    return json.dumps({"id": "cmpl-0", "choices": [choice]}, separators=(",", ":")).encode()


async def serve(top_k: int | None) -> None:
    """Serve on a free port of this machine."""
    body = prepared_answer()
    models = json.dumps({"data": [{"id": "instant", "owned_by": "benchmark"}]}).encode()

    async def complete(request: web.Request) -> web.Response:
        asked = await request.read()
        given = top_answer(len(json.loads(asked)["prompt"]), top_k) if top_k else body
        return web.Response(body=given, content_type="application/json")

    async def list_models(request: web.Request) -> web.Response:
        return web.Response(body=models, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    app.router.add_get("/v1/models", list_models)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    asyncio.run(serve(int(sys.argv[2]) if len(sys.argv) > 2 else None))
