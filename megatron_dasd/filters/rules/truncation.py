"""Rule ``truncation``."""

from megatron_dasd.filters.case import Case, FilterRule


def _check(case: Case) -> str | None:
    return "cut off" if case.response.finish_reason == "length" else None


TRUNCATION = FilterRule("truncation", "cut off by the token limit", _check)
