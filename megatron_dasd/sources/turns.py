"""Lists of turns in the shapes that programs write them, brought to that of OpenAI's messages."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_dasd.json_values import JsonObject
from megatron_dasd.text.thinking import NORMALISED

_ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "ipython": "tool",
    "function_call": "function_call",
}
"""Roles by their names in other programs' data."""
_READ = (
    *("role", "from", "content", "value", "reasoning_content", "reasoning", "thinking"),
    *("tool_calls", "tool_call_id", "name", "loss", "train", "trainable", "weight"),
    "finish_reason",
)
"""Fields of a turn that are read."""
MEDIA = ("images", "image", "videos", "video", "audio", "audios")
"""Fields of a row or a turn that hold something else than text."""


@dataclass(frozen=True)
class Turn:
    """A turn in the shape of OpenAI's messages."""

    place: str
    """Its name for messages, e.g. ``conversations.2``."""
    fields: JsonObject
    """``role`` and ``content``, and its other fields as they were."""

    @property
    def role(self) -> str:
        """One of ``system``, ``developer``, ``user``, ``assistant``, ``tool``."""
        return str(self.fields["role"])

    @property
    def not_read(self) -> Counter[str]:
        """Fields that have a value and are not read, by name."""
        name = self.place.rpartition(".")[0]
        return Counter(f"{name}.{key}" for key, v in self.fields.items() if v and key not in _READ)


def with_thinking(thinking: str, answer: str) -> str:
    """A response's text in the normalised delimiters."""
    return f"{NORMALISED.open}{thinking}{NORMALISED.close}{answer}"


def read_turns(value: object, field: str) -> list[Turn]:
    """Read a list of turns; also an object of lists, as ``datasets`` may store it.

    Raises:
        ValueError: a turn has no role or an unknown one, or holds something else than text; names
            the field.
    """
    if isinstance(value, Mapping):
        value = _rows_of(value, field)
    if not isinstance(value, list) or not value:
        raise ValueError(f"field {field}: expected a text or a list of turns")
    return [_read_turn(turn, f"{field}.{number}") for number, turn in enumerate(value)]


def _rows_of(columns: Mapping[str, object], field: str) -> list[JsonObject]:
    lists = {name: column for name, column in columns.items() if isinstance(column, list)}
    if len({len(column) for column in lists.values()}) != 1:
        raise ValueError(f"field {field}: expected a list of turns")
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _read_turn(turn: object, place: str) -> Turn:
    if not isinstance(turn, dict):
        raise ValueError(f"field {place}: a turn is no object")
    named = next((turn[name] for name in ("role", "from") if turn.get(name) is not None), None)
    if not isinstance(named, str):
        raise ValueError(f"field {place}.role: {'is missing' if named is None else 'is no text'}")
    role = _ROLES.get(named.strip().lower())
    if role is None:
        raise ValueError(f"field {place}.role: unknown role {named!r}")
    for name in MEDIA:
        if turn.get(name):
            raise ValueError(f"field {place}.{name}: only text can be imported")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    others = {name: value for name, value in turn.items() if name not in ("from", "value")}
    if role == "function_call":
        call = {"type": "function", "function": _call(content, place)}
        return Turn(place, others | {"role": "assistant", "content": "", "tool_calls": [call]})
    return Turn(place, others | {"role": role, "content": content})


def _call(content: object, place: str) -> object:
    """The function and arguments of a turn that is a call, which are written as JSON."""
    try:
        return json.loads(content) if isinstance(content, str) else content
    except ValueError:
        raise ValueError(f"field {place}: the call is no JSON") from None
