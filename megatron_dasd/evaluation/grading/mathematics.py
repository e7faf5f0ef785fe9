"""Grader ``math``: the same expression, number, set or interval, by Math-Verify.

Math-Verify reads LaTeX and plain ASCII.  Marks that Unicode has for the same things (``−``, ``√``,
``½``, ``²``, ``∞``, ``≤``) are put into LaTeX before.
"""
# ruff: noqa: RUF001, RUF002 -- the marks are meant

import logging
import re
import unicodedata
from collections.abc import Mapping

import msgspec

from megatron_dasd.evaluation.grading.base import Check, Grader

_DELIMITERS = ("$", "\\boxed", "\\(", "\\[")
_LONGEST_BARE = 300
"""Characters of an answer without delimiters that is taken for an expression as a whole."""
_LATEX = str.maketrans(
    {
        **dict.fromkeys("−–－﹣", "-"),
        "×": "\\times ",
        "·": "\\cdot ",
        "⋅": "\\cdot ",
        "÷": "/",
        "∕": "/",
        "⁄": "/",
        "π": "\\pi ",
        "θ": "\\theta ",
        "∞": "\\infty ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "∈": "\\in ",
        "∪": "\\cup ",
        "∩": "\\cap ",
        "∅": "\\emptyset ",
        "°": "^\\circ ",
        "ℝ": "\\mathbb{R}",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
    }
)
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"
_AS_SUPERSCRIPT = str.maketrans(_SUPERSCRIPTS, "0123456789+-n")
_SUPERSCRIPT = re.compile(rf"[{_SUPERSCRIPTS}]+")
_FRACTION = re.compile("[¼-¾⅐-⅞]")
_ROOT = re.compile(r"√\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))")
_FULL_WIDTH = re.compile("[０-９Ａ-Ｚａ-ｚ（），．＝＋＜＞／％［］｛｝]")
_POWER_OF_TEN = re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?!\w)")
_WORD = re.compile(r"((?<![\\A-Za-z{])[A-Za-z]{2,}(?![A-Za-z]))")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s*\{[^{}]*\}")
_EXPRESSION = re.compile(r"\\|[\[({].*[\])}]|\S\s*[<>]\s*\S")
_SPELLINGS = (
    ("\\varnothing", "\\emptyset"),
    ("\\$", ""),
    ("\\leqslant", "\\le"),
    ("\\geqslant", "\\ge"),
)
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
                    allow_set_relation_comp=True,  # x > 3 is (3, oo)
                    timeout_seconds=None,
                )
            )

        answer, reference = in_latex(answer), in_latex(reference)
        expected = parse(reference if _is_delimited(reference) else f"${reference}$")
        if _is_delimited(answer) or len(answer) > _LONGEST_BARE:
            return float(is_same(parse(answer)))
        return float(any(is_same(parse(text)) for text in readings(answer)))

    for reference, answer in _WARM_UP:
        check(answer, reference, {})
    return check


def in_latex(text: str) -> str:
    """A text with Unicode's mathematical marks as LaTeX or ASCII has them."""
    for spelling, usual in _SPELLINGS:
        text = text.replace(spelling, usual)
    text = _POWER_OF_TEN.sub(r"\1 \\times 10^{\2}", text)
    if text.isascii():
        return text
    text = _FULL_WIDTH.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _FRACTION.sub(lambda match: _fraction(match[0]), text)
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(_AS_SUPERSCRIPT)}}}", text)
    text = _ROOT.sub(lambda match: f"\\sqrt{{{next(filter(None, match.groups()), '')}}}", text)
    return text.translate(_LATEX)


def readings(text: str) -> list[str]:
    """What a text without delimiters may mean, with delimiters.

    What stands between the words is an expression where it holds LaTeX, brackets or a relation.
    LaTeX is never left bare: Math-Verify would find ``1/2`` in ``3\\frac{1}{2}``.
    """
    pieces = _WORD.split(text) if _WORD.search(_LATEX_TEXT.sub("", text)) else [text]
    found = "".join(
        f" ${piece.strip(' .,;:!')}$ " if not number % 2 and _EXPRESSION.search(piece) else piece
        for number, piece in enumerate(pieces)
    )
    if "\\" in text:
        return [found]
    return [text, f"${text}$", *([found] if found != text else [])]


def _fraction(mark: str) -> str:
    above, _, below = unicodedata.normalize("NFKC", mark).partition("⁄")
    return f"\\frac{{{above}}}{{{below}}}"


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
