"""Grader ``math``: the same expression, number, set or interval, by Math-Verify."""

import logging
from collections.abc import Mapping

import msgspec

from megatron_dasd.evaluation.grading.base import Check, Grader

_DELIMITERS = ("$", "\\boxed", "\\(", "\\[")
_LONGEST_BARE = 300
"""Characters of an answer without delimiters that is taken for an expression as a whole."""
_WARM_UP = (
    ("1/2", "The answer is $\\frac{1}{2}$."),
    ("\\sqrt{18}", "\\boxed{3\\sqrt{2}}"),
    ("x^2 - 1", "$(x-1)(x+1)$"),
    ("\\{1, 2\\}", "$\\{2, 1\\}$"),
    ("[0, 1)", "$[0, 1)$"),
    ("\\begin{pmatrix} 1 & 2 \\end{pmatrix}", "$\\begin{pmatrix} 1 & 2 \\end{pmatrix}$"),
    ("12", "x = 12"),
    ("50\\%", "0.5"),
)


class MathSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How expressions are compared."""

    float_rounding: int = 6
    """Decimal places that must agree."""
    strict: bool = True
    """Whether names of variables matter, and a set differs from a tuple."""


def make_check(argument: str) -> Check:
    """Import Math-Verify and fill its parsers' caches with known expressions."""
    if argument:
        raise ValueError(f"takes no {argument!r} after its name")
    import math_verify

    # both say that they have no time limit of their own; the worker's is theirs
    logging.getLogger("math_verify").setLevel(logging.ERROR)

    def parse(text: str) -> list[object]:
        parsed: list[object] = math_verify.parse(text, parsing_timeout=None)
        return parsed

    def check(answer: str, reference: str, metadata: Mapping[str, object]) -> float:
        settings = msgspec.convert(metadata, MathSettings)

        def is_same(given: list[object]) -> bool:
            return bool(
                math_verify.verify(
                    expected,
                    given,
                    float_rounding=settings.float_rounding,
                    strict=settings.strict,
                    timeout_seconds=None,
                )
            )

        expected = parse(reference if _is_delimited(reference) else f"${reference}$")
        if is_same(parse(answer)):
            return 1.0
        bare = not _is_delimited(answer) and len(answer) <= _LONGEST_BARE
        return float(bare and is_same(parse(f"${answer}$")))

    for reference, answer in _WARM_UP:
        check(answer, reference, {})
    return check


def _is_delimited(text: str) -> bool:
    return any(delimiter in text for delimiter in _DELIMITERS)


MATH = Grader(
    name="math",
    description="The same expression, number, set or interval, by Math-Verify.",
    make=make_check,
    settings=MathSettings,
    evaluates_code=True,  # through SymPy's parser
    module="math_verify",
)
