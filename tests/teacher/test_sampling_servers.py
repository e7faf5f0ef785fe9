"""Sampling from servers: every candidate exactly once, whatever happens on the way."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from megatron_dasd.config.base import Engine, Server
from megatron_dasd.config.teacher import SampleTeacher
from megatron_dasd.engines import parts as engine_parts
from megatron_dasd.errors import UserError
from megatron_dasd.records import Prompt, Response
from megatron_dasd.records_io import read_records
from megatron_dasd.teacher import sampling
from tests.conftest import RunStage
from tests.stub_server import MODEL, StubServer, spelled, written_ids

KEY = "sk-nobody-may-read-this"
NUM_KILLS = 8


def settings(url: str, server: dict[str, Any] | None = None, **fields: Any) -> SampleTeacher:
    reached: dict[str, Any] = {"urls": [url], "probe": False, "concurrency": 8, "max_attempts": 3}
    given: dict[str, Any] = {
        "kind": "sample_teacher",
        "model": "teacher",
        "prompts": "prompts",
        "temperatures": [0.6, 1.0],
        "num_candidates": 3,
        "max_new_tokens": 12,
        "engine": Engine(batch_size=4, server=Server(**reached | (server or {}))),
        "seed": 1,
    }
    return SampleTeacher(**given | fields)


@pytest.fixture
def inputs(
    model_dir: Path, make_prompt: Callable[..., Prompt], write_records: Callable[..., Path]
) -> dict[str, Path]:
    prompts = [make_prompt(f"p{i}", "abc" * (i + 1)) for i in range(5)]
    return {"teacher": model_dir, "prompts": write_records("prompts", [prompts])}


def keys_of(folder: Path) -> Counter[tuple[str, float, int]]:
    """How often each (prompt, temperature, candidate) is there, as a record or set aside."""
    found = Counter(
        (r.prompt.prompt_id, r.temperature, r.candidate) for r in read_records(folder, Response)
    )
    for file in folder.glob("set_aside-*.parquet"):
        for row in pq.read_table(file).to_pylist():
            record = json.loads(row["record"])
            found[(record["prompt"]["prompt_id"], record["temperature"], record["candidate"])] += 1
    return found


def wanted(num_prompts: int, num_candidates: int) -> Counter[tuple[str, float, int]]:
    return Counter(
        (f"p{i}", t, c)
        for i in range(num_prompts)
        for t in (0.6, 1.0)
        for c in range(num_candidates)
    )


def test_records_tell_where_they_come_from(
    run_stage: RunStage, tmp_path: Path, inputs: dict[str, Path]
) -> None:
    with StubServer() as stub:
        manifest = run_stage(sampling.run, settings(stub.url), inputs)
    responses = list(read_records(tmp_path / "stage", Response))
    assert [(r.prompt.prompt_id, r.temperature, r.candidate) for r in responses] == list(
        wanted(5, 3)
    )
    assert manifest.counts["generated"] == 30
    for response in responses:
        ids = written_ids({"seed": response.seed, "max_tokens": 12})
        assert response.text == spelled(ids)
        assert response.tokens.token_ids == ids
        assert (response.model, response.engine) == (MODEL, "stub 1.2.3")
        assert response.usage is not None
        assert response.usage.completion_tokens == len(ids)
        assert response.teacher_prompt.endswith("<|im_start|>assistant\n")
    assert len({response.seed for response in responses}) == 30
    assert {(body["temperature"], body["seed"]) for body in stub.bodies} == {
        (response.temperature, response.seed) for response in responses
    }


def test_what_no_server_answers_well_is_set_aside_with_its_reason(
    run_stage: RunStage, tmp_path: Path, inputs: dict[str, Path]
) -> None:
    with StubServer(fault=lambda n, body: "malformed" if body["seed"] % 4 == 0 else None) as stub:
        manifest = run_stage(sampling.run, settings(stub.url), inputs)
    counts = manifest.counts
    failed = counts["dropped: server: malformed JSON"]
    assert 0 < failed < 20
    assert counts["generated"] + failed == 30
    assert counts["fault: malformed JSON"] == 3 * failed
    assert keys_of(tmp_path / "stage") == wanted(5, 3)
    (first, *_) = sorted((tmp_path / "stage").glob("set_aside-*.parquet"))
    row = pq.read_table(first).to_pylist()[0]
    assert row["reason"] == "server: malformed JSON"
    assert row["detail"]


def test_chat_needs_no_tokenizer_and_completions_do(
    run_stage: RunStage, tmp_path: Path, inputs: dict[str, Path]
) -> None:
    with StubServer() as stub:
        run_stage(
            sampling.run,
            settings(stub.url, {"api": "chat"}, model=None, system_prompt="be kind"),
            inputs,
        )
        with pytest.raises(UserError, match="api: completions needs the model's tokenizer"):
            run_stage(sampling.run, settings(stub.url, model=None), inputs, "none")
    assert keys_of(tmp_path / "stage") == wanted(5, 3)
    assert stub.bodies[0]["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "abc"},
    ]


def test_progress_tells_speed_and_faults(
    run_stage: RunStage,
    inputs: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("megatron_dasd.progress.LINE_SECONDS", 0.0)
    with StubServer(fault=lambda n, body: "503" if n in (3, 9) else None) as stub:
        run_stage(sampling.run, settings(stub.url), inputs)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sampling: 0/30 responses"
    assert any(" left, " in line and "tokens/s" in line for line in lines)
    assert lines[-1].startswith("sampling: done: 30/30 responses in ")
    assert lines[-1].endswith(", 2 x http 503")


def test_prompts_are_read_as_they_are_needed(
    run_stage: RunStage, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, written = 0, 0
    original = sampling._candidates

    def counted(*arguments: Any) -> Iterator[Any]:
        nonlocal made
        for candidate in original(*arguments):
            made += 1
            # batches of 4, at most 2 + 4 x 2 / 4 open, and the one that was just taken
            assert made - written <= 4 * (4 + 1)
            yield candidate

    class Counting(engine_parts.BarMeter):
        def take_faults(self) -> dict[str, int]:
            nonlocal written
            written += 4
            return super().take_faults()

    monkeypatch.setattr(sampling, "_candidates", counted)
    monkeypatch.setattr(engine_parts, "BarMeter", Counting)
    with StubServer() as stub:
        run_stage(sampling.run, settings(stub.url, {"concurrency": 2}, num_candidates=10), inputs)
    assert made == 100


# -- killed and started again ---------------------------------------------------------------------

PIPELINE = """\
name: sampling
run_dir: {run_dir}
seed: 1
stages:
  sample:
    kind: sample_teacher
    model: {model}
    prompts: prompts.jsonl
    num_candidates: 4
    max_new_tokens: 12
    engine:
      batch_size: 8
      server:
        urls: [{url}]
        api_key_env: TEACHER_KEY
        concurrency: 16
        deadline_seconds: 2
        max_attempts: 4
