"""Checked access to the fields of a row, and the formats that its fields are those of."""

from collections.abc import Sequence

from megatron_dasd.config.formats import PRESETS
from megatron_dasd.json_values import JsonObject

_SHOWN_FIELDS = 12


def fitting_formats(row: JsonObject) -> list[str]:
    """Names of the presets that a row fits, those left out of which another has all columns."""
    fits = {
        name: {*preset.required, *preset.input}
        for name, preset in PRESETS.items()
        if all(row.get(column) is not None for column in preset.required)
    }
    return [name for name, own in fits.items() if not any(own < other for other in fits.values())]


def value_of(row: JsonObject, column: str | None) -> object:
    """A row's value in a column; None where there is none."""
    return row.get(column) if column else None


def first_present(row: JsonObject, columns: Sequence[str]) -> str | None:
    """The first of some columns that a row has a value in."""
    return next((name for name in columns if row.get(name) is not None), None)


def required_value(row: JsonObject, field: str) -> object:
    """A field's value.

    Raises:
        ValueError: it has none; names the format that the row fits.
    """
    value = row.get(field)
    if value is not None:
        return value
    alike = [name for name in row if name.lower() == field.lower() and name != field]
    formats = fitting_formats(row)
    names = alike or ([] if formats else list(row)[:_SHOWN_FIELDS])
    hint = f"; the row has {', '.join(names)}" if names else ""
    if formats:
        hint += f"; its fields are those of format: {' or '.join(formats)}"
    raise ValueError(f"field {field}: is missing{hint if field not in row else ''}")


def text_value(row: JsonObject, column: str | None) -> str | None:
    """A row's text in a column; None where there is none.

    Raises:
        ValueError: the value is no text.
    """
    value = value_of(row, column)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"field {column}: is no text")
    return value


def filled_text(value: object, field: str) -> str:
    """A value that must be a text and not empty.

    Raises:
        ValueError: it is something else; names the field.
    """
    if not isinstance(value, str):
        raise ValueError(f"field {field}: {'is missing' if value is None else 'is no text'}")
    if not value.strip():
        raise ValueError(f"field {field}: is empty")
    return value
