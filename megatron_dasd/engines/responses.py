"""The teacher's responses for a whole stage: to prompts, or continuing what a student began."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.teacher import ContinueTeacher, SampleTeacher
from megatron_dasd.engines.base import Engine, Generation, GenerationRequest
from megatron_dasd.engines.parts import GenerationJob, generate_parts
from megatron_dasd.manifests import model_folder
from megatron_dasd.records import Prompt, Response
from megatron_dasd.records_io import SetAside
from megatron_dasd.text.chat import all_turns, read_few_shot, render_or_refuse
from megatron_dasd.text.encoding import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A response that the teacher is asked for."""

    prompt: Prompt
    temperature: float
    candidate: int
    seed: int
    teacher_prompt: str = ""
    """Added by :func:`generate_responses`: the text that the teacher reads; stays empty where a
    server applies its own template."""


@dataclass(frozen=True, kw_only=True)
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


def generate_responses(
    asked: Iterable[tuple[Candidate, Prefix | None]],
    settings: SampleTeacher | ContinueTeacher,
    inputs: Mapping[str, Path],
    *,
    num_asked: int,
    folder: StageFolder,
    aside: SetAside,
    what: str,
) -> None:
    """Write parts of :class:`Response`.

    Args:
        asked: each candidate, with the prefix that it continues where there is one.
        num_asked: the number of ``asked``.
        folder: see :func:`engines.parts.generate_parts`, as for ``aside`` and ``what``.
    """
    of_teachers = settings.of_teachers if isinstance(settings, SampleTeacher) else {"": settings}
    folders = {
        name: model_folder(inputs[own.model]) if own.model else None
        for name, own in of_teachers.items()
    }
    several = list(of_teachers) != [""]
    make = _JobMaker(of_teachers, inputs, folders)
    generate_parts(
        (partial(make, candidate, prefix) for candidate, prefix in asked),
        Response,
        num_jobs=num_asked,
        folder=folder,
        model=folders.get(""),
        model_name=settings.model or "",
        settings=settings.engine,
        aside=aside,
        what=what,
        open_teachers=partial(_open_teachers, of_teachers, folders) if several else None,
    )


def _open_teachers(
    of_teachers: Mapping[str, SampleTeacher | ContinueTeacher], folders: Mapping[str, Path | None]
) -> Engine:
    from megatron_dasd.engines.panel import Panel  # no HTTP client without servers
    from megatron_dasd.engines.server_engine import ServerEngine

    servers = {name: own.engine.server for name, own in of_teachers.items()}
    return Panel({n: ServerEngine(server, folders[n]) for n, server in servers.items() if server})


class _JobMaker:
    """Makes the requests of a stage's candidates."""

    def __init__(
        self,
        of_teachers: Mapping[str, SampleTeacher | ContinueTeacher],
        inputs: Mapping[str, Path],
        folders: Mapping[str, Path | None],
    ) -> None:
        self._of_teachers = of_teachers
        self._tokenizers = {
            name: load_tokenizer(folder)
            for name, own in of_teachers.items()
            if (folder := folders[name]) and not own.engine.own_template
        }
        examples = next(iter(of_teachers.values())).few_shot  # the same for all
        self._few_shot = read_few_shot(inputs[examples] if examples else None)

    def __call__(self, candidate: Candidate, prefix: Prefix | None) -> GenerationJob[Response]:
        teacher = "" if "" in self._of_teachers else candidate.prompt.domain
        settings, tokenizer = self._of_teachers[teacher], self._tokenizers.get(teacher)
        turns = all_turns(candidate.prompt.messages, settings.system_prompt, self._few_shot)
        beginning = prefix.teacher_form if prefix else ""
        tools, variables = candidate.prompt.tools, settings.chat_template_kwargs
        text, refused = "", ""
        if tokenizer:
            text, refused = render_or_refuse(tokenizer, turns, tools, variables)
            text = text and text + beginning
        made = replace(candidate, teacher_prompt=text)
        request = GenerationRequest(
            prompt=text,
            turns=turns,
            tools=tools,
            prefix=beginning,
            teacher=teacher,
            max_new_tokens=settings.max_new_tokens,
            seed=candidate.seed,
            temperature=candidate.temperature,
            top_p=settings.top_p,
            stop=tuple(settings.stop),
        )
        record = partial(generated_response, made, prefix)
        return GenerationJob(request=request, record=record, about=prefix or made, refused=refused)


def generated_response(
    candidate: Candidate, prefix: Prefix | None, generation: Generation, engine: Engine
) -> Response:
    """What the engine wrote for a candidate, as a response."""
    return Response(
        **vars(candidate),
        **vars(generation),
        model=engine.name,
        engine=engine.version,
        student_prefix=prefix.student_prefix if prefix else "",
        student_prefix_ids=prefix.student_prefix_ids if prefix else [],
    )
