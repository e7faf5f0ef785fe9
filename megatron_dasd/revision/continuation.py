"""Stage continue_teacher: rollouts cut beyond half, continued by the teacher.

METHOD: mixed-policy distillation, steps 2 to 4.  The prefix, in the normalised form that the
student learnt, is written in the teacher's own delimiters after the teacher's own prompt.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.teacher import ContinueTeacher
from megatron_dasd.engines.base import Engine, Generation, GenerationRequest
from megatron_dasd.engines.parts import Job, generate_parts
from megatron_dasd.manifests import model_folder
from megatron_dasd.records import Prompt, Response, Rollout
from megatron_dasd.records_io import SetAside, read_records
from megatron_dasd.revision.cuts import choose_cut
from megatron_dasd.seeds import derive_seed
from megatron_dasd.text.chat import all_turns, read_few_shot, render_turns
from megatron_dasd.text.encoding import load_tokenizer
from megatron_dasd.text.thinking import NORMALISED, to_teacher_form


def run(
    settings: ContinueTeacher, inputs: Mapping[str, Path], folder: StageFolder
) -> dict[str, Any]:
    """Write parts of :class:`Response`, each with its student prefix."""
    aside = SetAside(settings.on_malformed)
    rollouts = read_records(inputs[settings.rollouts], Rollout, aside.malformed)
    prefixes = list(cut_rollouts(rollouts, settings, aside))
    model = model_folder(inputs[settings.model]) if settings.model else None
    generate_parts(
        _jobs(prefixes, settings, inputs, model),
        Response,
        num_jobs=len(prefixes),
        folder=folder,
        model=model,
        model_name=settings.model or "",
        settings=settings.engine,
        aside=aside,
        what="teacher continuations",
    )
    return {"num_prefixes": len(prefixes)}


@dataclass(frozen=True)
class Prefix:
    """The beginning of a rollout that the teacher is to continue."""

    prompt: Prompt
    candidate: int
    """The rollout's number among the prompt's."""
    student_prefix: str
    """In the normalised form."""
    student_prefix_ids: list[int]
    """The student's own token ids, verbatim."""
    teacher_form: str
    """The same text in the teacher's delimiters."""


def cut_rollouts(
    rollouts: Iterator[Rollout], settings: ContinueTeacher, aside: SetAside
) -> Iterator[Prefix]:
    """Cut the rollouts that their cap ended, and set the others aside under a named reason."""
    for rollout in rollouts:
        if rollout.finish_reason != "length":
            aside.drop("ended before the cap", rollout)
        elif prefix := cut_rollout(rollout, settings.cut_from, settings.thinking, settings.seed):
            yield prefix
        else:
            aside.drop("no place to cut", rollout)


def cut_rollout(
    rollout: Rollout, cut_from: float, delimiters: ThinkingFormat, seed: int | None
) -> Prefix | None:
    """Cut one rollout at random; None when it is too short or not in the normalised form."""

    def can_continue(prefix: str) -> bool:
        return to_teacher_form(prefix, delimiters) is not None

    if not rollout.text.startswith(NORMALISED.open.strip()):
        return None
    draw = derive_seed(seed, "cut", rollout.prompt.prompt_id, rollout.candidate)
    kept = choose_cut(rollout.text, rollout.num_bytes, cut_from, draw, can_continue)
    if kept is None:
        return None
    text = rollout.text.encode()[: sum(rollout.num_bytes[:kept])].decode()
    teacher_form = to_teacher_form(text, delimiters)
    assert teacher_form is not None
    return Prefix(rollout.prompt, rollout.candidate, text, rollout.token_ids[:kept], teacher_form)


def _jobs(
    prefixes: list[Prefix],
    settings: ContinueTeacher,
    inputs: Mapping[str, Path],
    model: Path | None,
) -> Iterator[Job[Response]]:
    tokenizer = load_tokenizer(model) if model and not settings.engine.own_template else None
    few_shot = read_few_shot(inputs[settings.few_shot] if settings.few_shot else None)
    for prefix in prefixes:
        prompt = prefix.prompt
        seed = derive_seed(settings.seed, "continue", prompt.prompt_id, prefix.candidate)
        turns = all_turns(prompt.messages, settings.system_prompt, few_shot)
        text = render_turns(tokenizer, turns) + prefix.teacher_form if tokenizer else ""
        request = GenerationRequest(
            prompt=text,
            turns=turns,
            prefix=prefix.teacher_form,
            max_new_tokens=settings.max_new_tokens,
            seed=seed,
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop=tuple(settings.stop),
        )
        record = _Continued(prefix, settings.temperature, seed, text).response
        yield Job(request=request, record=record, about=prefix)


@dataclass(frozen=True)
class _Continued:
    prefix: Prefix
    temperature: float
    seed: int
    teacher_prompt: str

    def response(self, generation: Generation, engine: Engine) -> Response:
        return Response(
            prompt=self.prefix.prompt,
            temperature=self.temperature,
            candidate=self.prefix.candidate,
            seed=self.seed,
            model=engine.name,
            engine=engine.version,
            text=generation.text,
            tokens=generation.tokens,
            finish_reason=generation.finish_reason,
            usage=generation.usage,
            student_prefix=self.prefix.student_prefix,
            student_prefix_ids=self.prefix.student_prefix_ids,
            teacher_prompt=self.teacher_prompt,
        )
