"""Turns of other programs' conversations as messages: thinking parts, tool calls, parts of text."""

import json
from collections.abc import Mapping

from megatron_dasd.json_values import JsonObject
from megatron_dasd.records import Message, ToolCall
from megatron_dasd.records_io import parse_record

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a turn in which programs put the thinking part."""
_LOSS = ("loss", "train", "trainable", "weight")
"""Fields that say whether a turn is to be trained on."""


def message_of(turn: JsonObject, place: str) -> Message:
    """A turn as a message.

    Args:
        place: the turn's name for errors, e.g. ``messages.2``.

    Raises:
        ValueError: a field is malformed; names it.
    """
    calls = [
        _call(call, f"{place}.tool_calls.{number}")
        for number, call in enumerate(_list(turn.get("tool_calls"), f"{place}.tool_calls"))
    ]
    fields = {
        "role": turn.get("role"),
        "content": text_of(turn.get("content"), f"{place}.content"),
        "thinking": next((str(turn[name]) for name in REASONING if turn.get(name)), ""),
        "tool_calls": calls,
        "tool_call_id": str(turn.get("tool_call_id") or ""),
        "name": str(turn.get("name") or "") if turn.get("role") == "tool" else "",
        "trains": _trains(turn, place),
    }
    try:
        return parse_record(Message, fields)
    except ValueError as error:
        raise ValueError(str(error).replace("field ", f"field {place}.", 1)) from None


def text_of(content: object, place: str) -> str:
    """A turn's text; of a list of parts, text parts are joined and others refused.

    Raises:
        ValueError: the content is something else; names the place.
    """
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(_part(part, f"{place}.{number}") for number, part in enumerate(content))
    if not isinstance(content, str):
        raise ValueError(f"field {place}: expected a text")
    return content


def tools_of(row: JsonObject) -> str | None:
    """A row's tools as JSON text; None: it has none.

    Raises:
        ValueError: they are no list of schemas.
    """
    given = row.get("tools")
    if not given:
        return None
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise ValueError("field tools: is no JSON") from None
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise ValueError("field tools: expected a list of schemas")
    return json.dumps(given, ensure_ascii=False)


def _part(part: object, place: str) -> str:
    kind = part.get("type", "text") if isinstance(part, dict) else "part"
    text = part.get("text") if isinstance(part, dict) else part
    if kind not in (None, "text", "part") or not isinstance(text, str):
        raise ValueError(f"field {place}: only text can be imported, not {kind}")
    return text


def _call(call: object, place: str) -> ToolCall:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise ValueError(f"field {place}: expected a call of a function")
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    try:
        return ToolCall(
            name=str(function.get("name") or ""),
            arguments=text.strip() or "{}",
            call_id=str(call.get("id") or ""),
        )
    except ValueError as error:
        raise ValueError(f"field {place}.{error}") from None


def _trains(turn: JsonObject, place: str) -> bool:
    for name in _LOSS:
        value = turn.get(name)
        if value is None:
            continue
        if value not in (0, 1):  # booleans are such numbers too
            raise ValueError(f"field {place}.{name}: {value!r} is neither 0 nor 1")
        if not value:
            return False
    return True


def _list(value: object, place: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"field {place}: expected a list")
    return value
