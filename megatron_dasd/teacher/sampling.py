"""Stage sample_teacher: several responses a prompt from the teacher, at every temperature.

METHOD: temperature-scheduled learning.  Each (prompt, temperature, candidate) becomes one response
or is set aside as empty: together they are prompts x temperatures x candidates.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.teacher import SampleTeacher
from megatron_dasd.engines.base import no_teacher
from megatron_dasd.engines.responses import Candidate, generate_responses
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures
from megatron_dasd.prompt_ids import read_prompts
from megatron_dasd.records import Prompt
from megatron_dasd.records_io import SetAside, ignore_malformed, read_records
from megatron_dasd.seeds import derive_seed


def run(settings: SampleTeacher, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write parts of :class:`Response`."""
    aside = SetAside(settings.on_malformed)
    file = inputs[settings.prompts]
    # Prompts are counted and checked first, then read again as they are sampled: memory does not
    # grow with their number.
    num_prompts = sum(1 for _ in _answerable(read_prompts(file, aside.malformed), settings, file))
    if not num_prompts:
        raise UserError(f"{file}: holds no prompts")
    candidates = _candidates(read_records(file, Prompt, ignore_malformed), settings)
    generate_responses(
        ((candidate, None) for candidate in candidates),
        settings,
        inputs,
        num_asked=num_prompts * len(settings.temperatures) * settings.num_candidates,
        folder=folder,
        aside=aside,
        what="sampling",
    )
    return {"num_prompts": num_prompts}


def _answerable(prompts: Iterable[Prompt], settings: SampleTeacher, file: Path) -> Iterator[Prompt]:
    """The same prompts.

    Raises:
        UserError: the domain of one has no teacher.
    """
    for prompt in prompts:
        if settings.teachers and prompt.domain not in settings.teachers:
            where = f"{file}: prompt {prompt.prompt_id}"
            raise UserError(no_teacher(where, prompt.domain, settings.teachers))
        yield prompt


def _candidates(prompts: Iterable[Prompt], settings: SampleTeacher) -> Iterator[Candidate]:
    """Yield prompt by prompt all candidates at all temperatures."""
    for prompt in prompts:
        for temperature in settings.temperatures:
            for number in range(settings.num_candidates):
                seed = derive_seed(settings.seed, "sample", prompt.prompt_id, temperature, number)
                yield Candidate(prompt=prompt, temperature=temperature, candidate=number, seed=seed)
