"""Grader ``exact``: the same number, or else the same words."""

import re
import unicodedata
from collections.abc import Mapping
from fractions import Fraction

from megatron_dasd.evaluation.grading.base import Grader, without_argument

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:/\d+)?")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_NAMED = re.compile(r"[a-z]\s*=\s*(?=[-+]?[\d.])")
_WRAPPERS = " \t\n.,;:!?\"'`*$"


def is_same(answer: str, reference: str) -> bool:
    """Whether two answers are the same number, or else the same words.

    Numbers are compared exactly (``1,000.50`` is ``1000.5``, ``1/2`` is ``0.5``); words without
    regard to case, spacing, Unicode form, and punctuation or quotes around them.  Where there is a
    ``\\boxed{}``, the last one is the answer; ``x = 42`` is 42, ``\\frac{1}{2}`` is 1/2, and U+2212
    is a minus sign.
    """
    given, expected = _plain(answer), _plain(reference)
    numbers = _number(given), _number(expected)
    return numbers[0] == numbers[1] if None not in numbers else given == expected


def _plain(text: str) -> str:
    boxed = _BOXED.findall(text)
    text = unicodedata.normalize("NFKC", boxed[-1] if boxed else text).replace("\u2212", "-")
    text = _FRACTION.sub(r"\1/\2", text).replace(", ", ",")
    words = " ".join(text.casefold().split()).strip(_WRAPPERS)
    named = _NAMED.match(words)
    return words[named.end() :] if named else words


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
