"""The likeliest tokens at every position of given texts, from servers; memory is bounded.

vLLM has no first position for ``prompt_logprobs``: the answer to any request lists every position
of its text, however the text is cut.  So a text is one request, whose largest answer is computed
from its length, and requests start as their answers fit into the memory set for them.  SGLang can
begin at any position: its answers are cut to windows of a fixed size.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from megatron_dasd.config.base import Server
from megatron_dasd.engines import native
from megatron_dasd.engines.answers import read_sampled
from megatron_dasd.engines.base import Failure, Meter, Scored, TopRequest
from megatron_dasd.engines.client import NATIVE, Client
from megatron_dasd.engines.network import MOST_BYTES
from megatron_dasd.engines.probe import Sample, check_untempered
from megatron_dasd.engines.server_engine import Ask, ServerEngine, answer_batches
from megatron_dasd.engines.top_answers import Top, Vocabulary, joined, read_prompt_logprobs

_ENTRY_BYTES = 160
"""Most JSON of an entry of vLLM, on average over a text; 75 are usual."""
_NATIVE_ENTRY_BYTES = 64
"""The same of SGLang, whose entries hold no text; 35 are usual."""
_OTHER_BYTES = 1 << 20
"""Of an answer, beside its entries."""
_NUM_PROBES = 4
_PROBE_PROMPT, _PROBE_TOKENS = 256, 64


class Room:
    """Memory that is taken for a while, by one after the other."""

    def __init__(self, size: int) -> None:
        """``size`` bytes, all free."""
        self._size, self._used = size, 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[None]:
        """Wait until it fits; a size beyond all there is waits until nothing else is taken."""
        async with self._turn:  # none overtakes a large one
            while self._used and self._used + size > self._size:
                self._freed.clear()
                await self._freed.wait()
            self._used += size
        try:
            yield
        finally:
            self._used -= size
            self._freed.set()


class TopEngine:
    """A teacher behind servers that lists its k likeliest tokens."""

    def __init__(
        self, settings: Server, teacher: Path, top_k: int, vocabulary: Vocabulary, room: Room
    ) -> None:
        """Servers are asked only when there is work.

        Args:
            teacher: Hugging Face folder with the teacher's tokenizer.
            room: where answers in flight have their place.
        """
        self.servers = ServerEngine(settings, teacher)
        self._settings = settings
        self._top_k = top_k
        self._vocabulary = vocabulary
        self._room = room

    def top(
        self, batches: Iterable[tuple[int, Sequence[TopRequest]]], meter: Meter, max_open: int
    ) -> Iterator[tuple[int, list[Top | Failure]]]:
        """The likeliest tokens, batch by batch as ``ServerEngine.generate``.

        Raises:
            UserError: the servers cannot do this work, or none has answered for too long.
        """
        opening = partial(self.ranking, meter)
        return answer_batches(batches, opening, self.servers.concurrency, max_open)

    @asynccontextmanager
    async def ranking(
        self, meter: Meter, first: Sequence[TopRequest]
    ) -> AsyncIterator[Ask[TopRequest, Top | Failure]]:
        """What answers one request, once the servers have passed the probe."""
        async with self.servers.connected(meter) as client:
            if self._settings.probe:
                samples = [self._sample(request) for request in first[:_NUM_PROBES]]
                score = partial(self._score, client)
                await check_untempered(client, samples, score, self._settings.rescore_by)
            yield partial(self._rank, client, meter)

    def answer_bytes(self, num_tokens: int) -> int:
        """Most bytes of one answer about a text."""
        if self._settings.rescore_by == "sglang":
            return MOST_BYTES
        return answer_bytes(num_tokens, self._top_k)

    async def _rank(self, client: Client, meter: Meter, request: TopRequest) -> Top | Failure:
        found = await self._top(client, request.ids.tolist())
        meter.ended(len(request.ids))
        return found

    async def _top(self, client: Client, ids: list[int]) -> Top | Failure:
        if len(ids) < 2:  # nothing precedes the first token
            return joined([], self._top_k)
        if self._settings.rescore_by == "sglang":
            return await self._by_windows(client, ids)
        body = {"prompt": ids, "max_tokens": 1, "temperature": 1.0}
        most = self.answer_bytes(len(ids))
        async with self._room.taken(most):
            return await client.ask(
                "/completions",
                body | {"prompt_logprobs": self._top_k},
                lambda raw: read_prompt_logprobs(raw, ids, self._top_k, self._vocabulary),
                most,
            )

    async def _by_windows(self, client: Client, ids: list[int]) -> Top | Failure:
        """One window after the other: the server still has the prefix in its cache."""
        size = max(1, (MOST_BYTES - _OTHER_BYTES) // (_NATIVE_ENTRY_BYTES * (self._top_k + 1)))
        parts = []
        for start in range(1, len(ids), size):
            known = ids[: start + size]
            read = partial(
                native.read_top,
                ids=known,
                start=start,
                top_k=self._top_k,
                vocabulary=self._vocabulary,
            )
            async with self._room.taken(MOST_BYTES):
                body = native.scoring_body(known, start, self._top_k)
                part = await client.ask(NATIVE, body, read)
            if isinstance(part, Failure):
                return part
            parts.append(part)
        return joined(parts, self._top_k)

    def _sample(self, request: TopRequest) -> Sample:
        """Draws tokens after the beginning of a text, at temperature 1."""
        ids = request.ids[: min(_PROBE_PROMPT, max(1, len(request.ids) // 2))].tolist()
        if self._settings.rescore_by == "sglang":

            def read(raw: bytes) -> tuple[list[float], tuple[list[int], list[int]]]:
                logprobs, drawn = native.read_sampled(raw)
                return logprobs, (ids, drawn)

            return Sample(NATIVE, native.sampling_body(ids, _PROBE_TOKENS), read)
        body = {
            "prompt": ids,
            "max_tokens": _PROBE_TOKENS,
            "temperature": 1.0,
            "top_p": 1.0,
            "logprobs": 0,
            "return_token_ids": True,
        }
        return Sample("/completions", body, read_sampled)

    async def _score(
        self, client: Client, prompt_ids: Sequence[int], response_ids: Sequence[int]
    ) -> Scored | Failure:
        """The same tokens' log-probs as the likeliest tokens come with."""
        found = await self._top(client, [*prompt_ids, *response_ids])
        if isinstance(found, Failure):
            return found
        values: list[float] = found.own[len(prompt_ids) - 1 :].tolist()
        return Scored(logprobs=values)


def answer_bytes(num_tokens: int, top_k: int) -> int:
    """Most bytes of vLLM's answer about a text."""
    return _OTHER_BYTES + num_tokens * (top_k + 1) * _ENTRY_BYTES
