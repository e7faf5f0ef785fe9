"""The quality rules, a module each, in the order in which they are applied.

METHOD: filters.  To add a rule, write a module with its :class:`FilterRule`, add the rule to
:data:`RULES`, and, if it has settings, add them to ``config/selection.py``.
"""

from megatron_dasd.filters.case import Case, FilterRule
from megatron_dasd.filters.rules.contamination import CONTAMINATION
from megatron_dasd.filters.rules.control_marker import CONTROL_MARKER
from megatron_dasd.filters.rules.duplicate import DUPLICATE
from megatron_dasd.filters.rules.length import LENGTH
from megatron_dasd.filters.rules.repetition import (
    LOOP,
    REPEATED_LINE,
    REPEATED_NGRAM,
    REPEATED_PARAGRAPH,
    REPEATED_SENTENCE,
)
from megatron_dasd.filters.rules.structure import STRUCTURE
from megatron_dasd.filters.rules.tool_call import TOOL_CALL
from megatron_dasd.filters.rules.tool_call import find_tool_call as find_tool_call
from megatron_dasd.filters.rules.truncation import TRUNCATION

RULES: tuple[FilterRule, ...] = (
    TRUNCATION,
    TOOL_CALL,
    STRUCTURE,
    CONTROL_MARKER,
    LENGTH,
    LOOP,
    REPEATED_LINE,
    REPEATED_PARAGRAPH,
    REPEATED_SENTENCE,
    REPEATED_NGRAM,
    CONTAMINATION,
    DUPLICATE,
)
"""The first rule that matches decides the drop reason.  Those after ``structure`` may rely on a
normalised form."""


def first_reason(case: Case) -> tuple[str, str] | None:
    """(name, what was found) of the first rule that matches; None for a response to keep."""
    for rule in RULES:
        found = rule.check(case)
        if found is not None:
            return rule.name, found
    return None
