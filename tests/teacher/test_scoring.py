"""The teacher's log-probs of given texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tokenizers import AddedToken

from megatron_dasd.config.base import Server, ThinkingFormat
from megatron_dasd.config.teacher import ScoreTeacher
from megatron_dasd.engines.scoring_parts import ScoringJob
from megatron_dasd.records import Prompt, Response, Rollout, TokenLogprobs
from megatron_dasd.records_io import read_records
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.teacher import scoring
from megatron_dasd.text.harmony import MARKERS
from tests.conftest import RunStage
from tests.stub_server import MODEL, StubServer, logprob_of

NO_TOKENS = TokenLogprobs(token_ids=[], num_bytes=[], logprobs=[])
LETTERS = ThinkingFormat(open="x", close="z")


def ids_of(text: str) -> list[int]:
    return [3 + ord(letter) - ord("a") for letter in text]


def settings(url: str, **fields: Any) -> ScoreTeacher:
    server = Server(urls=[url], concurrency=4, max_attempts=2)
    given = {"kind": "score_teacher", "model": "teacher", "server": server}
    return ScoreTeacher(**given | fields)


def test_texts_that_came_without_get_the_teachers(
    run_stage: RunStage,
    tmp_path: Path,
    model_dir: Path,
    make_response: Callable[..., Response],
    write_records: Callable[..., Path],
) -> None:
    given = [
        make_response("abc", tokens=NO_TOKENS, candidate=0),
        make_response("cab", candidate=1, finish_reason="length"),
    ]
    inputs = {"teacher": model_dir, "given": write_records("given", [given[:1], given[1:]])}
    with StubServer() as stub:
        manifest = run_stage(scoring.run, settings(stub.url, responses="given"), inputs)
    first, second = read_records(tmp_path / "stage", Response)
    assert first.tokens.token_ids == [*ids_of("abc"), 2]
    assert first.tokens.num_bytes == [1, 1, 1, 0]
    assert first.tokens.logprobs == [logprob_of(i) for i in [*ids_of("abc"), 2]]
    assert first.engine == f"{MODEL} on stub 1.2.3"
    assert first.teacher_prompt.endswith("<|im_start|>assistant\n")
    # cut off: no end of turn was written
    assert second.tokens.token_ids == ids_of("cab")
    assert (second.candidate, second.model, second.text) == (1, "teacher", "cab")
    assert manifest.counts == {"scored": 2}
    assert all(body["max_tokens"] == 1 for body in stub.bodies)


def test_what_the_student_wrote_in_the_teachers_delimiters(
    run_stage: RunStage,
    tmp_path: Path,
    model_dir: Path,
    make_prompt: Callable[..., Prompt],
    write_records: Callable[..., Path],
) -> None:
    def rollout(text: str, finish_reason: str) -> Rollout:
        return Rollout(
            prompt=make_prompt(),
            token_ids=[1],
            num_bytes=[len(text)],
            text=text,
            max_tokens=9,
            finish_reason=finish_reason,  # type: ignore[arg-type]
            seed=3,
        )

    given = [
        rollout("<think>\nab\n</think>\n\nc", "stop"),
        rollout("<think>\nab", "length"),
        rollout("in no form", "stop"),
    ]
    inputs = {"teacher": model_dir, "rollouts": write_records("rollouts", [given])}
    with StubServer() as stub:
        wanted = settings(stub.url, rollouts="rollouts", thinking=LETTERS)
        manifest = run_stage(scoring.run, wanted, inputs)
    whole, cut = read_records(tmp_path / "stage", Response)
    assert (whole.text, whole.model, whole.seed) == ("xabzc", "student", 3)
    assert whole.tokens.logprobs == [logprob_of(i) for i in [*ids_of("xabzc"), 2]]
    assert (cut.text, cut.tokens.num_bytes) == ("xab", [1, 1, 1])
    assert manifest.counts == {"scored": 2, "dropped: structure": 1}


def test_rollouts_of_one_prompt_keep_keys_of_their_own(
    run_stage: RunStage,
    tmp_path: Path,
    model_dir: Path,
    make_prompt: Callable[..., Prompt],
    write_records: Callable[..., Path],
) -> None:
    given = [
        Rollout(
            prompt=make_prompt(),
            candidate=candidate,
            temperature=temperature,
            token_ids=[1],
            num_bytes=[11],
            text="<think>\nab" + "cde"[number],
            max_tokens=9,
            finish_reason="length",
            seed=number,
        )
        for number, (temperature, candidate) in enumerate([(0.7, 0), (0.7, 3), (1.0, 0)])
    ]
    inputs = {"teacher": model_dir, "rollouts": write_records("rollouts", [given])}
    with StubServer() as stub:
        wanted = settings(stub.url, rollouts="rollouts", thinking=LETTERS)
        run_stage(scoring.run, wanted, inputs)
    scored = list(read_records(tmp_path / "stage", Response))
    prompt_id = make_prompt().prompt_id
    assert [(r.prompt.prompt_id, r.temperature, r.candidate) for r in scored] == [
        (prompt_id, 0.7, 0),
        (prompt_id, 0.7, 3),
        (prompt_id, 1.0, 0),
    ]


def test_a_continuation_is_scored_after_its_prefix(
    run_stage: RunStage,
    tmp_path: Path,
    model_dir: Path,
    make_response: Callable[..., Response],
    write_records: Callable[..., Path],
) -> None:
    given = [make_response("cd", student_prefix="<think>\nab", student_prefix_ids=[7])]
    inputs = {"teacher": model_dir, "given": write_records("given", [given])}
    with StubServer() as stub:
        wanted = settings(stub.url, responses="given", thinking=LETTERS)
        run_stage(scoring.run, wanted, inputs)
    (scored,) = read_records(tmp_path / "stage", Response)
    assert scored.teacher_prompt.endswith("<|im_start|>assistant\nxab")
    assert stub.bodies[0]["prompt"][-6:] == [*ids_of("xab"), *ids_of("cd"), 2]


@pytest.mark.parametrize("end", ["", "<|return|>"])
def test_harmonys_markers_are_scored_as_the_tokens_that_they_are(
    make_response: Callable[..., Response], end: str
) -> None:
    tokenizer = byte_tokenizer("abcdefghijklmnopqrstuvwxyz")
    names = [*MARKERS, "<|return|>"]
    tokenizer.add_tokens([AddedToken(name, special=True) for name in names], special_tokens=True)
    text = "<|channel|>final<|message|>ab" + end
    given = make_response(text, tokens=NO_TOKENS)
    wanted = settings("http://a/v1", responses="given", thinking={"format": "harmony"})
    job = scoring.scoring_job(given, tokenizer, wanted, [])
    if end:  # no text of an answer, and yet it would be read as the end of the turn
        assert job == "control_marker"
    else:
        assert isinstance(job, ScoringJob)
        assert len(job.request.response_ids) == 1 + 5 + 1 + 2 + 1


def test_one_kind_of_text_at_a_time() -> None:
    for fields in ({}, {"responses": "a", "rollouts": "b"}):
        with pytest.raises(ValidationError, match="give responses or rollouts"):
            settings("http://a/v1", **fields)
