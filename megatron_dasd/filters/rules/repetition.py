"""Rules ``loop`` and ``repeated_*``.  METHOD: filters."""

from collections.abc import Callable, Sequence

from megatron_dasd.config.selection import Repetition
from megatron_dasd.filters.case import Case, FilterRule
from megatron_dasd.filters.repetition import (
    ends_in_loop,
    repeated_line,
    repeated_ngram,
    repeated_paragraph,
    repeated_sentence,
)


def _rule(
    name: str,
    description: str,
    found: Callable[[Sequence[str], Repetition], str | None],
    *settings: str,
) -> FilterRule:
    def check(case: Case) -> str | None:
        return found(case.parts, case.settings.repetition)

    return FilterRule(name, description, check, tuple(f"repetition.{field}" for field in settings))


LOOP = _rule(
    "loop",
    "one piece of text over and over",
    ends_in_loop,
    "loop_repeats",
    "loop_characters",
)
REPEATED_LINE = _rule(
    "repeated_line", "one line too often", repeated_line, "max_repeated_lines", "max_share"
)
REPEATED_PARAGRAPH = _rule(
    "repeated_paragraph",
    "too many words in copies of one paragraph",
    repeated_paragraph,
    "max_copied_words",
)
REPEATED_SENTENCE = _rule(
    "repeated_sentence",
    "one sentence too often",
    repeated_sentence,
    "max_repeated_sentences",
    "max_share",
)
REPEATED_NGRAM = _rule(
    "repeated_ngram",
    "a long stretch of runs of words that all occur twice before",
    repeated_ngram,
    "ngram_words",
    "max_stretch",
)
