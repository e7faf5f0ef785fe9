"""A question of a benchmark, and checked access to the columns of a published row.

What goes wrong is said without the row's content: some questions must not be shown anywhere.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from megatron_dasd.benchmarks.code_tests import CodeTests

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question, as it was published."""

    question_id: str
    """Unique within its benchmark."""
    text: str
    """What is asked, without instructions."""
    reference: str
    """The right answer; of a question with options the first option, of a program empty."""
    options: tuple[str, ...] = ()
    """Of a multiple-choice question; the first is right."""
    starter_code: str = ""
    """The head of the function that a program must define; empty: a program reads stdin."""
    published: date | None = None
    """Day of the contest that a question comes from."""
    tests: Callable[[], CodeTests] | None = None
    """Of a program: decodes its tests, which may be large; raises ValueError."""


def text_of(row: Mapping[str, object], *names: str) -> str:
    """The first of some columns that a row has, as text without space around it.

    Raises:
        ValueError: it has none, or the column holds neither text nor a whole number.
    """
    for name in names:
        value = row.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            text = f"{value:g}" if isinstance(value, float) else str(value)
            if text.strip():
                return text.strip()
            raise ValueError(f"field {name}: is empty")
        if value is not None:
            raise ValueError(f"field {name}: expected text")
    raise ValueError(f"field {names[0]}: is missing (the row has {_columns(row)})")


def id_of(row: Mapping[str, object], number: int, names: Sequence[str]) -> str:
    """The row's own id, else its number."""
    for name in names:
        if isinstance(value := row.get(name), str | int) and str(value).strip():
            return str(value).strip()
    return str(number)


def last_boxed(text: str) -> str | None:
    """What the last ``\\boxed{}`` of a text holds; None: it has none."""
    found = _BOXED.findall(text)
    return str(found[-1]).strip() if found else None


def _columns(row: Mapping[str, object]) -> str:
    """The names of a row's columns, some at most."""
    names = [str(name)[:40] for name in row]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no columns"
