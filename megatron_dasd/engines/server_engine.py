"""A model behind OpenAI-compatible servers: generation and log-probs of given texts."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from megatron_dasd.config.base import Server
from megatron_dasd.engines import answers
from megatron_dasd.engines.base import (
    Failure,
    Generation,
    GenerationRequest,
    Meter,
    Scored,
    ScoringRequest,
)
from megatron_dasd.engines.client import Client, connected
from megatron_dasd.engines.flow import run_batches
from megatron_dasd.engines.probe import check_untempered, choose_probes
from megatron_dasd.engines.weights import Weights
from megatron_dasd.errors import UserError
from megatron_dasd.text.encoding import encode, load_tokenizer
from megatron_dasd.text.harmony import text_bytes

_OPEN_BATCHES = 4
"""Requests in batches that are begun, in multiples of those in flight: a slow one holds back its
own batch, and this bounds how many finished ones wait with it."""


class ServerEngine:
    """The model of some servers."""

    def __init__(self, settings: Server, tokenizer_folder: Path | None) -> None:
        """Nothing is asked before there is work.

        Args:
            tokenizer_folder: Hugging Face folder with the model's tokenizer, which spells its
                tokens, and the weights where servers are given them; None: the tokens' bytes come
                from the server.

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
        if settings.reload and tokenizer_folder is None:
            raise UserError(f"reload: {settings.reload} needs the folder of the weights, model")
        if settings.reload and tokenizer_folder:
            self._weights = Weights.of(tokenizer_folder)

    def generate(
        self, batches: Iterable[tuple[int, Sequence[GenerationRequest]]], meter: Meter
    ) -> Iterator[tuple[int, list[Generation | Failure]]]:
        """Generate for numbered batches; see :class:`engines.base.Engine`.

        Raises:
            UserError: the servers cannot do this work, or none has answered for too long.
        """
        batches = iter(batches)
        first = next(batches, None)
        if first is None:
            return

        @asynccontextmanager
        async def connect() -> AsyncIterator[Callable[[GenerationRequest], Awaitable[Any]]]:
            async with connected(self._settings, meter, self._weights) as client:
                self.name, self.version = client.model, client.version
                if self._settings.probe:
                    asked = [self._generation_body(r) for r in choose_probes(first[1])]
                    await check_untempered(
                        client, asked, partial(self._score_ids, client), self._settings.rescore_by
                    )
                yield partial(self._generate, client, meter)

        yield from run_batches(
            chain([first], batches),
            connect,
            concurrency=self._settings.concurrency,
            max_open=self._max_open(len(first[1])),
        )

    def score(
        self, batches: Iterable[tuple[int, Sequence[ScoringRequest]]], meter: Meter
    ) -> Iterator[tuple[int, list[Scored | Failure]]]:
        """Log-probs of given texts, batch by batch as :meth:`generate`.

        Raises:
            UserError: as above.
        """
        batches = iter(batches)
        first = next(batches, None)
        if first is None:
            return

        @asynccontextmanager
        async def connect() -> AsyncIterator[Callable[[ScoringRequest], Awaitable[Any]]]:
            async with connected(self._settings, meter, self._weights) as client:
                self.name, self.version = client.model, client.version
                yield partial(self._score, client, meter)

        yield from run_batches(
            chain([first], batches),
            connect,
            concurrency=self._settings.concurrency,
            max_open=self._max_open(len(first[1])),
        )

    def _max_open(self, batch_size: int) -> int:
        return 2 + _OPEN_BATCHES * self._settings.concurrency // max(1, batch_size)

    # -- generation ------------------------------------------------------------------------------

    async def _generate(
        self, client: Client, meter: Meter, request: GenerationRequest
    ) -> Generation | Failure:
        path, body = self._generation_body(request)
        read = partial(answers.read_generation, stop=request.stop, spell=self._speller())
        generation = await client.ask(path, body, read)
        meter.ended(0 if isinstance(generation, Failure) else len(generation.tokens.token_ids))
        return generation

    def _generation_body(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        """(path, body) of a request."""
        body: dict[str, Any] = {
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
        messages = [{"role": turn.role, "content": turn.content} for turn in request.turns]
        if request.prefix:
            messages.append({"role": "assistant", "content": request.prefix})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        body |= {
            "messages": messages,
            "max_tokens": request.max_new_tokens,
            "logprobs": True,
        }
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
        body: dict[str, Any] = {"prompt": ids, "max_tokens": 1, "temperature": 1.0}
        if self._settings.rescore_by == "prompt_logprobs":
            body["prompt_logprobs"] = 0
        else:
            body |= {"echo": True, "logprobs": 0}

        def read(raw: bytes) -> Scored:
            return Scored(logprobs=answers.read_scores(raw, ids, len(prompt_ids)))

        return await client.ask("/completions", body, read)
