"""The interface that sampling, continuation, rollouts and evaluation generate through."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from megatron_dasd.records import FinishReason, Message, TokenLogprobs, Usage


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One text to continue."""

    prompt: str
    """Rendered: template applied, special tokens written out, followed by ``prefix``.  The engine
    adds nothing to it.  Empty where a server applies its own template to ``turns``."""
    turns: tuple[Message, ...] = ()
    """The conversation that ``prompt`` renders, for such a server."""
    tools: str | None = None
    """The schemas of the tools that the model may call, a JSON list as text, for such a server."""
    prefix: str = ""
    """The beginning of the assistant's turn, which the model continues, for such a server."""
    teacher: str = ""
    """Which of several teachers answers."""
    max_new_tokens: int
    """Fewer are generated where the model's context ends."""
    seed: int
    """Seed of this request's draws; an engine in this process gives equal text for equal seeds."""
    temperature: float = 1.0
    """0: greedy."""
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What an engine wrote for one request."""

    text: str
    """Without the end-of-turn token; bytes that end inside a character are left out, and so are
    their ``num_bytes``."""
    tokens: TokenLogprobs
    """Every generated token, the end-of-turn token (0 bytes) included."""
    finish_reason: FinishReason
    usage: Usage | None = None
    """Tokens as a server counted them."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A request that no server answered well within its attempts."""

    kind: str
    """A short name to count under, e.g. ``time-out``."""
    detail: str
    """The fault of the last attempt."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Log-probs of a given text."""

    logprobs: list[float]
    """ln p of every token of the response, untempered."""


@dataclass(frozen=True)
class ScoringRequest:
    """A text to score: log-probs of ``response_ids`` after ``prompt_ids``."""

    prompt_ids: list[int]
    response_ids: list[int]
    teacher: str = ""
    """Which of several teachers answers."""


@dataclass(frozen=True, eq=False)
class TopRequest:
    """A text whose likeliest tokens are asked for, at every position but the first."""

    ids: npt.NDArray[np.number]
    """``[tokens]``"""
    teacher: str = ""
    """Which of several teachers answers."""


class Meter(Protocol):
    """Follows an engine's work."""

    def ended(self, num_tokens: int) -> None:
        """One request has ended, with that many tokens."""
        ...

    def fault(self, kind: str) -> None:
        """An attempt at a request has failed."""
        ...


class Engine(Protocol):
    """A model that generates."""

    name: str
    """The model's name, as responses record it."""
    version: str
    """The program that runs the model, e.g. ``vllm 0.32.0``."""

    def generate(
        self, batches: Iterable[tuple[int, Sequence[GenerationRequest]]], meter: Meter
    ) -> Iterator[tuple[int, list[Generation | Failure]]]:
        """Generate for numbered batches of requests.

        Batches are taken from the iterable as there is room for them, and yielded with their
        number as they complete, in any order; within a batch the order stays.
        """
        ...


@runtime_checkable
class SeveralEngines(Protocol):
    """An engine that passes each request on to one of several."""

    engines: Mapping[str, Engine]
    """By the name that requests give as ``teacher``."""


def answering(engine: Engine, teacher: str) -> Engine:
    """The engine that has answered a request: of several, the one that the request names."""
    return engine.engines[teacher] if isinstance(engine, SeveralEngines) else engine


def no_teacher(where: str, domain: str, domains: Iterable[str]) -> str:
    """The error of a record whose domain has no teacher."""
    return f"{where}: domain {domain!r} has no teacher; teachers names {', '.join(domains)}"
