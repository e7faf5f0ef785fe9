"""Stage score_teacher: the teacher's log-probs of given texts.

For responses that came without log-probs, and for what the student wrote (the report's figures 5
and 6 show the teacher's probability of the student's sentences).  Each text is converted to the
teacher's own delimiters and appended to the teacher's own prompt, as if the teacher had written it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.teacher import ScoreTeacher
from megatron_dasd.engines.base import Engine, ScoringRequest, no_teacher
from megatron_dasd.engines.panel import Panel
from megatron_dasd.engines.scoring_parts import ScoringJob, score_parts
from megatron_dasd.engines.server_engine import ServerEngine
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures
from megatron_dasd.manifests import model_folder
from megatron_dasd.records import (
    NO_TOKENS,
    Message,
    Response,
    Rollout,
    TokenLogprobs,
    student_response,
)
from megatron_dasd.records_io import (
    SetAside,
    ignore_malformed,
    open_parquet,
    parquet_errors,
    read_records,
    record_files,
)
from megatron_dasd.text.chat import RefusedTurnsError, all_turns, read_few_shot, render_turns
from megatron_dasd.text.encoding import encode, load_tokenizer
from megatron_dasd.text.harmony import marker_bytes, text_bytes
from megatron_dasd.text.layout import end_of_turn_id
from megatron_dasd.text.thinking import NORMALISED, normalise, to_teacher_form


def run(settings: ScoreTeacher, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write parts of :class:`Response`, one for each input file."""
    of_teachers = settings.of_teachers
    folders = {name: model_folder(inputs[own.model or ""]) for name, own in of_teachers.items()}
    tokenizers = {name: load_tokenizer(folder) for name, folder in folders.items()}
    few_shot = read_few_shot(inputs[settings.few_shot] if settings.few_shot else None)
    files = record_files(inputs[settings.responses or settings.rollouts or ""])
    if settings.teachers:
        _require_teachers(files, settings)

    def jobs(file: Path, aside: SetAside) -> Iterator[ScoringJob[Response]]:
        for response in _responses(file, settings, aside):
            name = response.prompt.domain if settings.teachers else ""
            job = scoring_job(response, tokenizers[name], of_teachers[name], few_shot)
            if isinstance(job, str):
                aside.drop(job, response)
            else:
                yield replace(job, request=replace(job.request, teacher=name))

    engines = {
        name: ServerEngine(own.server, folders[name])
        for name, own in of_teachers.items()
        if own.server
    }
    score_parts(
        files,
        jobs,
        Response,
        folder=folder,
        engine=Panel(engines) if settings.teachers else engines[""],
        on_malformed=settings.on_malformed,
        what="teacher scores",
    )
    return {}


def _require_teachers(files: Sequence[Path], settings: ScoreTeacher) -> None:
    """Make sure that every domain has a teacher.

    Raises:
        UserError: one has none.
    """
    record_type = Response if settings.responses is not None else Rollout
    for file in files:
        for domain in _domains(file, record_type):
            if domain not in settings.teachers:
                raise UserError(no_teacher(str(file), domain, settings.teachers))


def _domains(file: Path, record_type: type[Response] | type[Rollout]) -> Iterator[str]:
    """Domains of a file's records; of Parquet files nothing else is read."""
    if file.suffix != ".parquet":
        for record in read_records(file, record_type, ignore_malformed):
            yield record.prompt.domain
        return
    with parquet_errors(file), open_parquet(file) as opened:
        columns = [opened.schema.column(at).path for at in range(len(opened.schema))]
        if "prompt.domain" not in columns:
            yield "unknown"  # the default
            return
        for batch in opened.iter_batches(columns=["prompt.domain"]):
            yield from batch.column("prompt").field("domain").unique().to_pylist()


def _responses(file: Path, settings: ScoreTeacher, aside: SetAside) -> Iterator[Response]:
    """The texts to be scored, as responses."""
    if settings.responses is not None:
        yield from read_records(file, Response, aside.malformed)
        return
    for rollout in read_records(file, Rollout, aside.malformed):
        if rollout.text:
            yield student_response(rollout)
        else:
            aside.drop("empty", rollout)


def scoring_job(
    response: Response,
    tokenizer: PreTrainedTokenizerBase,
    settings: ScoreTeacher,
    few_shot: list[Message],
) -> ScoringJob[Response] | str:
    """The scoring request of one text; or the reason why it cannot be scored.

    A text that ended by itself is scored with its end-of-turn token.
    """
    given = NORMALISED if settings.rollouts is not None else settings.given
    text = _teacher_text(response, settings, given)
    prefix = to_teacher_form(response.student_prefix, settings.thinking)
    if text is None or (response.student_prefix and prefix is None):
        return "structure"
    turns = all_turns(response.prompt.messages, settings.system_prompt, few_shot)
    tools, variables = response.prompt.tools, settings.chat_template_kwargs
    try:
        prompt = render_turns(tokenizer, turns, tools, variables) + (prefix or "")
    except RefusedTurnsError:
        return "refused by the chat template"
    # harmony's markers are written out in the text; other special tokens belong in none
    ids = encode(tokenizer, text, parse_special=bool(marker_bytes(tokenizer)))
    pieces = text_bytes(tokenizer, ids)
    if b"".join(pieces) != text.encode():
        return "control_marker"
    if response.finish_reason == "stop":
        ids.append(end_of_turn_id(tokenizer, settings.chat_template_kwargs))
        pieces.append(b"")
    unscored = replace(response, text=text, tokens=NO_TOKENS, teacher_prompt=prompt, usage=None)
    return ScoringJob(
        request=ScoringRequest(encode(tokenizer, prompt), ids),
        record=partial(_scored, unscored, ids, [len(piece) for piece in pieces]),
        about=response,
    )


def _teacher_text(
    response: Response, settings: ScoreTeacher, given: ThinkingFormat | None
) -> str | None:
    """The text in the teacher's own delimiters; None when it does not have the format ``given``."""
    if given is None or given == settings.thinking:
        return response.text
    if given == NORMALISED:  # a text that was cut off can be converted too
        return to_teacher_form(response.text, settings.thinking)
    normalised = normalise(response.text, given)
    return to_teacher_form(normalised.output, settings.thinking) if normalised else None


def _scored(
    response: Response,
    ids: list[int],
    num_bytes: list[int],
    logprobs: list[float],
    engine: Engine,
) -> Response:
    tokens = TokenLogprobs(token_ids=ids, num_bytes=num_bytes, logprobs=logprobs)
    return replace(response, tokens=tokens, engine=f"{engine.name} on {engine.version}")
