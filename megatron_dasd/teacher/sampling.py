"""Stage sample_teacher: several responses a prompt from the teacher, at every temperature.

METHOD: temperature-scheduled learning.  Each (prompt, temperature, candidate) gives one response
or is set aside as empty: together they are prompts x temperatures x candidates.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import StageFolder, model_folder
from megatron_dasd.config.teacher import SampleTeacher
from megatron_dasd.engines.base import Generation, GenerationRequest
from megatron_dasd.engines.parts import Job, generate_parts
from megatron_dasd.errors import UserError
from megatron_dasd.records import Prompt, Response
from megatron_dasd.records_io import SetAside, read_records
from megatron_dasd.seeds import derive_seed
from megatron_dasd.text.chat import read_few_shot, render_prompt
from megatron_dasd.text.encoding import load_tokenizer


def run(settings: SampleTeacher, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, Any]:
    """Write parts of :class:`Response`."""
    aside = SetAside(settings.on_malformed)
    prompts = list(read_records(inputs[settings.prompts], Prompt, aside.malformed))
    if not prompts:
        raise UserError(f"{inputs[settings.prompts]}: holds no prompts")
    generate_parts(
        list(_jobs(prompts, settings, inputs)),
        Response,
        folder=folder,
        model=model_folder(inputs[settings.model]),
        model_name=settings.model,
        settings=settings.engine,
        aside=aside,
        what="sampling",
    )
    return {"num_prompts": len(prompts)}


@dataclass(frozen=True)
class _Candidate:
    """One response to be sampled."""

    prompt: Prompt
    temperature: float
    candidate: int
    seed: int
    model: str

    def response(self, generation: Generation) -> Response:
        return Response(
            **vars(self),
            text=generation.text,
            tokens=generation.tokens,
            finish_reason=generation.finish_reason,
        )


def _jobs(
    prompts: list[Prompt], settings: SampleTeacher, inputs: Mapping[str, Path]
) -> Iterator[Job[Response]]:
    """Yield prompt by prompt all candidates at all temperatures."""
    tokenizer = load_tokenizer(model_folder(inputs[settings.model]))
    few_shot = read_few_shot(inputs[settings.few_shot] if settings.few_shot else None)
    for prompt in prompts:
        text = render_prompt(tokenizer, prompt.messages, settings.system_prompt, few_shot)
        for temperature in settings.temperatures:
            for number in range(settings.num_candidates):
                seed = derive_seed(settings.seed, "sample", prompt.prompt_id, temperature, number)
                wanted = _Candidate(prompt, temperature, number, seed, settings.model)
                request = GenerationRequest(
                    prompt=text,
                    max_new_tokens=settings.max_new_tokens,
                    seed=seed,
                    temperature=temperature,
                    top_p=settings.top_p,
                    stop=tuple(settings.stop),
                )
                yield Job(request=request, record=wanted.response, about=wanted)
