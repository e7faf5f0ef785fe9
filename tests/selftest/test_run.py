import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.errors import UserError
from megatron_dasd.selftest.plan import KILLED, PRECISIONS, Training, write_pipeline
from megatron_dasd.selftest.run import REPORT, _killed, _train, self_test

TOOL = Path(__file__).parents[2] / "tools" / "doctor.py"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and no earlier self-test's; name another"):
        self_test(tmp_path, [])
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_what_fails_is_a_verdict(tmp_path: Path) -> None:
    training = Training("bf16")
    pipeline = load_pipeline(write_pipeline(tmp_path, [training]))
    (verdict,) = _train(pipeline, training, [1.0])
    assert (verdict.check, verdict.state) == ("train bf16, one rank", "failed")
    assert verdict.found == ("stage bf16: its input model has not finished; run that stage first")


def test_a_training_that_ends_before_it_is_killed(tmp_path: Path) -> None:
    pipeline = load_pipeline(write_pipeline(tmp_path, [Training("bf16")]))
    with pytest.raises(UserError, match=r"ended before it was killed \(log: .*killed\.log\)"):
        list(_killed(pipeline, [1.0]))
    assert f"stage {KILLED}: its input" in (tmp_path / f"{KILLED}.log").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1500)  # some 250 s of CPU time
def test_the_whole_self_test_on_the_cpu(tmp_path: Path) -> None:
    """Every precision on one rank, TP2 and CP2; killed, resumed, scored, exported, timed."""
    command = [sys.executable, str(TOOL), "--train", str(tmp_path / "work")]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    report = json.loads((tmp_path / "work" / REPORT).read_text())
    states = {verdict["check"]: verdict["state"] for verdict in report["verdicts"]}
    layouts = ("one rank", "TP2", "CP2")
    cases = [f"{precision}, {layout}" for precision in PRECISIONS for layout in layouts]
    assert states == {
        **{f"train {case}": "passed" for case in cases},
        **{f"memory {case}": "skipped" for case in cases},
        "killed and resumed": "passed",
        "score float32": "passed",
        "score bfloat16": "passed",
        "export": "passed",
        "loss, recompute": "passed",
        "loss, forward": "passed",
    }
    assert "0 of 36 checks failed" in done.stdout
    assert {len(lines) for lines in report["steps"].values()} == {20}
    found = {verdict["check"]: verdict["found"] for verdict in report["verdicts"]}
    assert "resumed from 10" in found["killed and resumed"]
    assert "GPU" in {finding["name"] for finding in report["machine"]}
