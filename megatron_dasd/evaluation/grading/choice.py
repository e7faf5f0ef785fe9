"""Grader ``choice``: the letter of a multiple-choice question."""
# ruff: noqa: RUF001 -- the full-width colon is meant

import re
from collections.abc import Mapping

from megatron_dasd.evaluation.grading.base import Grader, without_argument

_DRESS = r"[\s*_`$\"']*"
_LETTER = r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?\(?\s*([A-Za-z])\s*\)?\s*\}?"
_BOXED = re.compile(rf"\\boxed\s*\{{\s*{_LETTER}\s*(?:\.?\s*|[).:]\s[^{{}}]*)\}}")
# upper case only, unless in brackets or at the end of its line: "the answer is a dog" names no
# letter
_NAMED = re.compile(
    rf"(?:(?i:\b(?:answer|choice|option)\b(?:\s+(?:is|would\s+be|must\s+be))?)|答案[是为]?)"
    rf"{_DRESS}[:：]?{_DRESS}(?i:(?:option|choice)\s+)?"
    rf"(?:[(\[]([A-Za-z])[)\]]|([A-Z])(?![\w'])|([a-z])(?=[\s*_`$.]*(?:\n|\Z))){_DRESS}"
)
_CALLED_RIGHT = re.compile(
    rf"(?<![\w'])(?:\(([A-Za-z])\)|([A-Z])){_DRESS}is\s+(?:the\s+)?(?:correct|right)\b"
)
_ALONE = re.compile(rf"{_DRESS}[(\[]?\s*([A-Za-z])\s*[)\]]?{_DRESS}[.:]?{_DRESS}")
_WITH_TEXT = re.compile(rf"{_DRESS}(?:\(([A-Za-z])\)|([A-Z]){_DRESS}[).:]){_DRESS}\s[^\n]*")


def letter_of(answer: str) -> str | None:
    """The letter that an answer chooses, in upper case; None when it names none.

    The first form of this list that occurs decides: the last ``\\boxed{B}``, the last "the answer
    is (B)", the last "B is correct", an answer that is nothing but a letter, an answer of one line
    that begins with ``(B)``, ``B)``, ``B.`` or ``B:``.
    """
    for pattern in (_BOXED, _NAMED, _CALLED_RIGHT):
        found = pattern.findall(answer)
        if found:
            groups = found[-1]
            return (groups if isinstance(groups, str) else "".join(groups)).upper()
    text = answer.strip()
    for pattern in (_ALONE, _WITH_TEXT):
        match = pattern.fullmatch(text)
        if match:
            return "".join(filter(None, match.groups())).upper()
    return None


def _check(answer: str, reference: str, metadata: Mapping[str, object]) -> float:
    right = letter_of(reference)
    return float(right is not None and letter_of(answer) == right)


CHOICE = Grader(
    name="choice",
    description="The letter of a multiple-choice question: (B), \\boxed{B}, Answer: B.",
    make=without_argument(_check),
)
