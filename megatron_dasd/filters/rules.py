"""The quality rules: each is a pure function, each dropped response falls under one name.

METHOD: filters.  The rules are asked in the order of :data:`REASONS`, cheap ones first, and the
first that speaks names the reason.  ``duplicate`` needs the other responses and is the runner's.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.selection import Repetition
from megatron_dasd.records import Response
from megatron_dasd.text.sentences import split_sentences
from megatron_dasd.text.thinking import (
    NORMALISED,
    Normalised,
    continue_normalised,
    control_marker,
    normalise,
    span_text,
    split_thinking,
)

Reason = Literal[
    "truncation", "tool_call", "structure", "control_marker", "length", "repetition", "duplicate"
]
MIN_WORDS = 3
"""Lines and sentences of fewer words repeat in good texts too ("So x = 3." aside)."""

_TOOL_CALL = re.compile(
    r"<\|?/?(?:tool_call|tool_response|function_call|python_tag|tool_calls_section)\w*\|?>"
    r"|<function=\w|\[TOOL_CALLS\]|<\|(?:call|constrain)\|>"
    r"|\bto=(?:functions\.|python\b|browser\b)"
    r'|"(?:tool_calls|function_call)"\s*:'
)


def is_tool_call(text: str) -> bool:
    """Whether a text calls a tool or function, in any of the common forms."""
    return _TOOL_CALL.search(text) is not None


def normalise_response(response: Response, delimiters: ThinkingFormat) -> Normalised | None:
    """Bring a response, or a prefix and its continuation, into the normalised form.

    Returns:
        None when the (joined) text lacks a thinking part or an answer.  ``text_spans`` is empty for
        a continuation: its text is a part of the output only.
    """
    if not response.student_prefix:
        return normalise(response.text, delimiters)
    output = continue_normalised(response.student_prefix, response.text, delimiters)
    spans = split_thinking(output, NORMALISED) if output else None
    return Normalised(output, spans, []) if output and spans else None


def text_reason(
    response: Response, normalised: Normalised | None, delimiters: ThinkingFormat
) -> Reason | None:
    """The reason to drop a response that its form gives; None when its form is good."""
    if response.finish_reason == "length":
        return "truncation"
    if is_tool_call(response.text) or is_tool_call(response.student_prefix):
        return "tool_call"
    if normalised is None:
        return "structure"
    if any(control_marker(part, delimiters) for part in contents(normalised)):
        return "control_marker"
    return None


def contents(normalised: Normalised) -> list[str]:
    """The thinking part and the answer."""
    return [span_text(normalised.output, span) for span in normalised.output_spans]


def is_repetitive(parts: Sequence[str], bounds: Repetition) -> bool:
    """Whether a line, a sentence or a run of words occurs more often than its bound allows.

    Linear in the text: every line, sentence and run is counted once, in a hash table.

    Args:
        parts: thinking part and answer; occurrences in both are added up.
    """
    lines = (line for part in parts for line in part.splitlines())
    if _most_frequent(lines) > bounds.max_repeated_lines:
        return True
    sentences = (sentence for part in parts for sentence in split_sentences(part))
    if _most_frequent(sentences) > bounds.max_repeated_sentences:
        return True
    size = bounds.ngram_words
    runs: Counter[tuple[str, ...]] = Counter()
    for part in parts:
        words = part.split()
        runs.update(zip(*(words[first:] for first in range(size)), strict=False))
    return max(runs.values(), default=0) > bounds.max_ngram_count


def _most_frequent(texts: Iterable[str]) -> int:
    """Occurrences of the most frequent text of at least :data:`MIN_WORDS` words."""
    words = (text.split() for text in texts)
    return max(Counter(" ".join(w) for w in words if len(w) >= MIN_WORDS).values(), default=0)
