"""A record of every type with every field given: the optional ones with their defaults.

A field that is added to a record is in here by itself, unless it has no default.
"""

from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

from megatron_dasd.records import (
    FilteredResponse,
    Graded,
    Message,
    Prompt,
    Response,
    Rollout,
    ScoredResponse,
    SelectedResponse,
    Sentence,
    Span,
    TokenLogprobs,
)

Row = dict[str, Any]
Path = tuple[str | int, ...]
TEXT = "<think>\nbad\n</think>\n\nend"
SPANS = [Span(start=8, end=11), Span(start=22, end=25)]

_PROMPT = Prompt(prompt_id="p", messages=[Message(role="user", content="q")])
_RESPONSE = {
    "prompt": _PROMPT,
    "temperature": 1.0,
    "candidate": 0,
    "seed": 0,
    "model": "teacher",
    "text": TEXT,
    "finish_reason": "stop",
}
_FILTERED = _RESPONSE | {"output": TEXT, "output_spans": SPANS}
_SIZE = len(TEXT)
_SCORED = _FILTERED | {
    "student_tokens": TokenLogprobs(
        token_ids=[3] * (_SIZE + 1),
        num_bytes=[1] * _SIZE + [0],
        logprobs=[-1.0] * (_SIZE + 1),
    ),
    "student_model": "student",
}
_SENTENCES = [
    Sentence(text=text, teacher_probability=0.5, student_probability=0.5, provenance="shared")
    for text in ("bad", "end")
]

RECORDS: dict[type, Any] = {
    Prompt: _PROMPT,
    Response: Response(**_RESPONSE),  # type: ignore[arg-type]
    FilteredResponse: FilteredResponse(**_FILTERED),  # type: ignore[arg-type]
    ScoredResponse: ScoredResponse(**_SCORED),  # type: ignore[arg-type]
    SelectedResponse: SelectedResponse(**_SCORED, sentences=_SENTENCES),  # type: ignore[arg-type]
    Rollout: Rollout(
        prompt=_PROMPT,
        token_ids=[4, 3, 6],
        num_bytes=[1, 1, 1],
        text="bad",
        max_tokens=3,
        finish_reason="length",
        seed=0,
    ),
    Graded: Graded(
        prompt=_PROMPT,
        model="a",
        sample=0,
        text="end",
        score=1.0,
        num_tokens=3,
        finish_reason="stop",
    ),
}
"""By type."""


def optional_fields(record: Any, before: Path = ()) -> Iterator[Path]:
    """The paths of all fields of a record that may be left out, at any depth."""
    for field in fields(record):
        here = (*before, field.name)
        may = field.name != "content"  # only a turn that calls tools may be without
        if may and (field.default, field.default_factory) != (MISSING, MISSING):
            yield here
        value = getattr(record, field.name)
        if is_dataclass(value):
            yield from optional_fields(value, here)
        elif isinstance(value, list):
            for number, one in enumerate(value[:1]):
                if is_dataclass(one):
                    yield from optional_fields(one, (*here, number))


def changed(record: Any, path: Path, *to: Any) -> Row:
    """A record as a row with a field left out, or set to a value."""
    row: Row = asdict(record)
    place: Any = row
    for part in path[:-1]:
        place = place[part]
    if to:
        (place[path[-1]],) = to
    else:
        del place[path[-1]]
    return row
