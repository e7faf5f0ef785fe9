"""Rows of other programs made responses, each field checked."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_dasd.config.sources import ImportResponses
from megatron_dasd.records import NO_TOKENS, Prompt, Response, TokenLogprobs
from megatron_dasd.records_io import parse_record
from megatron_dasd.sources.foreign import text_field, turns_field
from megatron_dasd.text.thinking import NORMALISED

_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a turn in which programs put the thinking part."""


@dataclass(frozen=True)
class Row:
    """A row that has been found; to be read, checked and made a response."""

    place: str
    """File and record."""
    make: Callable[[], Response]
    shown: Callable[[], str]


def read_row(settings: ImportResponses, row: dict[str, Any]) -> tuple[Prompt, str]:
    """Prompt and response of a row.

    Raises:
        ValueError: naming the field that does not hold what it must.
    """
    if settings.format == "superior-reasoning":
        turns = [{"role": "user", "content": text_field(row, "input")}]
        text = text_field(row, "output")
    elif settings.format == "messages":
        field = settings.messages_field
        *turns, last = turns_field(row, field)
        if last["role"] != "assistant":
            raise ValueError(f"field {field}: the last turn is {last['role']}'s, not assistant's")
        text = _with_reasoning(last)
    else:
        given = row.get(settings.prompt_field)
        if isinstance(given, list):
            turns = list(turns_field(row, settings.prompt_field))
        else:
            turns = [{"role": "user", "content": text_field(row, settings.prompt_field)}]
        text = text_field(row, settings.response_field)
    if not text.strip():
        raise ValueError("field messages: the response is empty")
    messages = [{name: turn[name] for name in ("role", "content")} for turn in turns]
    return parse_record(Prompt, _prompt_fields(settings, row, messages)), text


def make_response(
    settings: ImportResponses,
    prompt: Prompt,
    text: str,
    candidate: int,
    tokens: TokenLogprobs | None,
) -> Response:
    """A response as the stages know it; without tokens where there are none.

    Raises:
        ValueError: naming the field that does not hold what it must.
    """
    try:
        return Response(
            prompt=prompt,
            temperature=settings.temperature,
            candidate=candidate,
            seed=0,
            model=settings.model,
            text=text,
            tokens=tokens or NO_TOKENS,
            finish_reason="stop",
        )
    except ValueError as error:
        raise ValueError(f"field {error}") from None


def _prompt_fields(
    settings: ImportResponses, row: dict[str, Any], messages: list[dict[str, str]]
) -> dict[str, Any]:
    if settings.id_field is None:
        prompt_id = digest(json.dumps(messages)).hex()
    else:
        given = row.get(settings.id_field)
        if not isinstance(given, str | int) or given == "":
            raise ValueError(f"field {settings.id_field}: wanted a name or a number")
        prompt_id = str(given)
    domain = row.get(settings.domain_field)
    if domain is not None and not isinstance(domain, str):
        raise ValueError(f"field {settings.domain_field}: is no text")
    return {"prompt_id": prompt_id, "messages": messages, "domain": domain or "unknown"}


def _with_reasoning(turn: Mapping[str, Any]) -> str:
    """What the assistant wrote, a thinking part in a field of its own put before it."""
    for name in _REASONING:
        if turn.get(name):
            return f"{NORMALISED.open}{turn[name]}{NORMALISED.close}{turn['content']}"
    return str(turn["content"])


def digest(text: str) -> bytes:
    """What tells one text from another, 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def failing(error: ValueError) -> Callable[[], Response]:
    """A row's ``make`` that fails."""

    def make() -> Response:
        raise error

    return make


def shown(row: Any) -> str:
    """A row as text, to be set aside."""
    return row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=str)
