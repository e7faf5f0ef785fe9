"""Conversations as the text that a model reads, by the chat template of its tokenizer.

Every rendering of the program goes through :func:`render`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_dasd.config.base import TemplateVariables
from megatron_dasd.containment.forked import ForkedFunction
from megatron_dasd.containment.protocol import Failure
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import JsonObject
from megatron_dasd.printing import one_line
from megatron_dasd.records import Message
from megatron_dasd.records_io import read_records

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Fields of an assistant's turn in which templates look for the thinking part."""
REFUSED = "refused by the chat template"
"""The reason under which prompts are set aside that a template refuses."""
_NO_VARIABLES: TemplateVariables = {}


class RefusedTurnsError(UserError, ValueError):
    """The chat template refuses these turns.  Of a record, a malformed one; else the user's."""


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    system_prompt: str | None = None,
    few_shot: Sequence[Message] = (),
) -> str:
    """Return the text that asks for the next assistant turn, special tokens written out.

    Raises:
        UserError: the tokenizer has no chat template.
        RefusedTurnsError: its template refuses the turns.
    """
    return render_turns(tokenizer, all_turns(messages, system_prompt, few_shot))


def all_turns(
    messages: Sequence[Message],
    system_prompt: str | None = None,
    few_shot: Sequence[Message] = (),
) -> tuple[Message, ...]:
    """The turns that a model is asked with: the system's, the few-shot ones, the rest.

    A system turn that opens ``messages`` stands in place of ``system_prompt``: it belongs to the
    task.
    """
    own = list(messages[:1]) if messages and messages[0].role in ("system", "developer") else []
    system = own or ([Message(role="system", content=system_prompt)] if system_prompt else [])
    return (*system, *few_shot, *messages[len(own) :])


def render_turns(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Message],
    tools: str | None = None,
    variables: TemplateVariables = _NO_VARIABLES,
) -> str:
    """The turns by the tokenizer's chat template, the next assistant turn begun.

    Args:
        tools: the tools' schemas, a JSON list as text; the template writes them out.
        variables: the template's own, e.g. ``{"enable_thinking": True}``.

    Raises:
        UserError, RefusedTurnsError: as :func:`render_prompt`.
    """
    return render(tokenizer, [turn_fields(turn) for turn in turns], tools, variables, begin=True)


def render_or_refuse(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Message],
    tools: str | None,
    variables: TemplateVariables,
) -> tuple[str, str]:
    """(the turns as :func:`render_turns` writes them, why the template refuses them); one is empty.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    try:
        return render_turns(tokenizer, turns, tools, variables), ""
    except RefusedTurnsError as error:
        return "", str(error)


def turn_fields(turn: Message, reasoning: str = REASONING_FIELDS[0]) -> JsonObject:
    """A turn as chat templates and servers take it.

    Args:
        reasoning: the field that gets the thinking part.
    """
    fields: JsonObject = {"role": turn.role, "content": turn.content}
    if turn.thinking:
        fields[reasoning] = turn.thinking
    if turn.tool_calls:
        fields["tool_calls"] = [
            {
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            | ({"id": call.call_id} if call.call_id else {})
            for call in turn.tool_calls
        ]
    if turn.tool_call_id:
        fields["tool_call_id"] = turn.tool_call_id
    if turn.name:
        fields["name"] = turn.name
    return fields


def render(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[JsonObject],
    tools: str | None,
    variables: TemplateVariables,
    *,
    begin: bool,
) -> str:
    """Turns by the tokenizer's chat template.

    Args:
        begin: whether the next assistant turn is begun (the generation prompt).

    Raises:
        UserError: the tokenizer has no chat template.
        RefusedTurnsError: its template refuses the turns, fails or goes beyond a limit.
    """
    if not tokenizer.chat_template:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no chat template")
    schemas = json.loads(tools) if tools else None
    reason = ""
    for way in _ways(turns):
        text = _apply(tokenizer, way, schemas, variables, begin)
        if isinstance(text, Failure):
            reason = reason or one_line(text.detail)
            if text.kind != "error":  # beyond a limit, which another form would be too
                break
            continue
        fault = _fault_of_calls(text, turns)
        if not fault:
            return text
        reason = reason or fault
    roles = ", ".join(str(turn["role"]) for turn in turns)
    raise RefusedTurnsError(
        f"{tokenizer.name_or_path}: the chat template refuses the turns {roles} ({reason})"
    )


def _ways(turns: Sequence[JsonObject]) -> Iterator[list[JsonObject]]:
    """The forms in which templates take calls: arguments as objects or texts, no text or null."""
    yield list(turns)
    if any(_calls(turn) for turn in turns):
        yield [_arguments_as_text(turn) for turn in turns]
        silent = [turn | ({} if turn["content"] else {"content": None}) for turn in turns]
        yield silent
        yield [_arguments_as_text(turn) for turn in silent]


def _fault_of_calls(text: str, turns: Sequence[JsonObject]) -> str:
    """What is wrong with the calls as they were written; empty: nothing."""
    for turn in turns:
        for call in _calls(turn):
            arguments = call["function"]["arguments"]
            if str(call["function"]["name"]) not in text:
                return "it leaves tool calls out"
            if arguments and str(arguments) in text and json.dumps(arguments) not in text:
                return "it writes a call's arguments as no JSON"
    return ""


def _calls(turn: JsonObject) -> list[dict[str, dict[str, object]]]:
    calls = turn.get("tool_calls")
    return calls if isinstance(calls, list) else []


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[JsonObject],
    tools: list[JsonObject] | None,
    variables: TemplateVariables,
    begin: bool,
) -> str | Failure:
    given = {**variables, "conversation": turns, "tools": tools, "add_generation_prompt": begin}
    text = _renderer(tokenizer, str(tokenizer.chat_template))(json.dumps(given).encode())
    return text if isinstance(text, Failure) else text.decode("utf-8", "surrogatepass")


@lru_cache(maxsize=4)
def _renderer(tokenizer: PreTrainedTokenizerBase, _template: str) -> ForkedFunction:
    """Renders what JSON gives, by a tokenizer's template as it is now.

    A template is a program that came with a model, so it runs in a child process that has limits.
    """

    def apply(given: bytes) -> bytes:
        text = tokenizer.apply_chat_template(tokenize=False, **json.loads(given))
        return str(text).encode("utf-8", "surrogatepass")

    return ForkedFunction(apply)


def _arguments_as_text(turn: JsonObject) -> JsonObject:
    """The turn with its calls' arguments as JSON text, which some templates need."""
    calls = _calls(turn)
    if not calls:
        return turn
    texts = [json.dumps(call["function"]["arguments"], ensure_ascii=False) for call in calls]
    return turn | {
        "tool_calls": [
            call | {"function": call["function"] | {"arguments": text}}
            for call, text in zip(calls, texts, strict=True)
        ]
    }


def read_few_shot(path: Path | None) -> list[Message]:
    """Read the example turns that a teacher sees before a prompt; none without a path.

    Raises:
        UserError: they are not pairs of a user's and an assistant's turn.
    """
    turns = list(read_records(path, Message)) if path else []
    roles = [turn.role for turn in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2):
        raise UserError(f"{path}: wanted pairs of a user's and an assistant's turn")
    return turns
