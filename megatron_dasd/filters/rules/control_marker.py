"""Rule ``control_marker``."""

from megatron_dasd.filters.case import Case, FilterRule
from megatron_dasd.text.thinking import control_marker


def _check(case: Case) -> str | None:
    markers = (control_marker(part, case.settings.thinking) for part in case.parts)
    return next((marker for marker in markers if marker), None)


CONTROL_MARKER = FilterRule(
    "control_marker",
    "a delimiter or control token inside thinking part or answer",
    _check,
    settings=("thinking",),
)
