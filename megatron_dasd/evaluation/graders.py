"""Graders: how right an answer is, between 0 and 1.

What is graded is the answer of the normalised form alone, what follows ``</think>``; a text that is
not in that form has not answered and scores 0, however right its words are.
"""

import json
import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from megatron_dasd.errors import UserError
from megatron_dasd.records import Prompt
from megatron_dasd.text.thinking import NORMALISED, span_text, split_thinking

_GENERATOR_PREFIX = "reasoning_gym:"
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:/\d+)?")
_WRAPPERS = " \t\n.,;:!?\"'`*$"


def answer_of(text: str) -> str | None:
    """The answer of a text in the normalised form; None when there is none."""
    spans = split_thinking(text, NORMALISED)
    return span_text(text, spans[1]) if spans else None


def find_grader(prompt: Prompt) -> Callable[[str], float]:
    """The function that grades a text written for a prompt.

    Raises:
        UserError: the prompt asks for an unknown grader, or lacks what its grader needs.
    """
    where = f"prompt {prompt.prompt_id}"
    if prompt.reference_answer is None:
        raise UserError(f"{where}: field reference_answer: is missing, the grader needs it")
    reference = prompt.reference_answer
    if prompt.grader == "exact":
        return _of_answer(lambda answer: float(is_same(answer, reference)))
    if prompt.grader and prompt.grader.startswith(_GENERATOR_PREFIX):
        return _of_answer(_reasoning_gym(prompt, prompt.grader.removeprefix(_GENERATOR_PREFIX)))
    raise UserError(f"{where}: field grader: {prompt.grader!r} is no known grader")


def is_same(answer: str, reference: str) -> bool:
    """Whether two answers are the same number, or else the same words.

    Numbers are compared exactly (``1,000.50`` is ``1000.5``, ``1/2`` is ``0.5``); words without
    regard to case, spacing, Unicode form, and punctuation or quotes around them.
    """
    given, wanted = _plain(answer), _plain(reference)
    numbers = _number(given), _number(wanted)
    return numbers[0] == numbers[1] if None not in numbers else given == wanted


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


def _of_answer(grade: Callable[[str], float]) -> Callable[[str], float]:
    def graded(text: str) -> float:
        answer = answer_of(text)
        return 0.0 if answer is None else grade(answer)

    return graded


def _reasoning_gym(prompt: Prompt, generator: str) -> Callable[[str], float]:
    import reasoning_gym  # not at the top: it takes seconds, and not every prompt needs it

    where = f"prompt {prompt.prompt_id}: field"
    try:
        metadata = json.loads(prompt.grader_metadata or "{}")
    except json.JSONDecodeError as error:
        raise UserError(f"{where} grader_metadata: bad JSON ({error})") from None
    try:
        score = reasoning_gym.get_score_answer_fn(generator)
    except ValueError as error:
        raise UserError(f"{where} grader: {error}") from None
    entry: dict[str, Any] = {"answer": prompt.reference_answer, "metadata": metadata}

    def grade(answer: str) -> float:
        try:
            return min(max(float(score(answer, entry)), 0.0), 1.0)
        except Exception:  # some generators' graders trip over answers of another form
            return 0.0

    return grade
