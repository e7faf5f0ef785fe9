"""Killed at random moments and started again, a run ends as if nothing had happened."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_dasd.checkpoint.hf_folder import HfWeights
from megatron_dasd.manifests import MANIFEST

MICRO = Path(__file__).parents[2] / "examples" / "cpu_micro" / "pipeline.yaml"
NUM_KILLS = 3
LAUNCHED_KINDS = ("import_hf", "train", "report")
"""Their files name the folder they lie in, or tell wall times: compared by what they say."""


def run(run_dir: Path, kill_after: float | None = None) -> int:
    """Run the pipeline, or kill it with all it has at a moment; returns the exit status."""
    program = [sys.executable, "-m", "megatron_dasd.pipeline"]
    command = [*program, str(MICRO), "--run-dir", str(run_dir)]
    with (run_dir.parent / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            return process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def manifests(run_dir: Path) -> dict[str, dict[str, Any]]:
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(run_dir.glob(f"*/{MANIFEST}"))
    }


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_killed_again_and_again_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    started = time.monotonic()
    assert run(undisturbed) == 0, (tmp_path / "log").read_text()[-3000:]
    seconds = time.monotonic() - started
    moments = random.Random(17)
    for _ in range(NUM_KILLS):
        # most moments fall behind the imports, and a run's worth of work falls between all of them
        run(killed, kill_after=moments.uniform(0.02, 0.3) * seconds)
    assert run(killed) == 0, (tmp_path / "log").read_text()[-3000:]

    expected, found = manifests(undisturbed), manifests(killed)
    assert found.keys() == expected.keys()
    for stage, manifest in expected.items():
        assert found[stage]["counts"] == manifest["counts"], stage
        if manifest["kind"] not in LAUNCHED_KINDS:
            assert found[stage]["files"] == manifest["files"], stage
    weights = [HfWeights(folder / "stage3_hf" / "model") for folder in (undisturbed, killed)]
    for name in weights[0].names():
        assert torch.equal(weights[0].read(name), weights[1].read(name)), name


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    assert run(tmp_path / "run") == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert run(tmp_path / "run") == 0
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    published = {"report.html", "report.json"}
    assert {p: t for p, t in after.items() if p.name not in published} == {
        p: t for p, t in before.items() if p.name not in published
    }
