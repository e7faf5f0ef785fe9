"""A response in the form in which the filter rules look at it, and what a rule consists of."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.filters.benchmarks import Benchmarks
from megatron_dasd.records import Response, Span
from megatron_dasd.text.thinking import (
    NORMALISED,
    Normalised,
    continue_normalised,
    normalise,
    span_text,
    split_thinking,
    with_calls,
)


class TokenCounter(Protocol):
    """Counts tokens of the student; :mod:`megatron_dasd.filters.token_counter` implements it."""

    words_per_token: int
    """The largest number of words that one token reaches into."""

    def count(self, response: Response, output: str, spans: Sequence[Span]) -> int:
        """Tokens of prompt, response and end of turn; ``output`` is the normalised response, and
        ``spans`` are its parts."""
        ...


@dataclass(frozen=True)
class Tools:
    """What rules need beyond the response and the settings; made once for a stage."""

    tokens: TokenCounter | None = None
    """None: responses are not measured."""
    benchmarks: Benchmarks | None = None
    """None: responses are not compared with benchmarks."""


@dataclass(frozen=True)
class Case:
    """A response as the rules look at it."""

    response: Response
    normalised: Normalised | None
    """None when the response lacks a thinking part or an answer."""
    parts: list[str]
    """Thinking part and answer; empty without ``normalised``."""
    settings: FilterResponses
    tools: Tools = Tools()

    @cached_property
    def identity(self) -> bytes:
        """Equal for two responses to one prompt at one temperature that differ in whitespace only.

        Raises:
            ValueError: the response has no normalised form.
        """
        if self.normalised is None:
            raise ValueError("a response without a normalised form has no identity")
        return identity_of(self.response, self.normalised.output)


@dataclass(frozen=True)
class FilterRule:
    """A quality rule: a pure function of a case, with what the reports say about it."""

    name: str
    """The reason under which responses are dropped; part of reports and of dropped records."""
    description: str
    """What the rule drops, as the reports and docs/filters.md show it."""
    check: Callable[[Case], str | None]
    """What the rule found in a response that it drops; None for a response that passes."""
    settings: tuple[str, ...] = ()
    """Fields of ``FilterResponses`` that the rule depends on, with dots into nested settings."""


def make_case(
    response: Response,
    settings: FilterResponses,
    tools: Tools = Tools(),
) -> Case:
    """Bring a response into the form in which the rules look at it."""
    normalised = normalise_response(response, settings.thinking)
    parts = contents(normalised) if normalised else []
    return Case(response, normalised, parts, settings, tools)


def normalise_response(response: Response, delimiters: ThinkingFormat | None) -> Normalised | None:
    """Bring a response, or a prefix and its continuation, into the normalised form.

    Returns:
        None when the (joined) text lacks a thinking part or an answer.  ``text_spans`` is empty for
        a continuation, whose text is only a part of the output.
    """
    if response.tool_calls:
        return with_calls(response.text, delimiters)
    if not response.student_prefix or delimiters is None:
        return normalise(response.text, delimiters)
    output = continue_normalised(response.student_prefix, response.text, delimiters)
    spans = split_thinking(output, NORMALISED) if output else None
    return Normalised(output, spans, []) if output and spans else None


def contents(normalised: Normalised) -> list[str]:
    """The thinking part and the answer."""
    return [span_text(normalised.output, span) for span in normalised.output_spans]


def identity_of(response: Response, output: str) -> bytes:
    """Hash of prompt, temperature and output; runs of whitespace count as one space."""
    calls = [f"{call.name}{call.arguments}" for call in response.tool_calls]
    text = " ".join(output.split())
    what = [response.prompt.prompt_id, f"{response.temperature!r}", text, *calls]
    return hashlib.blake2b("\0".join(what).encode(), digest_size=16).digest()
