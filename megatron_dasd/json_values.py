"""Types of JSON objects, and checked access to what is in them."""

import json
from collections.abc import Mapping
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
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: no JSON object")
    return value


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
