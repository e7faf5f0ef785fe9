"""Chains of thought into sentences, without losing a byte.

A sentence ends at a line break, at ``. ! ? …`` before whitespace, and, with or without whitespace,
at the full stops and question marks of Chinese, Japanese, Arabic, Urdu, Hindi, Armenian, Amharic,
Burmese and Khmer.  Thai has no such mark: its sentences end at line breaks.  A sentence does not
end inside a decimal number, after an abbreviation or a list number, inside LaTeX mathematics or
inline code; a fenced block of code is cut at its line breaks alone.  Whitespace after a sentence
belongs to it, so the sentences joined are the text.  Every pattern is scanned in time linear in the
text, whatever the text.

docs/divergence.md compares it with other maintained splitters.
"""
# ruff: noqa: RUF001 -- the full-width marks, those of other scripts and curly quotes are meant

import re
from collections.abc import Iterator
from itertools import pairwise

# Each pattern begins with a set of characters, so that a scan skips what cannot match.  An empty
# group marks an alternative that ends a sentence whatever surrounds it: line breaks, questions, and
# the many full stops between a word or number and a capital that need no closer look.
_BORDER = re.compile(
    r"""
    [\n.!?…。！？｡．؟۔।॥።။។։]
    (?: (?<=\n) \s*+ ()
      | (?<=[。！？｡]) [。！？｡]*+ [」』”’）】)\]]*+ \s*+ ()
      | (?<=．) (?![0-9０-９]) [」』”’）】)\]]*+ \s*+ ()
      | (?<=[؟۔।॥።။។։]) [؟۔।॥።။។։!]*+ [”’"')\]»*_]*+ \s*+ ()
      | [ ] (?=[A-Z])
        (?: (?<=[a-z]{5}\.[ ]) (?<!pprox\.[ ])
          | (?<=[ ][a-z]{4}\.[ ]) (?<!resp\.[ ])
          | (?<=[ ][a-z]{3}\.[ ]) (?<!viz\.[ ])
          | (?<=[a-z=][ ][0-9]{3}\.[ ]) | (?<=[a-z=][ ][0-9]{2}\.[ ]) | (?<=[a-z=][ ][0-9]\.[ ])
        ) ()
      | (?<=[!?]) (?<![.!?…].) [.!?…]*+ [”’"')\]}*_`]*+ \s++ ()
      | (?<=[.…]) (?<![.!?…].) [.!?…]*+ [”’"')\]}*_`]*+ \s++
    )
    """,
    re.VERBOSE,
)
# None reaches past the next opening delimiter of its kind, which keeps the scan linear.
_WHOLE = re.compile(
    r"""
    [$\\`]
    (?: (?<=\$) (?<!\\.) \$ [^$]++ \$\$
      | (?<=\\) (?<!\\.) \[ (?: [^\\]++ | \\[^\[\]] )*+ \\\]
      | (?<=\\) (?<!\\.) \( (?: [^\\]++ | \\[^()] )*+ \\\)
      | (?<=\$) (?<![\\$].) (?=[^\s$]) [^$\n]++ (?<=\S) \$ (?!\d)
      | (?<=`) (?<!`.) (?P<code>``) [^`]*+ (?: `{1,2}+ (?!`) [^`]*+ )*+ ```
      | (?<=`) (?<!`.) (?!`) [^`\n]++ ` (?!`)
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_WORD_BEFORE = re.compile(r"[^\W\d_]+(?:\.[^\W\d_]+)*\Z")
_LIST_NUMBER_BEFORE = re.compile(r"\n[ \t]*[(\[*]*(?:\d{1,3}|[A-Za-z])\Z")
_TITLES = frozenset(["Dr", "Mr", "Mrs", "Ms", "Prof", "St"])
_NEVER_LAST = frozenset(["e.g", "i.e", "vs", "cf", "al", "approx", "resp", "ca", "viz", "w.r.t"])
"""Abbreviations that do not end a sentence."""
_BEFORE_NUMBERS = frozenset(
    ["no", "nos", "p", "pp", "vol", "ch", "sec", "fig", "figs", "eq", "eqs", "thm"]
)
"""Abbreviations when a number follows, words otherwise."""
_SPECIAL = frozenset([*map(str.lower, _TITLES), *_NEVER_LAST, *_BEFORE_NUMBERS, "etc"])
_CONTEXT = 24
"""Characters before a full stop that decide whether it ends the sentence."""


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences; joined they are the text again.

    Leading whitespace belongs to the first sentence; an empty text has none.
    """
    ends = sentence_ends(text)
    return [text[start:end] for start, end in pairwise([0, *ends])]


def sentence_ends(text: str) -> list[int]:
    """Character offsets at which the sentences of a text end; an empty text has none."""
    return [*_borders(text), len(text)] if text else []


def _borders(text: str) -> list[int]:
    """Character offsets at which a new sentence begins, the text's own ends left out."""
    size = len(text)
    wholes = _WHOLE.finditer(text)
    whole_start, whole_end, is_code = _next_whole(wholes, size)
    found = []
    for border in _BORDER.finditer(text, size - len(text.lstrip())):
        start, end = border.span()
        while whole_end <= start:
            whole_start, whole_end, is_code = _next_whole(wholes, size)
        if whole_start < start and not (is_code and text[start] == "\n"):
            continue
        if border.lastindex or _plainly_ends(text, start) or _ends_sentence(text, start, end):
            found.append(end)
    if found and found[-1] == size:
        found.pop()
    return found


def _plainly_ends(text: str, start: int) -> bool:
    """Whether the mark at ``start`` is one of the many full stops that need no closer look."""
    if text[start : start + 2] != ". ":
        return False
    head, _, word = text[start - _CONTEXT if start > _CONTEXT else 0 : start].rpartition(" ")
    if word.isalpha():
        return len(word) > 1 and word.lower() not in _SPECIAL
    # a number or a bracket that does not open its line, as a list's would
    inside = word != "" and not word[-1].isalpha() and "\n" not in word
    return inside and head != "" and not head[-1].isspace()


def _next_whole(wholes: Iterator[re.Match[str]], size: int) -> tuple[int, int, bool]:
    """(start, end, whether it is code) of the next whole piece; beyond the text without one."""
    match = next(wholes, None)
    return (*match.span(), match["code"] is not None) if match else (size, size + 1, False)


def _ends_sentence(text: str, start: int, end: int) -> bool:
    """Whether the full stops, closing marks and whitespace ``text[start:end]`` end a sentence."""
    border = text[start:end]
    if "!" in border or "?" in border or "\n" in border:
        return True
    following = text[end : end + 1]
    if border[0] != "." or border[1] in ".…":  # an ellipsis: a pause, unless a sentence follows
        return not following.islower()
    # a line break before the text, so that its first line begins as the others do
    before = ("\n" + text[max(0, start - _CONTEXT) : start])[-_CONTEXT:]
    if "\n" in before and _LIST_NUMBER_BEFORE.search(before):
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
