"""Responses from rows of other programs, each field checked."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_dasd.config.sources import ImportResponses
from megatron_dasd.json_values import JsonObject
from megatron_dasd.records import (
    NO_TOKENS,
    FinishReason,
    Message,
    Prompt,
    Response,
    TokenLogprobs,
    ToolCall,
)
from megatron_dasd.records_io import RawRow, parse_record
from megatron_dasd.sources.conversations import message_of, tools_of
from megatron_dasd.sources.foreign import text_field, turns_field
from megatron_dasd.text.thinking import NORMALISED


@dataclass(frozen=True)
class Row:
    """A row that was found; ``make`` reads and checks it."""

    place: str
    """File and record, for messages."""
    make: Callable[[], Response]
    """Raises ValueError when the row is malformed."""
    shown: Callable[[], str]
    """The row as text, for setting it aside."""


def read_row(
    settings: ImportResponses, row: JsonObject
) -> tuple[Prompt, str, list[ToolCall], FinishReason]:
    """Prompt of a row, text of its response, the tools that it calls, and why it ends.

    Raises:
        ValueError: a field is malformed; names it.
    """
    turns: list[JsonObject]
    calls: list[ToolCall] = []
    if settings.format == "superior-reasoning":
        turns = [{"role": "user", "content": text_field(row, "input")}]
        text = text_field(row, "output")
    elif settings.format == "messages":
        field = settings.messages_field
        *turns, last = turns_field(row, field)
        if last["role"] != "assistant":
            raise ValueError(f"field {field}: the last turn is {last['role']}'s, not assistant's")
        message = message_of(last, f"{field}.{len(turns)}")
        if not message.trains:
            raise ValueError(f"field {field}.{len(turns)}: says that the last turn does not train")
        text, calls = _with_reasoning(message), message.tool_calls
    else:
        given = row.get(settings.prompt_field)
        if isinstance(given, list):
            turns = list(turns_field(row, settings.prompt_field))
        else:
            turns = [{"role": "user", "content": text_field(row, settings.prompt_field)}]
        text = text_field(row, settings.response_field)
    if not text.strip() and not calls:
        raise ValueError("field messages: the response is empty")
    messages = [message_of(turn, f"messages.{number}") for number, turn in enumerate(turns)]
    prompt = parse_record(Prompt, _prompt_fields(settings, row, messages))
    return prompt, text, calls, _finish_reason(row)


def make_response(
    settings: ImportResponses,
    prompt: Prompt,
    text: str,
    candidate: int,
    tokens: TokenLogprobs | None,
    calls: Sequence[ToolCall] = (),
    finish_reason: FinishReason = "stop",
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
            finish_reason=finish_reason,
            tool_calls=list(calls),
        )
    except ValueError as error:
        raise ValueError(f"field {error}") from None


def _prompt_fields(
    settings: ImportResponses, row: JsonObject, messages: list[Message]
) -> JsonObject:
    if settings.id_field is None:
        prompt_id = digest(json.dumps([_identity(one) for one in messages])).hex()
    else:
        given = row.get(settings.id_field)
        if not isinstance(given, str | int) or given == "":
            raise ValueError(f"field {settings.id_field}: expected a name or a number")
        prompt_id = str(given)
    domain = row.get(settings.domain_field)
    if domain is not None and not isinstance(domain, str):
        raise ValueError(f"field {settings.domain_field}: is no text")
    return {
        "prompt_id": prompt_id,
        "messages": messages,
        "domain": domain or "unknown",
        "tools": tools_of(row),
    }


def _identity(message: Message) -> JsonObject:
    """A message without the fields that have no value: ids of plain chats stay what they were."""
    fields = {"role": message.role, "content": message.content}
    others = {"thinking": message.thinking, "tool_calls": [vars(c) for c in message.tool_calls]}
    return fields | {name: value for name, value in others.items() if value}


def _finish_reason(row: JsonObject) -> FinishReason:
    given = row.get("finish_reason")
    reasons: dict[object, FinishReason] = {None: "stop", "tool_calls": "stop", "eos": "stop"}
    reasons |= {"stop": "stop", "length": "length", "max_tokens": "length"}
    if not isinstance(given, str | None) or given not in reasons:
        raise ValueError(f"field finish_reason: {given!r} is no known one (stop, length)")
    return reasons[given]


def _with_reasoning(message: Message) -> str:
    """The assistant's text; a thinking part from a field of its own is put before it."""
    if message.thinking:
        return f"{NORMALISED.open}{message.thinking}{NORMALISED.close}{message.content}"
    return message.content


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
