"""Which settings say how the work is done: marked where they are declared, found at any depth."""

from collections.abc import Iterator
from typing import cast

from pydantic import BaseModel
from pydantic.main import IncEx


class Execution:
    """Marks a setting that says how the work is done and leaves the result as it is.

    It is no part of a stage's identity, at any depth of nested settings.
    """


def execution_settings(value: object) -> IncEx:
    """The settings marked as execution in a model and in all that it holds, as pydantic excludes
    them: by field, key or index, True or what is excluded below."""
    found: dict[str | int, IncEx | bool] = {}
    for name, inner in _entries(value):
        if isinstance(value, BaseModel) and _is_execution(type(value), str(name)):
            found[name] = True
        elif below := execution_settings(inner):
            found[name] = below
    return cast(IncEx, found)


def _is_execution(model: type[BaseModel], name: str) -> bool:
    return any(isinstance(mark, Execution) for mark in model.model_fields[name].metadata)


def models_within(value: object) -> Iterator[BaseModel]:
    """A model and all models within it."""
    if isinstance(value, BaseModel):
        yield value
    for _, inner in _entries(value):
        yield from models_within(inner)


def _entries(value: object) -> Iterator[tuple[str | int, object]]:
    """What a model, mapping or list holds, by field, key or index."""
    if isinstance(value, BaseModel):
        yield from ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)
