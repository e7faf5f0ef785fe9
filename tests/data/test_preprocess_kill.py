"""Preprocessing killed at random moments, and under MPI, ends with the bytes of a quiet run."""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from megatron_dasd.manifests import Manifest, read_manifest
from megatron_dasd.records import FilteredResponse, Response, Span
from megatron_dasd.records_io import to_table

TOOL = Path(__file__).parents[2] / "tools" / "preprocess_data.py"
NUM_PARTS, RECORDS_OF_A_PART = 12, 60
NUM_KILLS = 4
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def pipeline(tmp_path: Path, model_dir: Path, make_response: Callable[..., Response]) -> Path:
    """A pipeline file of one stage, with a mix, over files that are a shard each."""
    draw = random.Random(3)
    folder = tmp_path / "responses"
    folder.mkdir()
    for part in range(NUM_PARTS):
        records = []
        for number in range(RECORDS_OF_A_PART):
            thinking = "".join(draw.choices(LETTERS, k=draw.randrange(500, 4000)))
            output = f"<think>\n{thinking}\n</think>\n\nc"
            end = 8 + len(thinking)
            spans = [Span(start=8, end=end), Span(start=end + 11, end=end + 12)]
            given = {"output": output, "output_spans": spans, "text_spans": []}
            response = make_response("x", FilteredResponse, candidate=number, seed=part, **given)
            records.append(response)
        table = to_table(FilteredResponse, records, {})
        pq.write_table(table, folder / f"part-{part:05d}.parquet")
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        f"name: test\nrun_dir: {tmp_path}/run\nstages:\n"
        f"  data: {{kind: preprocess_data, model: {model_dir}, responses: responses, "
        "mix: responses, mix_ratio: 0.5, seq_length: 8192, num_workers: 2}\n"
    )
    return file


def command(pipeline: Path, run_dir: Path, *how: str) -> list[str]:
    # one file of the fixture is a shard: some 0.4 MB
    small = "import megatron_dasd.data.pieces as r; r.plan_shards.__defaults__ = (1,); "
    program = (
        f"import sys, runpy; {small}sys.argv = {[str(TOOL), str(pipeline)]!r} "
        f"+ ['--run-dir', {str(run_dir)!r}, *{list(how)!r}]; "
        f"runpy.run_path({str(TOOL)!r}, run_name='__main__')"
    )
    return [sys.executable, "-c", program]


def finished(run_dir: Path) -> Manifest:
    manifest = read_manifest(run_dir / "data")
    assert manifest is not None
    assert not list((run_dir / "data").glob(".*.tmp"))
    return manifest


def undisturbed(pipeline: Path, place: Path) -> tuple[Manifest, float]:
    """The manifest of a run in one process, and the seconds of one with two workers."""
    one = ["--set", "data.num_workers=1"]
    subprocess.run(command(pipeline, place / "one", *one), check=True, capture_output=True)
    started = time.monotonic()
    subprocess.run(command(pipeline, place / "two"), check=True, capture_output=True)
    seconds = time.monotonic() - started
    assert finished(place / "two").files == finished(place / "one").files
    return finished(place / "one"), seconds


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_again_and_again(pipeline: Path, tmp_path: Path) -> None:
    expected, seconds = undisturbed(pipeline, tmp_path)
    assert expected.counts["kept"] == NUM_PARTS * RECORDS_OF_A_PART
    moments = random.Random(29)
    run_dir = tmp_path / "killed"
    for _ in range(NUM_KILLS):
        process: subprocess.Popen[Any] = subprocess.Popen(
            command(pipeline, run_dir), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(moments.uniform(0.4, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        if (run_dir / "data" / "manifest.json").exists():  # so far on: begin again
            assert finished(run_dir).files == expected.files
            shutil.rmtree(run_dir)
    subprocess.run(command(pipeline, run_dir), check=True, capture_output=True)
    assert finished(run_dir).files == expected.files
    assert finished(run_dir).counts == expected.counts


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mpi4py") is None, reason="needs the extra mpi")
def test_mpi_gives_the_same_bytes(pipeline: Path, tmp_path: Path) -> None:
    expected, _ = undisturbed(pipeline, tmp_path)
    run_dir = tmp_path / "mpi"
    mpiexec = Path(sys.executable).with_name("mpiexec")
    module = [sys.executable, "-m", "mpi4py.futures"]
    done = subprocess.run(
        [mpiexec, "-n", "3", *module, TOOL, pipeline, "--run-dir", run_dir],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # one shard, since the shard size is the default one here
    assert finished(run_dir).counts == expected.counts
    data = {n: f for n, f in expected.files.items() if n.startswith("data/")}
    assert {n: f for n, f in finished(run_dir).files.items() if n.startswith("data/")} == data
