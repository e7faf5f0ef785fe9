"""Grader ``exact``: the same number, or else the same words."""

import re
import unicodedata
from collections.abc import Mapping
from fractions import Fraction

from megatron_dasd.evaluation.grading.base import Grader, without_argument

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:/\d+)?")
_WRAPPERS = " \t\n.,;:!?\"'`*$"


def is_same(answer: str, reference: str) -> bool:
    """Whether two answers are the same number, or else the same words.

    Numbers are compared exactly (``1,000.50`` is ``1000.5``, ``1/2`` is ``0.5``); words without
    regard to case, spacing, Unicode form, and punctuation or quotes around them.
    """
    given, expected = _plain(answer), _plain(reference)
    numbers = _number(given), _number(expected)
    return numbers[0] == numbers[1] if None not in numbers else given == expected


def _plain(text: str) -> str:
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join(words).strip(_WRAPPERS)


def _number(text: str) -> Fraction | None:
    if not text or not _NUMBER.fullmatch(text):
        return None
    try:
        return Fraction(text.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def _check(answer: str, reference: str, metadata: Mapping[str, object]) -> float:
    return float(is_same(answer, reference))


EXACT = Grader(
    name="exact",
    description="The same number, or else the same words.",
    make=without_argument(_check),
    in_process=True,
)
