"""Rule ``duplicate``, the only one that depends on the responses before this one."""

from megatron_dasd.filters.case import Case, FilterRule


def _check(case: Case) -> str | None:
    if case.normalised is None or case.identity not in case.seen:
        return None
    return "the same text as another candidate's"


DUPLICATE = FilterRule(
    "duplicate", "the same text, but for whitespace, as another candidate's", _check
)
