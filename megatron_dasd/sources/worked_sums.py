"""Stage worked_sums: worked solutions of column addition, as filtered responses."""

import random
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.sources import Style, WorkedSums
from megatron_dasd.records import FilteredResponse, Prompt, TokenLogprobs
from megatron_dasd.records_io import read_records
from megatron_dasd.seeds import derive_seed
from megatron_dasd.sources.prompts import sum_prompt
from megatron_dasd.tasks.column_addition import STYLES, Sum, draw_sums
from megatron_dasd.text.thinking import NORMALISED, normalise


def run(settings: WorkedSums, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, object]:
    """Write all solutions as one part."""
    excluded = set()
    if settings.without:
        prompts = read_records(inputs[settings.without], Prompt)
        excluded = {prompt.messages[-1].content for prompt in prompts}
    rng = random.Random(derive_seed(settings.seed, "worked_sums", settings.carries))
    problems = (p for p in draw_sums(rng, settings.carries) if p.question not in excluded)
    solutions = [
        worked(problem, rng.choice(settings.styles), f"worked-{index:05d}")
        for index, problem in enumerate(islice(problems, settings.size))
    ]
    folder.write_part(0, FilteredResponse, solutions, {"written": len(solutions)})
    return {}


def worked(problem: Sum, style: Style, prompt_id: str) -> FilteredResponse:
    """Write the solution of a problem, in the normalised form."""
    text = NORMALISED.open + STYLES[style](problem) + NORMALISED.close + problem.answer
    normalised = normalise(text, NORMALISED)
    assert normalised is not None  # it was just written so
    return FilteredResponse(
        prompt=sum_prompt(problem, prompt_id),
        temperature=1.0,
        candidate=0,
        seed=0,
        model=style,
        text=text,
        tokens=TokenLogprobs(token_ids=[], num_bytes=[], logprobs=[]),
        finish_reason="stop",
        output=normalised.output,
        output_spans=normalised.output_spans,
        text_spans=[],  # there are no token log-probs to line up with
    )