"""


def some_faults(number: int, body: dict[str, Any]) -> str | None:
    """About one request in ten goes wrong; the others take their time."""
    if body.get("seed", 1) % 50 == 0:
        return "malformed"  # however often it is asked
    faults = {3: "503", 5: "reset", 7: "truncated", 11: "429 0.1", 13: "no choices"}
    return faults.get(number % 53, "slow")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_random_moments_every_candidate_is_there_once(
    tmp_path: Path, model_dir: Path
) -> None:
    num_prompts = 100
    log, moments, kills = tmp_path / "log", random.Random(5), 0
    with StubServer(fault=some_faults, key=KEY) as stub:
        pipeline = write_pipeline(tmp_path, model_dir, stub.url, num_prompts)
        while True:
            # anywhere within the 100 parts of the run, and in their middle
            parts = moments.randint(0, 8) if kills < NUM_KILLS else None
            status = run_and_kill(pipeline, log, parts, moments.uniform(0, 0.3))
            if status == 0:
                break
            assert status == -signal.SIGKILL, log.read_text()[-3000:]
            kills += 1
        assert kills == NUM_KILLS
        asked = len(stub.bodies)
    folder = tmp_path / "run" / "sample"
    assert keys_of(folder) == wanted(num_prompts, 4)
    # what was answered before a kill and not yet written is all that was asked twice
    assert asked < 800 + (NUM_KILLS + 1) * 8 * 12 + 800
    found = [path for path in tmp_path.rglob("*") if path.is_file() and leaks(path)]
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "told"),
    [
        (signal.SIGINT, 130, "stopped"),
        (signal.SIGTERM, 75, "stopped on SIGTERM"),
        (signal.SIGUSR1, 75, "stopped on SIGUSR1"),
    ],
)
def test_told_to_stop_it_says_so_and_the_next_run_goes_on(
    number: signal.Signals, status: int, told: str, tmp_path: Path, model_dir: Path
) -> None:
    log = tmp_path / "log"
    with StubServer(fault=some_faults, key=KEY) as stub:
        pipeline = write_pipeline(tmp_path, model_dir, stub.url, num_prompts=20)
        assert run_and_kill(pipeline, log, 3, 0.1, number) == status
        assert log.read_text().endswith(f"\n{told}; the same command goes on from here\n")
        assert "Traceback" not in log.read_text()
        assert run_and_kill(pipeline, log, None, 0) == 0
    assert keys_of(tmp_path / "run" / "sample") == wanted(20, 4)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(tmp_path: Path, model_dir: Path) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    run.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(run)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        with StubServer(fault=some_faults, key=KEY) as stub:
            pipeline = write_pipeline(tmp_path, model_dir, stub.url, num_prompts=20)
            assert run_and_kill(pipeline, log, None, 0) == 2
            last = log.read_text().splitlines()[-1]
            assert last.startswith("error: ")
            assert "No space left on device; fix it, the same command goes on from here" in last
            assert "Traceback" not in log.read_text()
            subprocess.run(["mount", "-o", "remount,size=8m", str(run)], check=True)
            assert run_and_kill(pipeline, log, None, 0) == 0
        assert keys_of(run / "sample") == wanted(20, 4)
    finally:
        subprocess.run(["umount", str(run)], check=True)


def write_pipeline(place: Path, model: Path, url: str, num_prompts: int) -> Path:
    """A pipeline file of one sampling stage, 800 requests for 100 prompts."""
    with (place / "prompts.jsonl").open("w") as file:
        for i in range(num_prompts):
            turns = [{"role": "user", "content": "abc"}]
            file.write(json.dumps({"prompt_id": f"p{i}", "messages": turns}) + "\n")
    pipeline = place / "pipeline.yaml"
    pipeline.write_text(PIPELINE.format(run_dir=place / "run", model=model, url=url))
    return pipeline


def run_and_kill(
    pipeline: Path,
    log: Path,
    parts: int | None,
    seconds: float,
    number: signal.Signals = signal.SIGKILL,
) -> int:
    """Run; send a signal some seconds after so many more parts are there.  The exit status."""
    command = [sys.executable, "-m", "megatron_dasd.pipeline", str(pipeline)]
    folder = pipeline.parent / "run" / "sample"
    before = len(list(folder.glob("part-*")))
    said = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        environment = os.environ | {"TEACHER_KEY": KEY}
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        if parts is not None:
            while process.poll() is None and (
                b"sampling: " not in log.read_bytes()[said:]
                or len(list(folder.glob("part-*"))) < before + parts
            ):
                time.sleep(0.01)
            time.sleep(seconds)
            process.send_signal(number)
        return process.wait()


def leaks(path: Path) -> bool:
    """Whether the key stands in a file, in a Parquet file's values too."""
    if path.suffix == ".parquet":
        return KEY in str(pq.read_table(path).to_pylist())
    return KEY.encode() in path.read_bytes()
