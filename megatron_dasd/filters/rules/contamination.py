"""Rule ``contamination``."""

from megatron_dasd.filters.case import Case, FilterRule
from megatron_dasd.records import Prompt


def searched_turns(prompt: Prompt) -> list[str]:
    """The turns of a prompt in which benchmarks are searched for: all but the system's."""
    return [turn.content for turn in prompt.messages if turn.role != "system"]


def _check(case: Case) -> str | None:
    benchmarks = case.tools.benchmarks
    if benchmarks is None:
        return None
    texts = [*searched_turns(case.response.prompt), *case.parts]
    found = (benchmarks.found_in(text) for text in texts)
    return next((run for run in found if run), None)


CONTAMINATION = FilterRule(
    "contamination",
    "words of a benchmark in prompt or response",
    _check,
    settings=("benchmarks", "decontamination"),
)
