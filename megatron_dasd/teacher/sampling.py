"""Stage sample_teacher: several responses a prompt from the teacher, at every temperature.

METHOD: temperature-scheduled learning.  Each (prompt, temperature, candidate) gives one response
or is set aside as empty: together they are prompts x temperatures x candidates.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.teacher import SampleTeacher
from megatron_dasd.engines.base import Engine, Generation, GenerationRequest
from megatron_dasd.engines.parts import Job, generate_parts
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import model_folder
from megatron_dasd.records import Prompt, Response
from megatron_dasd.records_io import SetAside, read_records
from megatron_dasd.seeds import derive_seed
from megatron_dasd.text.chat import all_turns, read_few_shot, render_turns
from megatron_dasd.text.encoding import load_tokenizer


def run(settings: SampleTeacher, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, Any]:
    """Write parts of :class:`Response`."""
    aside = SetAside(settings.on_malformed)
    file = inputs[settings.prompts]
    num_prompts = sum(1 for _ in read_records(file, Prompt, aside.malformed))
    if not num_prompts:
        raise UserError(f"{file}: holds no prompts")
    model = model_folder(inputs[settings.model]) if settings.model else None
    generate_parts(
        _jobs(read_records(file, Prompt, _told_already), settings, inputs, model),
        Response,
        num_jobs=num_prompts * len(settings.temperatures) * settings.num_candidates,
        folder=folder,
        model=model,
        model_name=settings.model or "",
        settings=settings.engine,
        aside=aside,
        what="sampling",
    )
    return {"num_prompts": num_prompts}


def _told_already(reason: str, record: str) -> None:
    """Prompts are counted and checked first, then read again as they are sampled."""


@dataclass(frozen=True)
class _Candidate:
    """One response to be sampled."""

    prompt: Prompt
    temperature: float
    candidate: int
    seed: int
    teacher_prompt: str

    def response(self, generation: Generation, engine: Engine) -> Response:
        return Response(
            **vars(self),
            model=engine.name,
            engine=engine.version,
            text=generation.text,
            tokens=generation.tokens,
            finish_reason=generation.finish_reason,
            usage=generation.usage,
        )


def _jobs(
    prompts: Iterable[Prompt],
    settings: SampleTeacher,
    inputs: Mapping[str, Path],
    model: Path | None,
) -> Iterator[Job[Response]]:
    """Yield prompt by prompt all candidates at all temperatures."""
    tokenizer = load_tokenizer(model) if model and not settings.engine.own_template else None
    few_shot = read_few_shot(inputs[settings.few_shot] if settings.few_shot else None)
    for prompt in prompts:
        turns = all_turns(prompt.messages, settings.system_prompt, few_shot)
        text = render_turns(tokenizer, turns) if tokenizer else ""
        for temperature in settings.temperatures:
            for number in range(settings.num_candidates):
                seed = derive_seed(settings.seed, "sample", prompt.prompt_id, temperature, number)
                wanted = _Candidate(prompt, temperature, number, seed, text)
                request = GenerationRequest(
                    prompt=text,
                    turns=turns,
                    max_new_tokens=settings.max_new_tokens,
                    seed=seed,
                    temperature=temperature,
                    top_p=settings.top_p,
                    stop=tuple(settings.stop),
                )
                yield Job(request=request, record=wanted.response, about=wanted)
