"""Rule ``structure``."""

from megatron_dasd.filters.case import Case, FilterRule


def _check(case: Case) -> str | None:
    return None if case.normalised else "no thinking part and answer"


STRUCTURE = FilterRule(
    "structure", "no thinking part, or no answer after it", _check, settings=("thinking",)
)
