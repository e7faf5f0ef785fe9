"""A model's thinking part and answer: found in its own delimiters, written in the normalised ones.

The normalised form of an output is ``"<think>\\n" + thinking + "\\n</think>\\n\\n" + answer``, both
parts without outer whitespace (METHOD: filters, structure).  Their bytes are the same in the
teacher's text and in the normalised output, so byte spans are what joins the two.
"""

import re
from dataclasses import dataclass

from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.records import Span
from megatron_dasd.text.harmony import split_harmony

NORMALISED = ThinkingFormat(open="<think>\n", close="\n</think>\n\n")
_OPEN, _CLOSE = "<think>", "</think>"
# A lone "<" that opens no line is rather a less-than sign.
_CUT_CLOSE = ("\n<", *(_CLOSE[:size] for size in range(2, len(_CLOSE))))
_CONTROL_TOKEN = re.compile(r"<\|[^\s<>|]{1,64}\|>")


@dataclass(frozen=True)
class Normalised:
    """A text brought into the normalised form."""

    output: str
    output_spans: list[Span]
    """Bytes of the thinking part and of the answer in ``output``."""
    text_spans: list[Span]
    """Bytes of the same content in the text that was given."""


def split_thinking(text: str, delimiters: ThinkingFormat) -> list[Span] | None:
    """Find the thinking part and the answer, outer whitespace and delimiters left out.

    The text begins with the opening delimiter; the first closing one ends the thinking part.
    Whitespace at the ends of the delimiters does not matter.

    Returns:
        Byte spans of thinking part and answer; None when a delimiter is missing or a part empty.
    """
    if delimiters.format == "harmony":
        return split_harmony(text)
    opening, closing = _marker(delimiters.open), _marker(delimiters.close)
    begin = len(text) - len(text.lstrip())
    if not text.startswith(opening, begin):
        return None
    begin += len(opening)
    middle = text.find(closing, begin)
    if middle < 0:
        return None
    thinking = _content_span(text, begin, middle)
    answer = _content_span(text, middle + len(closing), len(text))
    return [thinking, answer] if thinking and answer else None


def span_text(text: str, span: Span) -> str:
    """The part of a text that a byte span covers."""
    return text.encode()[span.start : span.end].decode()


def normalise(text: str, delimiters: ThinkingFormat | None) -> Normalised | None:
    """Bring a whole text into the normalised form.

    Args:
        delimiters: None: the text is a plain answer.

    Returns:
        None when it has no thinking part and answer, see :func:`split_thinking`, or is blank.
    """
    if delimiters is None:
        return plain_answer(text)
    text_spans = split_thinking(text, delimiters)
    if text_spans is None:
        begins = text.lstrip().startswith(_marker(delimiters.open) or _OPEN)
        return None if delimiters.required or begins else plain_answer(text)
    thinking, answer = (span_text(text, span) for span in text_spans)
    first = len(NORMALISED.open)  # the delimiters are ASCII: a character is a byte
    second = first + len(thinking.encode()) + len(NORMALISED.close)
    output_spans = [
        Span(start=first, end=first + len(thinking.encode())),
        Span(start=second, end=second + len(answer.encode())),
    ]
    output = NORMALISED.open + thinking + NORMALISED.close + answer
    return Normalised(output, output_spans, text_spans)


def plain_answer(text: str) -> Normalised | None:
    """A text that is an answer alone; None when it is blank."""
    span = _content_span(text, 0, len(text))
    if span is None:
        return None
    output = span_text(text, span)
    return Normalised(output, [Span(start=0, end=len(output.encode()))], [span])


