"""Rule ``duplicate``, the only one that depends on other responses than the one it judges."""

from megatron_dasd.filters.case import Case, FilterRule

FOUND = "the same text as another candidate's"


def _check(case: Case) -> str | None:
    """Pass the response: duplicates are found by ``Case.identity``, over all responses.

    ``filters.runner`` does so once every response has been judged by the other rules.
    """
    return None


DUPLICATE = FilterRule(
    "duplicate", "the same text, but for whitespace, as another candidate's", _check
)
