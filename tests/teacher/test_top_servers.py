"""Likeliest tokens from servers: exact, of every teacher, in bounded memory, after any kill."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset
from pydantic import ValidationError

from megatron_dasd.artifacts import write_part
from megatron_dasd.config.base import Server
from megatron_dasd.config.pipeline import own_references, resolved
from megatron_dasd.config.teacher import ScoreTopk, TopTeacher
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.data.meta import Document
from megatron_dasd.data.top_codec import decode_top
from megatron_dasd.engines import top_engine
from megatron_dasd.errors import UserError
from megatron_dasd.teacher import top_shards, top_tokens
from tests.conftest import RunStage
from tests.stub_server import MODEL, StubServer, likeliest

K = 4
LENGTHS = [5, 9, 1, 2, 12, 30]


def settings(url: str, reach: dict[str, Any] | None = None, **changes: Any) -> ScoreTopk:
    given: dict[str, Any] = {"data": "data", "model": "model", "teacher": "model", "top_k": K}
    if "teachers" in changes:
        given["teacher"] = None
    elif "server" not in changes:
        given["server"] = reached(url, **(reach or {}))
    return ScoreTopk(kind="score_topk", **(given | changes))


def reached(url: str, **fields: Any) -> Server:
    given: dict[str, Any] = {"urls": [url], "probe": False, "concurrency": 3, "max_attempts": 2}
    return Server(**given | fields)


def packed(folder: Path, lengths: Sequence[int], domains: Sequence[str] = ()) -> Path:
    folder.mkdir()
    data_format = DataFormat(max(64, *lengths), 1, 29, eod_id=2)
    writer = ShardWriter(folder, data_format)
    generator = np.random.default_rng(0)
    documents = []
    for number, length in enumerate(lengths):
        tokens = generator.integers(3, 29, length)
        writer.add(str(number), {"tokens": tokens, "loss_mask": [0, *[1] * (length - 1)]})
        domain = domains[number % len(domains)] if domains else None
        document = Document(
            name=str(number), domain=domain, num_tokens=length, num_loss_tokens=length - 1
        )
        documents.append(document)
    writer.close()
    write_data(folder, [folder], data_format)
    write_part(folder, 0, Document, documents)
    return folder


@pytest.fixture
def inputs(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setattr(top_shards, "SHARD_TOKENS", 10)
    return {"data": packed(tmp_path / "packed", LENGTHS, ["math", "code"]), "model": model_dir}


def assert_stubs(data: Path, stage: Path, unscored: Sequence[int] = ()) -> None:
    """Every document has exactly what the stub says of it."""
    tokens, top = (IndexedDataset(str(p)) for p in (data / "tokens", stage / "data/teacher_topk"))
    assert len(tokens) == len(top)
    for number, text in enumerate(tokens):
        ids, logprobs = decode_top(top[number], len(text), K)
        assert (ids[0] == -1).all()
        if number in unscored:
            assert (ids == -1).all()
            continue
        for at in range(1, len(text)):
            expected = likeliest(int(text[at - 1]), K)
            assert ids[at].tolist() == [token for token, _ in expected]
            np.testing.assert_allclose(logprobs[at], [p for _, p in expected], atol=1e-5)


@pytest.mark.parametrize("rescore_by", ["prompt_logprobs", "sglang"])
def test_every_position_of_every_document(
    rescore_by: str,
    run_stage: RunStage,
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # windows of 7 positions
    monkeypatch.setattr(top_engine, "MOST_BYTES", (1 << 20) + 64 * (K + 1) * 7)
    with StubServer() as stub:
        given = settings(stub.url, {"rescore_by": rescore_by})
        manifest = run_stage(top_tokens.run, given, inputs)
    assert manifest.figures == {"num_documents": 6, "top_k": K}
    assert_stubs(inputs["data"], tmp_path / "stage")
    meta = json.loads((tmp_path / "stage/data/meta.json").read_text())
    assert meta["teachers"] == {"": MODEL}
    asked = [length for length in LENGTHS if length > 1]
    if rescore_by == "sglang":
        starts = sorted(body["logprob_start_len"] for body in stub.bodies)
        assert starts == sorted(at for n in asked for at in range(0, n - 1, 7))
    else:
        assert sorted(len(body["prompt"]) for body in stub.bodies) == sorted(asked)
        assert {body["prompt_logprobs"] for body in stub.bodies} == {K}


def test_a_document_that_is_not_answered_well_is_unknown_and_counted(
    run_stage: RunStage, inputs: dict[str, Path], tmp_path: Path
) -> None:
    with StubServer(fault=lambda n, body: "500" if len(body["prompt"]) == 9 else None) as stub:
        manifest = run_stage(top_tokens.run, settings(stub.url), inputs)
    assert manifest.figures["unscored"] == {"server: http 500": 1}
    assert manifest.figures["faults"] == {"fault: http 500": 2}
    assert_stubs(inputs["data"], tmp_path / "stage", unscored=[1])


def test_each_domain_has_its_teacher(
    run_stage: RunStage, inputs: dict[str, Path], tmp_path: Path
) -> None:
    with StubServer(model="one") as one, StubServer(model="two") as two:
        teachers = {
            domain: TopTeacher(model="model", server=reached(stub.url))
            for domain, stub in (("math", one), ("code", two))
        }
        run_stage(top_tokens.run, settings("", teachers=teachers), inputs)
        assert sorted(len(body["prompt"]) for body in one.bodies) == [5, 12]
        assert sorted(len(body["prompt"]) for body in two.bodies) == [2, 9, 30]
        with pytest.raises(UserError, match=r"document 0: domain 'math' has no teacher; .* code"):
            run_stage(
                top_tokens.run, settings("", teachers={"code": teachers["code"]}), inputs, "x"
            )
    assert_stubs(inputs["data"], tmp_path / "stage")
    meta = json.loads((tmp_path / "stage/data/meta.json").read_text())
    assert meta["teachers"] == {"math": "one", "code": "two"}


def test_the_pipeline_finds_the_teachers() -> None:
    teachers = {"math": TopTeacher(model="big", server=reached("http://a/v1"))}
    given = settings("", teachers=teachers)
    assert list(own_references(given)) == ["data", "model", "big"]
    placed = resolved(given, {"big": Path("/run/big"), "data": Path("/run/data")})
    assert list(own_references(placed)) == ["/run/data", "model", "/run/big"]
    assert not given.needs_gpus
    assert settings("http://a/v1").services == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher": None, "server": None}, "give teacher or teachers"),
        ({"server": reached("http://a/v1", rescore_by="echo")}, "echo names tokens by text"),
    ],
)
def test_settings_that_cannot_be_meant(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings("http://a/v1", **fields)


def test_an_answer_that_would_not_fit_is_refused_before_anything_is_asked(
    run_stage: RunStage, inputs: dict[str, Path]
) -> None:
    with (
        StubServer() as stub,
        pytest.raises(
            UserError, match=r"document 5 has 30 tokens: .* set memory_mib to at least 4"
        ),
    ):
        run_stage(top_tokens.run, settings(stub.url, memory_mib=1), inputs)
    assert stub.bodies == []


def test_answers_in_flight_share_their_room(
    run_stage: RunStage, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Each may take 1 MiB and a little: half of 5 MiB is room for two."""
    with StubServer(fault=lambda n, body: "slow") as stub:
        run_stage(top_tokens.run, settings(stub.url, {"concurrency": 6}, memory_mib=5), inputs)
        assert stub.most_in_flight == 2
    assert_stubs(inputs["data"], tmp_path / "stage")


