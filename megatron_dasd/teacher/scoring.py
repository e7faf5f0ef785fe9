"""Stage score_teacher: the teacher's log-probs of given texts.

For responses that came without log-probs, and for what the student wrote (the report's figures 5
and 6 show the teacher's probability of the student's sentences).  Each text is converted to the
teacher's own delimiters and appended to the teacher's own prompt, as if the teacher had written it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.teacher import ScoreTeacher
from megatron_dasd.engines.base import ScoringRequest
from megatron_dasd.engines.scoring_parts import ScoringJob, score_parts
from megatron_dasd.engines.server_engine import ServerEngine
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
from megatron_dasd.records_io import SetAside, read_records, record_files
from megatron_dasd.text.chat import RefusedTurnsError, all_turns, read_few_shot, render_turns
from megatron_dasd.text.encoding import encode, load_tokenizer
from megatron_dasd.text.harmony import marker_bytes, text_bytes
from megatron_dasd.text.layout import end_of_turn_id
from megatron_dasd.text.thinking import NORMALISED, normalise, to_teacher_form


def run(settings: ScoreTeacher, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write parts of :class:`Response`, one for each input file."""
    model = model_folder(inputs[settings.model])
    tokenizer = load_tokenizer(model)
    few_shot = read_few_shot(inputs[settings.few_shot] if settings.few_shot else None)

    def jobs(file: Path, aside: SetAside) -> Iterator[ScoringJob[Response]]:
        for response in _responses(file, settings, aside):
            job = scoring_job(response, tokenizer, settings, few_shot)
            if isinstance(job, str):
                aside.drop(job, response)
            else:
                yield job

    score_parts(
        record_files(inputs[settings.responses or settings.rollouts or ""]),
        jobs,
        Response,
        folder=folder,
        engine=ServerEngine(settings.server, model),
        on_malformed=settings.on_malformed,
        what="teacher scores",
    )
    return {}


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
    engine: ServerEngine,
) -> Response:
    tokens = TokenLogprobs(token_ids=ids, num_bytes=num_bytes, logprobs=logprobs)
    return replace(response, tokens=tokens, engine=f"{engine.name} on {engine.version}")
