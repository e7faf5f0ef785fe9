"""Rule ``structure``."""

from megatron_dasd.filters.case import Case, FilterRule


def _check(case: Case) -> str | None:
    if case.normalised:
        return None
    return "no thinking part and answer" if case.settings.thinking else "no answer"


STRUCTURE = FilterRule(
    "structure", "no thinking part, or no answer after it", _check, settings=("thinking",)
)
