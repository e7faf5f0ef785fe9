"""A completions server that gives one prepared answer at once: what is left is the client's time.

Usage: instant_server.py CORE

Prints its port, then serves until it is killed.  The answer has everything that vLLM 0.32 sends
with ``logprobs: 0`` and ``return_token_ids``, for 512 tokens.
"""

import asyncio
import json
import os
import sys

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


async def serve() -> None:
    """Serve on a free port of this machine."""
    body = prepared_answer()
    models = json.dumps({"data": [{"id": "instant", "owned_by": "benchmark"}]}).encode()

    async def complete(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json")

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
    asyncio.run(serve())
