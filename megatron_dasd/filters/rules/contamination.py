"""Rule ``contamination``."""

from megatron_dasd.filters.case import Case, FilterRule


def _check(case: Case) -> str | None:
    benchmarks = case.tools.benchmarks
    if benchmarks is None:
        return None
    prompt = [turn.content for turn in case.response.prompt.messages if turn.role != "system"]
    found = (benchmarks.found_in(text) for text in [*prompt, *case.parts])
    return next((run for run in found if run), None)


CONTAMINATION = FilterRule(
    "contamination",
    "words of a benchmark in prompt or response",
    _check,
    settings=("benchmarks", "decontamination"),
)
