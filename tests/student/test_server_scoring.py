"""The student's log-probs from a server, in place of Megatron's forward pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from megatron_dasd.config.base import Server
from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.records import FilteredResponse, ScoredResponse, Span
from megatron_dasd.records_io import read_records
from megatron_dasd.student import scoring
from tests.conftest import RunStage
from tests.stub_server import MODEL, StubServer, logprob_of


def settings(**fields: Any) -> ScoreStudent:
    return ScoreStudent(kind="score_student", responses="given", model="student", **fields)


def test_every_response_token_is_scored(
    run_stage: RunStage,
    tmp_path: Path,
    model_dir: Path,
    make_prompt: Callable[..., Any],
    make_response: Callable[..., Any],
    write_records: Callable[..., Path],
) -> None:
    given = [
        make_response(
            "abc",
            FilteredResponse,
            prompt=make_prompt(f"p{i}", split="heldout" if i == 2 else "train"),
            output="abc",
            output_spans=[Span(start=0, end=3)],
            text_spans=[Span(start=0, end=3)],
        )
        for i in range(4)
    ]
    inputs = {"student": model_dir, "given": write_records("given", [given[:3], given[3:]])}
    with StubServer(fault=lambda number, body: "503" if number == 0 else None) as stub:
        server = Server(urls=[stub.url], concurrency=4)
        manifest = run_stage(scoring.run, settings(server=server, split="train"), inputs)
    scored = list(read_records(tmp_path / "stage", ScoredResponse))
    assert [record.prompt.prompt_id for record in scored] == ["p0", "p1", "p3"]
    for record in scored:
        assert record.student_tokens.token_ids == [3, 4, 5, 2]
        assert record.student_tokens.num_bytes == [1, 1, 1, 0]
        assert record.student_tokens.logprobs == [logprob_of(i) for i in (3, 4, 5, 2)]
        assert record.student_model == MODEL
    assert manifest.counts == {"scored": 3, "other split": 1, "fault: http 503": 1}


def test_either_a_checkpoint_or_servers() -> None:
    with pytest.raises(ValidationError, match="give checkpoint or server"):
        settings()
    with pytest.raises(ValidationError, match="give checkpoint or server"):
        settings(checkpoint="c", server=Server(urls=["http://a/v1"]))
