"""The interface that sampling, continuation, rollouts and evaluation generate through."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from megatron_dasd.records import FinishReason, TokenLogprobs


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One text to be continued."""

    prompt: str
    """Rendered: template applied, special tokens written out.  The engine adds nothing to it."""
    max_new_tokens: int
    """At most; fewer where the model's context ends."""
    seed: int
    """Draws of this request alone; equal requests with equal seeds give equal text."""
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


class Engine(Protocol):
    """A model that generates."""

    name: str

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Generate for every request, in order; a function of the requests alone."""
        ...
