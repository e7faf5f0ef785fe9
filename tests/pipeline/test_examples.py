"""Examples run whole, as a reader runs them: minutes each, so by hand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(7200)]


def report_of(example: str, run_dir: Path) -> dict[str, Any]:
    """Run an example to its end and read its report."""
    pipeline = str(EXAMPLES / example / "pipeline.yaml")
    program = [sys.executable, "-m", "megatron_dasd.pipeline"]
    subprocess.run([*program, pipeline, "--run-dir", str(run_dir)], check=True)
    found: dict[str, Any] = json.loads((run_dir / "report.json").read_text())
    return found


def test_the_student_of_the_demo_learns_the_task(tmp_path: Path) -> None:
    report = report_of("demo", tmp_path)
    models = report["accuracy"]
    assert list(models) == ["teacher", "before", "stage1", "stage2", "stage3"]
    assert {model["num_prompts"] for model in models.values()} == {320}
    # it holds the form beforehand: what it gains is the task
    assert models["before"]["answered"] >= 0.9
    assert report["gain"]["low"] > 0
    # stage 3 takes nothing away beyond the interval
    assert report["stage_gains"]["stage3"]["high"] >= 0


def test_the_student_of_smollm2_learns_the_form(tmp_path: Path) -> None:
    report = report_of("cpu_tiny", tmp_path)
    models = report["accuracy"]
    assert list(models) == ["before", "stage2", "stage3"]
    assert models["before"]["answered"] < 0.5 < models["stage3"]["answered"]
    assert report["heldout_nll"]["stage3"] < report["heldout_nll"]["before"] - 1
