"""Rule ``contamination``."""

from megatron_dasd.filters.case import Case, FilterRule
from megatron_dasd.records import Prompt


def searched_turns(prompt: Prompt) -> list[str]:
    """The turns of a prompt in which benchmarks are searched for: all but the system's."""
    return [turn.content for turn in prompt.messages if turn.role != "system"]


def contamination_of(case: Case) -> str | None:
    """Describe a run of a benchmark's words in prompt or response; None: there is none."""
    benchmarks = case.tools.benchmarks
    if benchmarks is None:
        return None
    parts = case.parts or [case.response.text]
    texts = [*searched_turns(case.response.prompt), *parts]
    found = (benchmarks.found_in(text) for text in texts)
    return next((run for run in found if run), None)


CONTAMINATION = FilterRule(
    "contamination",
    "words of a benchmark in prompt or response",
    contamination_of,
    settings=("benchmarks", "evaluated", "decontamination"),
)
