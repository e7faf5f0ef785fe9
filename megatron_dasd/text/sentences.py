"""Chains of thought into sentences, without losing a byte.

A sentence ends at a line break, at ``. ! ? …`` before whitespace, and at the CJK full stops.  It
does not end inside a decimal number, after an abbreviation or a list number, or inside LaTeX
mathematics.  Whitespace after a sentence belongs to it, so the sentences joined are the text.
Every pattern is scanned in time linear in the text, whatever the text.
"""
# ruff: noqa: RUF001 -- the full-width marks and curly quotes are meant

import re
from collections.abc import Iterator
from itertools import pairwise

_BORDER = re.compile(
    r"""
      \n\s*
    | [。！？｡]++ [」』”’）】)\]]*+ \s*+
    | (?<![.!?…]) (?P<stop>[.!?…]++) [”’"')\]}*_`]*+ \s++
    """,
    re.VERBOSE,
)
# None reaches past the next opening delimiter of its kind, which keeps the scan linear.
_MATHS = re.compile(
    r"""
      (?<!\\) \$\$ [^$]++ \$\$
    | (?<!\\) \\\[ (?: [^\\]++ | \\[^\[\]] )*+ \\\]
    | (?<!\\) \\\( (?: [^\\]++ | \\[^()] )*+ \\\)
    | (?<![\\$]) \$ (?=[^\s$]) [^$\n]+ (?<=\S) \$ (?!\d)
    """,
    re.VERBOSE,
)
_WORD_BEFORE = re.compile(r"[^\W\d_]+(?:\.[^\W\d_]+)*\Z")
_LIST_NUMBER_BEFORE = re.compile(r"\n[ \t]*[(\[*]*(?:\d{1,3}|[A-Za-z])\Z")
_TITLES = frozenset(["Dr", "Mr", "Mrs", "Ms", "Prof"])
_NEVER_LAST = frozenset(["e.g", "i.e", "vs", "cf", "al", "approx", "resp", "ca", "viz"])
"""Abbreviations that do not end a sentence."""
_BEFORE_NUMBERS = frozenset(
    ["no", "nos", "p", "pp", "vol", "ch", "sec", "fig", "figs", "eq", "eqs", "thm"]
)
"""Abbreviations when a number follows, words otherwise."""
_CONTEXT = 24
"""Characters before a full stop that tell whether it ends the sentence."""


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences; joined they are the text again.

    Leading whitespace belongs to the first sentence; an empty text has none.
    """
    borders = [0, *_borders(text), len(text)]
    return [text[start:end] for start, end in pairwise(borders) if start < end]


def _borders(text: str) -> Iterator[int]:
    """Character offsets at which a new sentence begins, the text's own ends left out."""
    first = len(text) - len(text.lstrip())
    maths = _MATHS.finditer(text)
    formula = next(maths, None)
    for border in _BORDER.finditer(text, first):
        while formula and formula.end() <= border.start():
            formula = next(maths, None)
        inside = formula is not None and formula.start() < border.start()
        if border.end() < len(text) and not inside and _ends_sentence(text, border):
            yield border.end()


def _ends_sentence(text: str, border: re.Match[str]) -> bool:
    """Whether a border found by its form alone is one."""
    stop = border["stop"]
    if stop is None or "!" in stop or "?" in stop or "\n" in border.group():
        return True
    following = text[border.end() : border.end() + 1]
    if stop != ".":  # an ellipsis: a pause, unless a new sentence follows
        return not following.islower()
    # a line break before the text, so that its first line begins as the others do
    before = ("\n" + text[max(0, border.start() - _CONTEXT) : border.start()])[-_CONTEXT:]
    if _LIST_NUMBER_BEFORE.search(before):
        return False
    match = _WORD_BEFORE.search(before)
    word = match.group() if match else ""
    if word in _TITLES or word.lower() in _NEVER_LAST:
        return False
    if word.lower() in _BEFORE_NUMBERS:
        return not following.isdigit()
    if word == "etc" or "." in word:  # a.m., U.S.
        return not following.islower()
    return True
