"""Types of JSON objects, and checked access to what is in them."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

from megatron_dasd.errors import UserError

type JsonObject = dict[str, object]
"""A parsed JSON object.  What a value is must be checked before it is used."""
type Figures = dict[str, object]
"""JSON values that describe a stage's result; ``run`` of every stage returns them."""


def read_object(path: Path) -> JsonObject:
    """Read a JSON file that holds an object.

    Raises:
        UserError: the file cannot be read, or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: no JSON object")
    return value


def checked_as[T](kind: type[T], text: bytes) -> T:
    """JSON text as a dataclass or typed dictionary, whose fields' types are checked.

    Raises:
        ValueError: not JSON, a field is missing, unknown or of another type; the text, one line,
            begins with the field.
    """
    from pydantic import TypeAdapter, ValidationError  # no --help needs it

    try:
        value = TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"field {where}: {first['msg']}" if where else first["msg"]) from None
    if is_dataclass(kind):
        unknown = json.loads(text).keys() - {field.name for field in fields(kind)}
        for name in sorted(unknown):
            raise ValueError(f"field {name}: is unknown")
    return value


def read_as[T](path: Path, kind: type[T], advice: str) -> T:
    """Read a JSON file as a dataclass; see :func:`checked_as`.

    Args:
        path: the file.
        kind: the class.
        advice: what to do about a damaged file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return checked_as(kind, path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); {advice}") from None


def require[T](values: Mapping[str, object], name: str, kind: type[T]) -> T:
    """The value of a field that must be of a type.

    Raises:
        ValueError: the field is missing or of another type; the text begins with the field.
    """
    value = values.get(name)
    if value is None:
        raise ValueError(f"field {name}: is missing")
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise ValueError(f"field {name}: is no {kind.__name__}")
    return value
