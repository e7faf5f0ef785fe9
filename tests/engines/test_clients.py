"""Client processes: the same files as from one, every request once, one bound over all."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import ValidationError

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import Engine, Server, Settings
from megatron_dasd.config.teacher import SampleTeacher, ScoreTeacher
from megatron_dasd.engines.clients import share_among_clients, shares
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures
from megatron_dasd.manifests import read_manifest
from megatron_dasd.pipeline.runner import stage_function
from megatron_dasd.records import Prompt, Response
from tests.conftest import RunStage
from tests.stub_server import StubServer

CONCURRENCY = 30


def run(settings: Settings, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """As the runner runs a stage."""
    share_among_clients(settings, inputs, folder)
    return stage_function(settings.kind)(settings, inputs, folder)


def sampling(server: Server) -> SampleTeacher:
    return SampleTeacher(
        kind="sample_teacher",
        model="teacher",
        prompts="prompts",
        num_candidates=3,
        max_new_tokens=12,
        engine=Engine(batch_size=4, server=server),
        seed=1,
    )


def asked(stub: StubServer, clients: int) -> Server:
    return Server(urls=[stub.url], concurrency=CONCURRENCY, client_processes=clients, probe=False)


@pytest.fixture
def inputs(
    model_dir: Path, make_prompt: Callable[..., Prompt], write_records: Callable[..., Path]
) -> dict[str, Path]:
    prompts = [make_prompt(f"p{i}", "abc" * (i + 1)) for i in range(20)]
    return {"teacher": model_dir, "prompts": write_records("prompts", [prompts])}


def test_the_files_are_those_of_one_process(run_stage: RunStage, inputs: dict[str, Path]) -> None:
    with StubServer() as stub:
        one = run_stage(run, sampling(asked(stub, 1)), inputs, "one")
        by_one, stub.most_in_flight, stub.fault = stub.answered.copy(), 0, lambda *_: "slow"
        stub.answered.clear()
        several = run_stage(run, sampling(asked(stub, 3)), inputs, "several")
        assert stub.answered == by_one  # every seed once: no request twice
        assert 1 < stub.most_in_flight <= CONCURRENCY
    assert (several.files, several.counts) == (one.files, one.counts)
    assert len(several.files) == 30


def test_scores_are_too(
    run_stage: RunStage,
    inputs: dict[str, Path],
    make_response: Callable[..., Response],
    write_records: Callable[..., Path],
) -> None:
    parts = [[make_response(letter * 5, candidate=n) for n in range(3)] for letter in "abcde"]
    given = inputs | {"responses": write_records("responses", parts)}
    with StubServer() as stub:
        settings = [
            ScoreTeacher(
                kind="score_teacher",
                model="teacher",
                responses="responses",
                server=asked(stub, number),
            )
            for number in (1, 2)
        ]
        one = run_stage(run, settings[0], given, "one")
        assert len(stub.bodies) == 15
        two = run_stage(run, settings[1], given, "two")
        assert len(stub.bodies) == 30
    assert (two.files, two.counts) == (one.files, one.counts)


def test_what_fails_in_a_client_is_told_as_from_one_process(
    run_stage: RunStage, inputs: dict[str, Path]
) -> None:
    with StubServer(key="right") as stub, pytest.raises(UserError, match="needs a key"):
        run_stage(run, sampling(asked(stub, 2)), inputs)


def test_parts_that_exist_are_left(run_stage: RunStage, inputs: dict[str, Path]) -> None:
    with StubServer() as stub:
        whole = run_stage(run, sampling(asked(stub, 2)), inputs)
        stub.bodies.clear()
        folder = inputs["prompts"].with_name("stage")
        for name in ("part-00003.parquet", "part-00011.parquet", "manifest.json"):
            (folder / name).unlink()
        again = run_stage(run, sampling(asked(stub, 2)), inputs)
        assert len(stub.bodies) == 8  # two parts of four
    assert again.files == whole.files


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(find_spec("mpi4py") is None, reason="needs the extra mpi")
def test_under_mpi_the_other_ranks_ask(
    run_stage: RunStage, inputs: dict[str, Path], tmp_path: Path
) -> None:
    mpiexec = Path(sys.executable).with_name("mpiexec")
    program = [sys.executable, "-m", "mpi4py.futures", "-m", "megatron_dasd.pipeline"]
    with StubServer() as stub:
        one = run_stage(run, sampling(asked(stub, 1)), inputs, "one")
        by_one = stub.answered.copy()
        stub.answered.clear()
        stage = sampling(asked(stub, 1)).model_dump(mode="json", exclude_unset=True)
        stages = {"sample": stage | {"model": str(inputs["teacher"])}}
        plan = {"name": "mpi", "run_dir": str(tmp_path / "run"), "stages": stages}
        (tmp_path / "pipeline.yaml").write_text(json.dumps(plan))
        done = subprocess.run(
            [mpiexec, "-n", "3", *program, tmp_path / "pipeline.yaml"],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert stub.answered == by_one
    found = read_manifest(tmp_path / "run" / "sample")
    assert found is not None
    assert (found.files, found.counts) == (one.files, one.counts)


def test_shares_add_up() -> None:
    assert shares(7, 3) == [3, 2, 2]
    assert shares(2, 2) == [1, 1]


def test_one_process_has_servers_load_weights() -> None:
    with pytest.raises(ValidationError, match="one alone can have servers load weights"):
        Server(urls=["http://a/v1"], reload="vllm", client_processes=2)
