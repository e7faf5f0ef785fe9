"""The quality rules: each is a pure function, each dropped response falls under one name.

METHOD: filters.  The rules are asked in the order of :data:`RULES` and the first that speaks names
the reason; what it says tells what it found.  ``duplicate`` comes after them: it needs the other
responses, and is the runner's.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.filters import repetition
from megatron_dasd.filters.contamination import Benchmarks
from megatron_dasd.filters.lengths import Lengths
from megatron_dasd.records import Response
from megatron_dasd.text.harmony import has_tool_call, parse_harmony
from megatron_dasd.text.thinking import (
    NORMALISED,
    Normalised,
    continue_normalised,
    control_marker,
    normalise,
    span_text,
    split_thinking,
)

LENGTH, DUPLICATE = "length", "duplicate"
_TOOL_CALL = re.compile(
    r"<\|?/?(?:tool_call|tool_response|function_call|python_tag|tool_calls_section)\w*\|?>"
    r"|<function=\w|\[TOOL_CALLS\]|<\|(?:call|constrain)\|>"
    r"|\bto=(?:functions\.|python\b|browser\b)"
    r'|"(?:tool_calls|function_call)"\s{0,9}:'
)
_TOOL_CALL_HINTS = (
    "tool",
    "function",
    "python_tag",
    "TOOL_CALLS",
    "<|call|>",
    "<|constrain|>",
    "to=",
)


@dataclass(frozen=True)
class Case:
    """A response as the rules look at it."""

    response: Response
    normalised: Normalised | None
    """None when it has no thinking part and answer."""
    parts: list[str]
    """Thinking part and answer; empty without ``normalised``."""
    settings: FilterResponses
    benchmarks: Benchmarks | None = None
    lengths: Lengths | None = None
    """None: the length is not looked at."""


Rule = Callable[[Case], str | None]


def make_case(
    response: Response,
    settings: FilterResponses,
    benchmarks: Benchmarks | None = None,
    lengths: Lengths | None = None,
) -> Case:
    """Bring a response into the form in which the rules look at it."""
    normalised = normalise_response(response, settings.thinking)
    parts = contents(normalised) if normalised else []
    return Case(response, normalised, parts, settings, benchmarks, lengths)


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


def contents(normalised: Normalised) -> list[str]:
    """The thinking part and the answer."""
    return [span_text(normalised.output, span) for span in normalised.output_spans]


def truncation(case: Case) -> str | None:
    """The response was cut off by the token limit."""
    return "cut off" if case.response.finish_reason == "length" else None


def tool_call(case: Case) -> str | None:
    """The response calls a tool or a function, in any of the common forms.

    In the harmony format a message's recipient tells, and words about a call are none.
    """
    if case.settings.thinking.format == "harmony" and parse_harmony(case.response.text):
        found = "a message to a tool" if has_tool_call(case.response.text) else None
    else:
        found = find_tool_call(case.response.text)
    return found or find_tool_call(case.response.student_prefix)


def find_tool_call(text: str) -> str | None:
    """What of a text calls a tool; None when nothing does."""
    if not any(hint in text for hint in _TOOL_CALL_HINTS):  # which most texts are through with
        return None
    found = _TOOL_CALL.search(text)
    return found.group() if found else None


def structure(case: Case) -> str | None:
    """There is no thinking part, or no answer after it."""
    return None if case.normalised else "no thinking part and answer"


def control_marker_inside(case: Case) -> str | None:
    """A delimiter or control token stands inside the thinking part or the answer."""
    markers = (control_marker(part, case.settings.thinking) for part in case.parts)
    return next((marker for marker in markers if marker), None)


def too_long(case: Case) -> str | None:
    """Prompt and response are longer than the student's context, in its own tokens.

    More words than the context has room for, however they are cut, are told without the tokenizer:
    it is spared texts far too long, and the rules after this one those that are too long at all.
    """
    if case.lengths is None or case.normalised is None:
        return None
    limit = case.settings.max_length
    most_words = limit * case.lengths.words_per_token
    num_words = sum(len(part.encode().split()) for part in case.parts)
    if num_words > most_words:
        return f"{num_words} words, at most {most_words} fit"
    num_tokens = case.lengths.of(case.response, case.normalised.output)
    return f"{num_tokens} tokens, at most {limit} allowed" if num_tokens > limit else None


def contamination(case: Case) -> str | None:
    """Prompt or response hold words of a benchmark."""
    if case.benchmarks is None:
        return None
    prompt = [turn.content for turn in case.response.prompt.messages if turn.role != "system"]
    found = (case.benchmarks.found_in(text) for text in [*prompt, *case.parts])
    return next((run for run in found if run), None)


RULES: dict[str, Rule] = {
    "truncation": truncation,
    "tool_call": tool_call,
    "structure": structure,
    "control_marker": control_marker_inside,
    LENGTH: too_long,
    "loop": lambda case: repetition.ends_in_loop(case.parts, case.settings.repetition),
    "repeated_line": lambda case: repetition.repeated_line(case.parts, case.settings.repetition),
    "repeated_paragraph": lambda case: repetition.repeated_paragraph(
        case.parts, case.settings.repetition
    ),
    "repeated_sentence": lambda case: repetition.repeated_sentence(
        case.parts, case.settings.repetition
    ),
    "repeated_ngram": lambda case: repetition.repeated_ngram(case.parts, case.settings.repetition),
    "contamination": contamination,
}
"""By name, in the order in which they are asked."""


def first_reason(case: Case) -> tuple[str, str] | None:
    """(name, what was found) of the first rule that speaks; None when none does."""
    for name, rule in RULES.items():
        found = rule(case)
        if found is not None:
            return name, found
    return None