def test_the_probe_refuses_tempered_scores(run_stage: RunStage, inputs: dict[str, Path]) -> None:
    """The stub draws by one distribution and lists the likeliest tokens of another."""
    with (
        StubServer() as stub,
        pytest.raises(UserError, match="not those of the untempered distribution"),
    ):
        run_stage(top_tokens.run, settings(stub.url, {"probe": True}), inputs)


def test_another_tokenizer_is_refused(
    run_stage: RunStage, inputs: dict[str, Path], random_model_dir: Path
) -> None:
    given = settings("http://127.0.0.1:1/v1", teacher="other")
    with pytest.raises(UserError, match="needs a teacher that shares the tokenizer"):
        run_stage(top_tokens.run, given, inputs | {"other": random_model_dir})


# -- killed and started again ---------------------------------------------------------------------

PIPELINE = """\
name: top
run_dir: {run_dir}
stages:
  top:
    kind: score_topk
    data: packed
    model: {model}
    teacher: {model}
    top_k: 4
    server: {{urls: [{url}], concurrency: 8, deadline_seconds: 20, max_attempts: 9, probe: false}}
"""


def some_faults(number: int, body: dict[str, Any]) -> str | None:
    faults = {3: "503", 5: "reset", 7: "truncated", 11: "429 0.1", 13: "no choices"}
    return faults.get(number % 53, "slow" if number % 8 == 0 else None)


PROGRAM = """\
import runpy, sys
from megatron_dasd.teacher import top_shards
top_shards.SHARD_TOKENS = 500
sys.argv = ["pipeline", sys.argv[1]]
runpy.run_module("megatron_dasd.pipeline", run_name="__main__")
"""


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_killed_at_random_moments_the_result_is_the_same(tmp_path: Path, model_dir: Path) -> None:
    lengths = np.random.default_rng(1).integers(100, 300, 120).tolist()
    data, moments, kills = packed(tmp_path / "packed", lengths), random.Random(3), 0
    with StubServer(fault=some_faults) as stub:
        pipeline = tmp_path / "pipeline.yaml"
        text = PIPELINE.format(run_dir=tmp_path / "run", model=model_dir, url=stub.url)
        pipeline.write_text(text)
        shards = tmp_path / "run/top/.shards.tmp"
        while (status := run_and_kill(pipeline, shards, moments if kills < 3 else None)) != 0:
            assert status == -signal.SIGKILL, (tmp_path / "log").read_text()[-2000:]
            kills += 1
        assert kills == 3
        # what was in flight or in open shards at a kill is all that was asked twice
        assert len(stub.bodies) < 3 * len(lengths)
    assert_stubs(data, tmp_path / "run/top")


def run_and_kill(pipeline: Path, shards: Path, moments: random.Random | None) -> int:
    """Run; kill it some time after one more shard is there.  The exit status."""
    command = [sys.executable, "-c", PROGRAM, str(pipeline)]
    before = len(list(shards.glob("*.json")))
    with (pipeline.parent / "log").open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ)
        if moments is not None:
            while process.poll() is None and len(list(shards.glob("*.json"))) <= before:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.2))
            process.kill()
        return process.wait()
