"""Several teachers by domain: each answers its own prompts, and records say whose they are."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from megatron_dasd.config.base import Engine, Server, ThinkingFormat
from megatron_dasd.config.pipeline import own_references
from megatron_dasd.config.teacher import SampleTeacher, ScoreTeacher, ScoringTeacher, Teacher
from megatron_dasd.errors import UserError
from megatron_dasd.records import NO_TOKENS, Prompt, Response
from megatron_dasd.records_io import read_records
from megatron_dasd.teacher import sampling, scoring
from tests.conftest import RunStage
from tests.stub_server import StubServer, logprob_of, next_logprobs

DOMAINS = ["math", "code", "code", "math", "math"]


@pytest.fixture
def stubs() -> Iterator[dict[str, StubServer]]:
    with StubServer(model="of-math") as one, StubServer(model="of-code") as two:
        yield {"math": one, "code": two}


def server(stub: StubServer, **fields: Any) -> Server:
    return Server(urls=[stub.url], concurrency=2, max_attempts=2, probe=False, **fields)


def sample(stubs: dict[str, StubServer], **fields: Any) -> SampleTeacher:
    given: dict[str, Any] = {
        "kind": "sample_teacher",
        "prompts": "prompts",
        "temperatures": [1.0],
        "num_candidates": 2,
        "max_new_tokens": 12,
        "engine": Engine(batch_size=3),
        "teachers": {
            domain: Teacher(model="teacher", server=server(stub)) for domain, stub in stubs.items()
        },
        "seed": 1,
    }
    return SampleTeacher(**given | fields)


@pytest.fixture
def inputs(
    model_dir: Path, make_prompt: Callable[..., Prompt], write_records: Callable[..., Path]
) -> dict[str, Path]:
    prompts = [make_prompt(f"p{i}", "abc", domain=d) for i, d in enumerate(DOMAINS)]
    return {"teacher": model_dir, "prompts": write_records("prompts", [prompts])}


def test_each_domain_is_sampled_from_its_teacher(
    stubs: dict[str, StubServer], run_stage: RunStage, tmp_path: Path, inputs: dict[str, Path]
) -> None:
    manifest = run_stage(sampling.run, sample(stubs), inputs)
    assert manifest.counts["generated"] == 10
    responses = list(read_records(tmp_path / "stage", Response))
    assert [(r.prompt.prompt_id, r.model) for r in responses] == [
        (f"p{i}", f"of-{domain}") for i, domain in enumerate(DOMAINS) for _ in range(2)
    ]
    assert {r.engine for r in responses} == {"stub 1.2.3"}
    assert (len(stubs["math"].bodies), len(stubs["code"].bodies)) == (6, 4)


def test_texts_do_not_depend_on_how_many_teachers_there_are(
    stubs: dict[str, StubServer], run_stage: RunStage, tmp_path: Path, inputs: dict[str, Path]
) -> None:
    run_stage(sampling.run, sample(stubs), inputs, "several")
    alone = sample({}, model="teacher", engine=Engine(batch_size=3, server=server(stubs["math"])))
    run_stage(sampling.run, alone, inputs, "alone")
    several, one = (
        [(r.key, r.seed, r.text) for r in read_records(tmp_path / name, Response)]
        for name in ("several", "alone")
    )
    assert several == one


def test_a_tempering_server_is_found_whenever_its_first_request_comes(
    stubs: dict[str, StubServer], run_stage: RunStage, inputs: dict[str, Path]
) -> None:
    stubs["code"].temper = lambda logprob, temperature: logprob / 2
    teachers = {
        domain: Teacher(model="teacher", server=server(stub).model_copy(update={"probe": True}))
        for domain, stub in stubs.items()
    }
    # the first batch is all math
    settings = sample(stubs, teachers=teachers, engine=Engine(batch_size=1))
    with pytest.raises(UserError, match="not those of the untempered distribution"):
        run_stage(sampling.run, settings, inputs)


def test_a_domain_without_a_teacher_is_refused_at_the_start(
    stubs: dict[str, StubServer], run_stage: RunStage, inputs: dict[str, Path]
) -> None:
    settings = sample({"math": stubs["math"]})
    with pytest.raises(UserError, match="p1: domain 'code' has no teacher; teachers names math"):
        run_stage(sampling.run, settings, inputs)
    assert stubs["math"].bodies == []


def test_settings(stubs: dict[str, StubServer]) -> None:
    settings = sample(stubs)
    assert set(own_references(settings)) == {"prompts", "teacher"}
    assert not settings.needs_gpus
    with pytest.raises(ValidationError, match="leave model and engine.server out"):
        sample(stubs, model="teacher")
    with pytest.raises(ValidationError, match="give model and server, or teachers"):
        ScoreTeacher(kind="score_teacher", model="teacher", responses="given")


def test_each_domain_is_scored_by_its_teacher_in_its_own_delimiters(
    stubs: dict[str, StubServer],
    run_stage: RunStage,
    tmp_path: Path,
    model_dir: Path,
    make_response: Callable[..., Response],
    make_prompt: Callable[..., Prompt],
    write_records: Callable[..., Path],
) -> None:
    given = [
        make_response("xab" + "z" + "c", tokens=NO_TOKENS, prompt=make_prompt(f"p{i}", domain=d))
        for i, d in enumerate(DOMAINS)
    ]
    inputs = {"teacher": model_dir, "given": write_records("given", [given[:3], given[3:]])}
    own = ThinkingFormat(open="k", close="q")
    teachers = {
        "math": ScoringTeacher(model="teacher", server=server(stubs["math"])),
        "code": ScoringTeacher(model="teacher", server=server(stubs["code"]), thinking=own),
    }
    base = ThinkingFormat(open="x", close="z")
    settings = ScoreTeacher(
        kind="score_teacher", teachers=teachers, responses="given", given=base, thinking=base
    )
    run_stage(scoring.run, settings, inputs)
    scored = list(read_records(tmp_path / "stage", Response))
    assert [r.text for r in scored] == [{"math": "xabzc", "code": "kabqc"}[d] for d in DOMAINS]
    assert [r.engine for r in scored] == [f"of-{d} on stub 1.2.3" for d in DOMAINS]
    assert all(
        r.tokens.logprobs == [logprob_of(token) for token in r.tokens.token_ids] for r in scored
    )
    only = settings.model_copy(update={"teachers": {"math": teachers["math"]}})
    with pytest.raises(UserError, match="domain 'code' has no teacher"):
        run_stage(scoring.run, only, inputs, "refused")


def test_given_texts_are_scored_by_sglangs_own_api(
    stubs: dict[str, StubServer],
    run_stage: RunStage,
    tmp_path: Path,
    model_dir: Path,
    make_response: Callable[..., Response],
    write_records: Callable[..., Path],
) -> None:
    inputs = {
        "teacher": model_dir,
        "given": write_records("given", [[make_response("abc", tokens=NO_TOKENS)]]),
    }
    reached = server(stubs["math"], rescore_by="sglang")
    settings = ScoreTeacher(
        kind="score_teacher", model="teacher", server=reached, responses="given"
    )
    run_stage(scoring.run, settings, inputs)
    (scored,) = read_records(tmp_path / "stage", Response)
    (asked,) = stubs["math"].bodies
    ids = asked["input_ids"]
    assert scored.tokens.logprobs == [
        next_logprobs(before)[own] for before, own in zip(ids[-5:-1], ids[-4:], strict=True)
    ]
