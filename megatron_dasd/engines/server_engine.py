"""A model behind OpenAI-compatible servers: generation and log-probs of given texts."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import chain
from pathlib import Path

from megatron_dasd.config.base import Server
from megatron_dasd.engines import answers, native
from megatron_dasd.engines.base import (
    Failure,
    Generation,
    GenerationRequest,
    Meter,
    Scored,
    ScoringRequest,
)
from megatron_dasd.engines.client import NATIVE, Client, connected
from megatron_dasd.engines.flow import run_batches
from megatron_dasd.engines.probe import LOSES_BYTES, Sample, check_untempered, choose_probes
from megatron_dasd.engines.weights import Weights
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import JsonObject
from megatron_dasd.printing import say
from megatron_dasd.records import Message
from megatron_dasd.text.chat import turn_fields
from megatron_dasd.text.encoding import encode, load_tokenizer
from megatron_dasd.text.harmony import text_bytes

type Ask[Q, A] = Callable[[Q], Awaitable[A]]
"""Answers one request."""
type Opening[Q, A] = Callable[[Sequence[Q]], AbstractAsyncContextManager[Ask[Q, A]]]
"""Connects; called with the first batch."""
_OPEN_BATCHES = 4
"""Requests of open batches, in multiples of those in flight.  A slow request delays only its own
batch; this bounds how many finished requests wait in such batches."""


class ServerEngine:
    """A model behind servers."""

    def __init__(self, settings: Server, tokenizer_folder: Path | None) -> None:
        """Servers are asked only when there is work.

        Args:
            tokenizer_folder: Hugging Face folder with the model's tokenizer, which spells its
                tokens, and the weights where servers load them from it; None: the tokens' bytes
                come from the server.

        Raises:
            UserError: no tokenizer where one is needed.
        """
        if tokenizer_folder is None and settings.api == "completions":
            raise UserError(
                "api: completions needs the model's tokenizer: name its folder in model, or use "
                "api: chat"
            )
        self.name = settings.model or ""
        self.version = ""
        self._settings = settings
        self._tokenizer = load_tokenizer(tokenizer_folder) if tokenizer_folder else None
        self._weights: Weights | None = None
        self._has_answered = False
        if settings.reload and tokenizer_folder is None:
            raise UserError(f"reload: {settings.reload} needs the folder of the weights, model")
        if settings.reload and tokenizer_folder:
            self._weights = Weights.from_folder(tokenizer_folder)

    def generate(
        self, batches: Iterable[tuple[int, Sequence[GenerationRequest]]], meter: Meter
    ) -> Iterator[tuple[int, list[Generation | Failure]]]:
        """Generate for numbered batches; see :class:`engines.base.Engine`.

        Raises:
            UserError: the servers cannot do this work, or none has answered for too long.
        """
        return answer_batches(batches, partial(self.generating, meter), self.concurrency)

    def score(
        self, batches: Iterable[tuple[int, Sequence[ScoringRequest]]], meter: Meter
    ) -> Iterator[tuple[int, list[Scored | Failure]]]:
        """Log-probs of given texts, batch by batch as :meth:`generate`.

        Raises:
            UserError: as above.
        """
        return answer_batches(batches, partial(self.scoring, meter), self.concurrency)

    @property
    def concurrency(self) -> int:
        """Most requests in flight."""
        return self._settings.concurrency

    @asynccontextmanager
    async def connected(self, meter: Meter) -> AsyncIterator[Client]:
        """The client of the servers; sets the model's name and the servers' version."""
        async with connected(self._settings, meter, self._weights) as client:
            self.name, self.version = client.model, client.version
            yield client

    @asynccontextmanager
    async def generating(
        self, meter: Meter, first: Sequence[GenerationRequest]
    ) -> AsyncIterator[Ask[GenerationRequest, Generation | Failure]]:
        """What generates for one request, once the servers have passed the probe.

        Args:
            first: some of the requests, for the probe.
        """
        async with self.connected(meter) as client:
            if self._settings.probe:
                await check_untempered(
                    client,
                    [self._sample(request) for request in choose_probes(first)],
                    partial(self._score_ids, client),
                    self._settings.rescore_by,
                )
            yield partial(self._generate, client, meter)

    @asynccontextmanager
    async def scoring(
        self, meter: Meter, first: Sequence[ScoringRequest]
    ) -> AsyncIterator[Ask[ScoringRequest, Scored | Failure]]:
        """What scores one text."""
        async with self.connected(meter) as client:
            yield partial(self._score, client, meter)

    # -- generation ------------------------------------------------------------------------------

    async def _generate(
        self, client: Client, meter: Meter, request: GenerationRequest
    ) -> Generation | Failure:
        path, body = self._generation_body(request)
        spell = self._speller()

        def read(raw: bytes) -> Generation:
            self._look_at_first(raw)
            generation = answers.read_generation(raw, request.stop, spell)
            client.require_no_secret(generation.text)
            return generation

        generation = await client.ask(path, body, read)
        meter.ended(0 if isinstance(generation, Failure) else len(generation.tokens.token_ids))
        return generation

    def _look_at_first(self, raw: bytes) -> None:
        """Say at the first answer, not after hours, that others will be set aside."""
        if not self._has_answered:
            loses = not answers.keeps_bytes(raw)
            self._has_answered = True
            if loses:
                say(f"warning: {LOSES_BYTES}")

    def _sample(self, request: GenerationRequest) -> Sample:
        path, body = self._generation_body(request)
        return Sample(path, body, temperature=request.temperature, top_p=request.top_p)

    def _generation_body(self, request: GenerationRequest) -> tuple[str, JsonObject]:
        """(path, body) of a request."""
        body: JsonObject = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "return_token_ids": True,
        }
        if self._settings.send_seed:
            body["seed"] = request.seed
        if request.stop:
            body["stop"] = list(request.stop)
        if self._settings.api == "completions":
            assert self._tokenizer is not None
            body |= {
                "prompt": encode(self._tokenizer, request.prompt),
                "max_tokens": request.max_new_tokens,
                "logprobs": 0,
            }
            return "/completions", body
        messages = [_turn_for_server(turn) for turn in request.turns]
        if request.prefix:
            messages.append({"role": "assistant", "content": request.prefix})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        body |= {
            "messages": messages,
            "max_tokens": request.max_new_tokens,
            "logprobs": True,
        }
        if request.tools:
            body["tools"] = json.loads(request.tools)
        return "/chat/completions", body

    def _speller(self) -> answers.Spell | None:
        return partial(text_bytes, self._tokenizer) if self._tokenizer else None

    # -- scoring ---------------------------------------------------------------------------------

    async def _score(
        self, client: Client, meter: Meter, request: ScoringRequest
    ) -> Scored | Failure:
        found = await self._score_ids(client, request.prompt_ids, request.response_ids)
        meter.ended(0 if isinstance(found, Failure) else len(found.logprobs))
        return found

    async def _score_ids(
        self, client: Client, prompt_ids: Sequence[int], response_ids: Sequence[int]
    ) -> Scored | Failure:
        ids = [*prompt_ids, *response_ids]
        if self._settings.rescore_by == "sglang":
            start = max(1, len(prompt_ids))
            given = native.scoring_body(ids, start)
            return await client.ask(
                NATIVE, given, lambda raw: Scored(logprobs=native.read_scores(raw, ids, start))
            )
        body: JsonObject = {"prompt": ids, "max_tokens": 1, "temperature": 1.0}
        if self._settings.rescore_by == "prompt_logprobs":
            body["prompt_logprobs"] = 0
        else:
            body |= {"echo": True, "logprobs": 0}

        def read(raw: bytes) -> Scored:
            return Scored(logprobs=answers.read_scores(raw, ids, len(prompt_ids)))

        return await client.ask("/completions", body, read)


def answer_batches[Q, A](
    batches: Iterable[tuple[int, Sequence[Q]]],
    opening: Opening[Q, A],
    concurrency: int,
    max_open: int | None = None,
) -> Iterator[tuple[int, list[A]]]:
    """Connect once there is a batch, and answer all batches.

    Args:
        concurrency: requests in flight.
        max_open: batches begun and not yet taken; None: by their size.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        return
    if max_open is None:
        max_open = 2 + _OPEN_BATCHES * concurrency // max(1, len(first[1]))
    yield from run_batches(
        chain([first], batches),
        partial(opening, first[1]),
        concurrency=concurrency,
        max_open=max_open,
    )


def _turn_for_server(turn: Message) -> JsonObject:
    """A turn as the chat API takes it, in which a call's arguments are text."""
    fields = turn_fields(turn)
    if turn.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in turn.tool_calls
        ]
    return fields
