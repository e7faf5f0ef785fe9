"""Import, filter and selection on several processes, killed at random moments, and under MPI: the
files are those of an undisturbed run in one process."""

import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_dasd.manifests import LOGS, MANIFEST
from megatron_dasd.pipeline.cli import main
from megatron_dasd.records import Response, ScoredResponse, Span, TokenLogprobs
from megatron_dasd.text.thinking import NORMALISED, normalise

NUM_KILLS = 4
NUM_PARTS, PART_SIZE = 8, 8
NUM_RELEASED = 160
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(  # what takes seconds to import is imported once
    [
        "megatron_dasd.filters.runner",
        "megatron_dasd.divergence.runner",
        "megatron_dasd.sources.responses",
    ]
)
Make = Callable[..., Any]


def tokens(chance: random.Random, size: int) -> TokenLogprobs:
    return TokenLogprobs(
        token_ids=chance.choices(range(3, 29), k=size),
        num_bytes=[1] * size,
        logprobs=[-chance.expovariate(2.0) for _ in range(size)],
    )


def made_up(chance: random.Random, number: int, make_response: Make, make_prompt: Make) -> Any:
    """A response of some hundred sentences; every fifth says one of them over and over."""
    words = ["".join(chance.choices("abcdefghij", k=5)) for _ in range(900)]
    thinking = "".join(f"{w}{'. ' if n % 9 == 8 else ' '}" for n, w in enumerate(words)).strip()
    if number % 5 == 0:
        thinking += "\nso it is so" * 9
    normalised = normalise(NORMALISED.open + thinking + NORMALISED.close + "end", NORMALISED)
    assert normalised is not None
    size = len(normalised.output)
    return make_response(
        normalised.output,
        ScoredResponse,
        prompt=make_prompt(f"p{number % 40}"),
        candidate=number,
        tokens=tokens(chance, size),
        output=normalised.output,
        output_spans=normalised.output_spans,
        text_spans=[Span(start=s.start, end=s.end) for s in normalised.output_spans],
        student_tokens=tokens(chance, size),
        student_model="student",
    )


@pytest.fixture
def pipeline(
    tmp_path: Path,
    make_response: Make,
    make_prompt: Make,
    write_records: Make,
    model_dir: Path,
) -> Path:
    """A pipeline file of the three stages over made-up inputs."""
    chance = random.Random(5)
    records = [made_up(chance, n, make_response, make_prompt) for n in range(NUM_PARTS * PART_SIZE)]
    parts = [records[n : n + PART_SIZE] for n in range(0, len(records), PART_SIZE)]
    write_records("scored", parts)
    names = Response.__dataclass_fields__
    plain = [[Response(**{n: getattr(r, n) for n in names}) for r in part] for part in parts]
    write_records("responses", plain)
    released = [released_row(chance, number) for number in range(NUM_RELEASED)]
    with (tmp_path / "texts.jsonl").open("w") as file:
        file.writelines(json.dumps(text) + "\n" for text, _ in released)
    table = pa.Table.from_pylist([logprobs for _, logprobs in reversed(released)])
    pq.write_table(table, tmp_path / "logprobs.parquet")
    plan = {
        "name": "kill",
        "run_dir": "run",
        "stages": {
            "import": {
                "kind": "import_responses",
                "format": "superior-reasoning",
                "files": ["texts.jsonl"],
                "logprobs": ["logprobs.parquet"],
                "tokenizer": str(model_dir),
                "temperature": 0.6,
            },
            "filter": {
                "kind": "filter_responses",
                "responses": ["responses"],
                "student": str(model_dir),
                "max_length": 100_000,
                "num_workers": 3,
            },
            "select": {"kind": "select_das", "responses": "scored", "num_workers": 3},
        },
    }
    (tmp_path / "pipeline.yaml").write_text(json.dumps(plan))
    return tmp_path / "pipeline.yaml"


def released_row(chance: random.Random, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A text of letters, which are all that the tests' tokenizer knows, and its log-probs."""
    letters = chance.choices(range(26), k=3000)
    thinking = "".join(chr(ord("a") + letter) for letter in letters)
    ids = [0, *(3 + letter for letter in letters), 1, 3]
    text = {
        "uuid": f"u{number}",
        "input": f"q{number % 50}",
        "output": f"<think>\n{thinking}\n</think>\n\na",
    }
    logprobs = [-chance.expovariate(2.0) for _ in ids]
    return text, {"sample_uuid": f"u{number}", "token_ids": ids, "logprobs": logprobs}


def run(
    pipeline: Path, stage: str, run_dir: Path, kill_after: float | None = None, *more: str
) -> bool:
    """Run a stage, or kill it at a moment; returns whether it has finished."""
    arguments = [str(pipeline), "--run-dir", str(run_dir), "--only", stage, *more]
    process = PROCESSES.Process(target=main, args=(arguments,))
    process.start()
    process.join(kill_after)
    process.kill()
    process.join()
    return (run_dir / stage / MANIFEST).exists()


def result(folder: Path) -> dict[str, Any]:
    """What must be the same: the bytes of all files, and the manifest but for its wall time."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST and LOGS not in path.parts
    }
    manifest = json.loads((folder / MANIFEST).read_text())
    return {**files, MANIFEST: {k: v for k, v in manifest.items() if k != "seconds"}}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", ["import", "filter", "select"])
def test_killed_again_and_again_the_files_are_the_same(
    stage: str, pipeline: Path, tmp_path: Path
) -> None:
    one_process = ("--set", f"{stage}.num_workers=1")
    assert run(pipeline, stage, tmp_path / "one", None, *one_process)  # imports, and caches
    expected = result(tmp_path / "one" / stage)
    started = time.monotonic()
    assert run(pipeline, stage, tmp_path / "undisturbed")
    seconds = time.monotonic() - started
    assert result(tmp_path / "undisturbed" / stage) == expected
    assert sum(name.startswith("part-") for name in expected) >= 5
    print(f"{stage}: {seconds:.2f} s undisturbed")
    moments = random.Random(11)
    kills = attempts = 0
    while kills < NUM_KILLS:
        if run(pipeline, stage, tmp_path / "killed", moments.uniform(0, 0.7) * seconds):
            assert result(tmp_path / "killed" / stage) == expected
            shutil.rmtree(tmp_path / "killed")  # it finished before the moment came: once more
        else:
            kills += 1
        attempts += 1
        assert attempts < 20 * NUM_KILLS
    assert run(pipeline, stage, tmp_path / "killed")
    assert result(tmp_path / "killed" / stage) == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("mpi4py") is None, reason="needs the extra mpi")
def test_mpi_gives_the_same_bytes(pipeline: Path, tmp_path: Path) -> None:
    """One rank hands out work to two others, that of the digests too."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    program = [sys.executable, "-m", "mpi4py.futures", "-m", "megatron_dasd.pipeline"]
    done = subprocess.run(
        [mpiexec, "-n", "3", *program, pipeline, "--run-dir", tmp_path / "mpi"],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for stage in ("import", "filter", "select"):
        assert run(pipeline, stage, tmp_path / "one", None, "--set", f"{stage}.num_workers=1")
        assert result(tmp_path / "mpi" / stage) == result(tmp_path / "one" / stage)
