"""Rule ``tool_call``."""

import re
from itertools import chain

from megatron_dasd.filters.case import Case, FilterRule
from megatron_dasd.text.harmony import has_tool_call, parse_harmony

_TOOL_CALL = re.compile(
    r"<\|?/?(?:tool_call|tool_response|function_call|python_tag|tool_calls_section)\w*\|?>"
    r"|<function=\w|\[TOOL_CALLS\]|<\|(?:call|constrain)\|>"
    r"|\bto=(?:functions\.|python\b|browser\b)"
    r'|"(?:tool_calls|function_call)"\s{0,9}:'
)
_HINTS = (
    "tool",
    "function",
    "python_tag",
    "TOOL_CALLS",
    "<|call|>",
    "<|constrain|>",
    "to=",
)
"""Every match of the pattern contains one of these."""


def _check(case: Case) -> str | None:
    """Look for a call in any of the common forms.

    In the harmony format the recipient of a message decides; words about a call do not count.
    """
    if case.settings.tool_calls == "keep":
        return None
    turns = (turn.tool_calls for turn in case.response.prompt.messages)
    for call in chain(case.response.tool_calls, *turns):
        return f"calls {call.name}"
    thinking = case.settings.thinking
    if thinking and thinking.format == "harmony" and parse_harmony(case.response.text):
        found = "a message to a tool" if has_tool_call(case.response.text) else None
    else:
        found = find_tool_call(case.response.text)
    return found or find_tool_call(case.response.student_prefix)


def find_tool_call(text: str) -> str | None:
    """The part of a text that calls a tool; None when there is none."""
    if not any(hint in text for hint in _HINTS):  # most texts need no regular expression
        return None
    found = _TOOL_CALL.search(text)
    return found.group() if found else None


TOOL_CALL = FilterRule("tool_call", "calls a tool or a function", _check, settings=("tool_calls",))
