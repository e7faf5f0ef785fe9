"""Prompts and responses from rows of other programs, each field checked."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from megatron_dasd.config.formats import Columns
from megatron_dasd.config.sources import ImportResponses
from megatron_dasd.json_values import JsonObject
from megatron_dasd.records import (
    NO_TOKENS,
    FinishReason,
    Message,
    Prompt,
    Response,
    Split,
    TokenLogprobs,
    ToolCall,
)
from megatron_dasd.records_io import RawRow, parse_record, row_text
from megatron_dasd.sources.conversations import message_of, tools_of
from megatron_dasd.sources.rendered import normalised_thoughts, read_rendered
from megatron_dasd.sources.row_fields import (
    filled_text,
    first_present,
    required_value,
    text_value,
    value_of,
)
from megatron_dasd.sources.turns import MEDIA, Turn, read_turns, with_thinking

_ENDS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_calls": "stop",
    "length": "length",
    "max_tokens": "length",
}
"""Reasons for which responses end, by the names that servers give them."""
_SWITCHES = ("on", "off")
"""Values that say in a column named ``reasoning`` whether there is a thinking part."""


@dataclass(frozen=True)
class Row:
    """A row that was found; ``make`` reads and checks it."""

    place: str
    """File and record, for messages."""
    make: Callable[[], Response]
    """Raises ValueError when the row is malformed."""
    shown: Callable[[], str]
    """The row as text, for setting it aside."""


@dataclass(frozen=True)
class Answer:
    """One response to a row's prompt."""

    text: str
    finish_reason: FinishReason
    tool_calls: list[ToolCall] = field(default_factory=list)


@dataclass(frozen=True)
class Example:
    """What a row holds."""

    prompt: Prompt
    answers: list[Answer]
    not_read: Counter[str]
    """Fields that have a value and are not read, by name."""


def read_row(columns: Columns, row: JsonObject, split: Split = "train") -> Example:
    """Prompt and responses of a row.

    Raises:
        ValueError: a field is malformed; names it.
    """
    turns = _conversation(columns, row)
    if columns.response and not (columns.messages or columns.text):
        asked, answers = _answered(columns, row, turns)
    else:
        *asked, last = turns
        answers = [_last_turn(columns, row, last)]
    prompt = _prompt(columns, row, asked, split)
    return Example(prompt, answers, _not_read(columns, row, turns))


def read_question(columns: Columns, row: JsonObject, split: Split, grader: str | None) -> Prompt:
    """The prompt of a row, whose response is left out where it has one.

    Raises:
        ValueError: a field is malformed; names it.
    """
    turns = _conversation(columns, row)
    while turns and turns[-1].role == "assistant":
        turns.pop()
    prompt = _prompt(columns, row, turns, split)
    reference = value_of(row, columns.reference_answer)
    if reference is None:
        return prompt
    if isinstance(reference, bool) or not isinstance(reference, str | int | float):
        raise ValueError(f"field {columns.reference_answer}: expected a text or a number")
    return replace(prompt, reference_answer=str(reference), grader=grader)


def make_response(
    settings: ImportResponses,
    prompt: Prompt,
    answer: Answer,
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
            text=answer.text,
            tokens=tokens or NO_TOKENS,
            finish_reason=answer.finish_reason,
            tool_calls=answer.tool_calls,
        )
    except ValueError as error:
        raise ValueError(f"field {error}") from None


# -- prompts -----------------------------------------------------------------------------------


def _conversation(columns: Columns, row: JsonObject) -> list[Turn]:
    """The turns of a row; those of its prompt where the response has a column of its own."""
    for name in MEDIA:
        if row.get(name):
            raise ValueError(f"field {name}: only text can be imported")
    field = columns.messages or columns.text or columns.prompt or ""
    given = required_value(row, field)
    if not isinstance(given, str):
        turns = read_turns(given, field)
    elif columns.messages:
        turns = read_turns(_parsed(given), field)
    elif columns.text:
        try:
            turns = read_turns(read_rendered(given), field)
        except ValueError as error:
            raise ValueError(f"field {field}: {error}") from None
    else:
        more = text_value(row, first_present(row, columns.input))
        text = f"{given}\n\n{more}" if more and more.strip() else given
        turns = [Turn(field, {"role": "user", "content": filled_text(text, field)})]
    system = text_value(row, columns.system)
    if system and system.strip():
        own = Turn(str(columns.system), {"role": "system", "content": system})
        if turns[0].role != "system":
            turns.insert(0, own)
        elif turns[0].fields["content"] != system:
            raise ValueError(f"field {columns.system}: a system text beside a system turn")
    return turns


