"""Responses from rows of other programs, each field checked."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

from megatron_dasd.config.sources import ImportResponses
from megatron_dasd.json_values import JsonObject
from megatron_dasd.records import NO_TOKENS, Prompt, Response, TokenLogprobs
from megatron_dasd.records_io import RawRow, parse_record
from megatron_dasd.sources.foreign import text_field, turns_field
from megatron_dasd.text.thinking import NORMALISED

_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a turn in which programs put the thinking part."""


@dataclass(frozen=True)
class Row:
    """A row that was found; ``make`` reads and checks it."""

    place: str
    """File and record, for messages."""
    make: Callable[[], Response]
    """Raises ValueError when the row is malformed."""
    shown: Callable[[], str]
    """The row as text, for setting it aside."""


def read_row(settings: ImportResponses, row: JsonObject) -> tuple[Prompt, str]:
    """Prompt and response of a row.

    Raises:
        ValueError: a field is malformed; names it.
    """
    turns: list[JsonObject]
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
    """An imported response.

    Args:
        tokens: None: the text came without.

    Raises:
        ValueError: a field is malformed; names it.
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
    settings: ImportResponses, row: JsonObject, messages: list[JsonObject]
) -> JsonObject:
    if settings.id_field is None:
        prompt_id = digest(json.dumps(messages)).hex()
    else:
        given = row.get(settings.id_field)
        if not isinstance(given, str | int) or given == "":
            raise ValueError(f"field {settings.id_field}: expected a name or a number")
        prompt_id = str(given)
    domain = row.get(settings.domain_field)
    if domain is not None and not isinstance(domain, str):
        raise ValueError(f"field {settings.domain_field}: is no text")
    return {"prompt_id": prompt_id, "messages": messages, "domain": domain or "unknown"}


def _with_reasoning(turn: JsonObject) -> str:
    """The assistant's text; a thinking part from a field of its own is put before it."""
    for name in _REASONING:
        if turn.get(name):
            return f"{NORMALISED.open}{turn[name]}{NORMALISED.close}{turn['content']}"
    return str(turn["content"])


def digest(text: str) -> bytes:
    """A hash that identifies a text, 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def failing(error: ValueError) -> Callable[[], Response]:
    """A row's ``make`` that fails."""

    def make() -> Response:
        raise error

    return make


def shown(row: RawRow) -> str:
    """A row as text, for setting it aside."""
    return row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=str)