def with_calls(text: str, delimiters: ThinkingFormat | None) -> Normalised:
    """A text after which tools are called: its thinking part or its answer may be missing."""
    whole = normalise(text, delimiters)
    if whole or delimiters is None or delimiters.format == "harmony":
        return whole or Normalised("", [], [])
    opening, closing = _marker(delimiters.open), _marker(delimiters.close)
    stripped = text.strip()
    if not (stripped.startswith(opening) and stripped.endswith(closing)):
        return plain_answer(text) or Normalised("", [], [])
    thinking = stripped[len(opening) : -len(closing)].strip()
    start = len(text[: text.index(thinking)].encode())
    size, first = len(thinking.encode()), len(NORMALISED.open)
    output = NORMALISED.open + thinking + NORMALISED.close
    end = len(output.encode())
    here = [Span(start=first, end=first + size), Span(start=end, end=end)]
    last = len(text.encode())
    return Normalised(
        output, here, [Span(start=start, end=start + size), Span(start=last, end=last)]
    )


def to_teacher_form(prefix: str, delimiters: ThinkingFormat) -> str | None:
    """Write the beginning of a normalised output in a teacher's delimiters, for it to go on.

    The delimiters are written as the settings have them, their whitespace included.

    Returns:
        None when the prefix does not begin as a normalised output does, or ends inside a delimiter.
    """
    parts = _prefix_parts(prefix)
    if parts is None:
        return None
    thinking, answer = parts
    if answer is None:
        return delimiters.open + thinking.lstrip()
    return delimiters.open + thinking.strip() + delimiters.close + answer.lstrip()


def continue_normalised(prefix: str, continuation: str, delimiters: ThinkingFormat) -> str | None:
    """Join a normalised prefix and what a teacher wrote after it, in its own delimiters.

    Returns:
        An output in the normalised form that begins with ``prefix`` byte for byte; None when the
        prefix cannot be continued or the joined text lacks a thinking part or an answer.
    """
    parts = _prefix_parts(prefix)
    if parts is None:
        return None
    thinking, answer = parts
    if answer is None:
        more, found, final = continuation.partition(_marker(delimiters.close))
        if not found:
            return None
        if not thinking.strip():
            prefix, more = prefix if thinking else prefix + "\n", more.lstrip()
        joined = prefix + more.rstrip()
        closing = NORMALISED.close.removeprefix("\n" if joined.endswith("\n") else "")
        output = joined + closing + final.strip()
    elif answer.strip():
        output = prefix + continuation.rstrip()
    else:
        output = prefix + "\n" * (2 - answer.count("\n")) + continuation.strip()
    return output if split_thinking(output, NORMALISED) else None


def control_marker(content: str, delimiters: ThinkingFormat | None) -> str | None:
    """Find a delimiter or control token inside a thinking part or an answer.

    Trained on, such text would teach the student to write control tokens as content.

    Returns:
        The first one found; None when the content is clean.
    """
    markers = [_OPEN, _CLOSE]
    if delimiters:
        markers += [delimiters.open.strip(), delimiters.close.strip()]
    for marker in markers:
        if marker and marker in content:
            return marker
    token = _CONTROL_TOKEN.search(content)
    return token.group() if token else None


def _marker(delimiter: str) -> str:
    """What to look for: the delimiter without outer whitespace, unless it is nothing else."""
    return delimiter.strip() or delimiter


def _content_span(text: str, begin: int, end: int) -> Span | None:
    """Byte span of ``text[begin:end]`` without outer whitespace; None when nothing is left."""
    part = text[begin:end]
    content = part.strip()
    if not content:
        return None
    begin += len(part) - len(part.lstrip())
    start = len(text[:begin].encode())
    return Span(start=start, end=start + len(content.encode()))


def _prefix_parts(prefix: str) -> tuple[str, str | None] | None:
    """Thinking part and answer so far, whitespace kept; the answer is None while thinking."""
    if not prefix.startswith(_OPEN):
        return None
    thinking, closed, answer = prefix.removeprefix(_OPEN).partition(_CLOSE)
    if closed:
        return thinking, answer
    return None if thinking.endswith(_CUT_CLOSE) else (thinking, None)