def _parsed(text: str) -> object:
    """Turns that were written as JSON into a column of texts; other texts as they are."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _prompt(columns: Columns, row: JsonObject, turns: Sequence[Turn], split: Split) -> Prompt:
    """The one place where a row becomes a :class:`Prompt`."""
    messages = [message_of(turn.fields, turn.place) for turn in turns]
    given = value_of(row, columns.id)
    if columns.id is None:
        prompt_id = digest(json.dumps([_identity(one) for one in messages])).hex()
    elif isinstance(given, float) and given.is_integer():
        prompt_id = str(int(given))  # numbers become floats in a column that has nulls
    elif isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise ValueError(f"field {columns.id}: expected a name or a number")
    else:
        prompt_id = str(given)
    fields = {
        "prompt_id": prompt_id,
        "messages": messages,
        "domain": text_value(row, columns.domain) or "unknown",
        "split": split,
        "tools": tools_of(row),
    }
    return parse_record(Prompt, fields)


def _identity(message: Message) -> JsonObject:
    """A message without the fields that have no value: ids of plain chats stay what they were."""
    fields = {"role": message.role, "content": message.content}
    others = {"thinking": message.thinking, "tool_calls": [vars(c) for c in message.tool_calls]}
    return fields | {name: value for name, value in others.items() if value}


# -- responses ---------------------------------------------------------------------------------


def _answered(
    columns: Columns, row: JsonObject, turns: list[Turn]
) -> tuple[list[Turn], list[Answer]]:
    """The prompt's turns and its responses, from columns of their own."""
    field = columns.response or ""
    given = required_value(row, field)
    if isinstance(given, list) and given and isinstance(given[0], dict):
        *more, last = read_turns(given, field)
        return [*turns, *more], [_last_turn(columns, row, last)]
    texts, several = (given, True) if isinstance(given, list) else ([given], False)
    if not texts:
        raise ValueError(f"field {field}: is an empty list")
    column = first_present(row, columns.thinking)
    thinking = _aligned(row, column, len(texts))
    reasons = _aligned(row, columns.finish_reason, len(texts))
    answers = []
    for number, text in enumerate(texts):
        place = f"{field}.{number}" if several else field
        whole = filled_text(text, place)
        part = thinking[number]
        if part is not None and not isinstance(part, str):
            raise ValueError(f"field {column}: expected a text, not {type(part).__name__}")
        if part and part.strip() and part.strip() not in _SWITCHES:
            if whole.lstrip().startswith("<think>"):
                raise ValueError(f"field {column}: a thinking part beside the one in {place}")
            whole = with_thinking(part, whole)
        answers.append(_answer(whole, place, reasons[number]))
    return turns, answers


def _last_turn(columns: Columns, row: JsonObject, last: Turn) -> Answer:
    """The response that is the last turn of a conversation."""
    if last.role != "assistant":
        field = last.place.rpartition(".")[0]
        raise ValueError(f"field {field}: the last turn is {last.role}'s, not assistant's")
    reason = last.fields.get("finish_reason") or value_of(row, columns.finish_reason)
    message = message_of(last.fields, last.place)
    if not message.trains:
        raise ValueError(f"field {last.place}: says that the last turn does not train")
    content, calls = message.content, message.tool_calls
    text = with_thinking(message.thinking, content) if message.thinking else content
    if calls:
        return Answer(normalised_thoughts(text), _end(reason), calls)
    return _answer(text, last.place, reason)


def _answer(text: str, place: str, reason: object) -> Answer:
    return Answer(filled_text(normalised_thoughts(text), place), _end(reason))


def _end(reason: object) -> FinishReason:
    ended = _ENDS.get(str(reason).lower()) if reason is not None else "stop"
    if ended is None:
        raise ValueError(f"field finish_reason: {reason!r} is no end that is known (stop, length)")
    return ended


def _aligned(row: JsonObject, column: str | None, size: int) -> list[object]:
    """The values of a column, one for each response."""
    value = value_of(row, column)
    if not isinstance(value, list):
        if value is not None and size > 1:
            raise ValueError(f"field {column}: one value for {size} responses")
        return [value] * size
    if len(value) != size:
        raise ValueError(f"field {column}: {len(value)} values for {size} responses")
    return value


# -- rows --------------------------------------------------------------------------------------


def _names(columns: Columns) -> list[str]:
    """The columns that are read."""
    one = (
        columns.messages,
        columns.text,
        columns.prompt,
        columns.system,
        columns.response,
        columns.finish_reason,
        columns.id,
        columns.domain,
        columns.reference_answer,
    )
    return [*filter(None, one), *columns.input, *columns.thinking, "tools"]


def _not_read(columns: Columns, row: JsonObject, turns: Sequence[Turn]) -> Counter[str]:
    read = {*_names(columns)}
    found = Counter(name for name, value in row.items() if value is not None and name not in read)
    for turn in turns:
        found += turn.not_read
    return found


def digest(text: str) -> bytes:
    """A hash that identifies a text, 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def failing(error: ValueError) -> Callable[[], Response]:
    """A row's ``make`` that fails."""

    def make() -> Response:
        raise error

    return make


def shown(row: RawRow | Mapping[str, object]) -> str:
    """A row as text, for setting it aside."""
    return row if isinstance(row, str) else row_text(row)
