"""The training program under torchrun, with Megatron's own flags and none of the architecture's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.checkpoint.artifact import TRACKER, open_checkpoint
from megatron_dasd.checkpoint.seal import SEAL

TOOLS = Path(__file__).parents[2] / "tools"
ENVIRONMENT = os.environ | {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "OMP_NUM_THREADS": "1"}
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]


def run(*command: Any) -> subprocess.CompletedProcess[str]:
    """Run a Python program."""
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_program_by_hand_equals_the_stage(workshop: Any, tmp_path: Path) -> None:
    """Curve and progress; its checkpoints are sealed and few; a damaged one is named, set aside."""
    steps = [line for line in workshop.train("by stage") if "loss" in line]
    saves = tmp_path / "saves"
    flags = {
        "dasd-hf-model": workshop.models["llama"],
        "dasd-data": workshop.data,
        "dasd-metrics": tmp_path / "metrics.jsonl",
        "dasd-keep-checkpoints": 2,
        "tensor-model-parallel-size": 2,
        "pretrained-checkpoint": open_checkpoint(workshop.checkpoints["llama"]).folder,
        "load": saves,
        "save": saves,
        "save-interval": 5,
        "dasd-epochs": 2.5,
        "global-batch-size": 4,
        "lr": 1e-3,
        "min-lr": 1e-4,
        "lr-decay-style": "cosine",
        "weight-decay": 0.1,
        "adam-beta2": 0.95,
        "clip-grad": 1.0,
        "seed": 11,
        "log-interval": 1,
    }
    typed = [str(x) for name, value in flags.items() for x in (f"--{name}", value)]
    command = [*TORCHRUN, TOOLS / "pretrain_dasd.py", *typed, "--sequence-parallel"]
    done = run(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [line["iteration"] for line in steps]
    for line, wanted in zip(lines, steps, strict=True):
        assert line["loss"] == pytest.approx(wanted["loss"], rel=2e-6)
    assert done.stdout.count(f"training: done: {len(steps)}/{len(steps)} steps in ") == 1
    assert sorted(path.parent.name for path in saves.glob(f"iter_*/{SEAL}")) == [
        "iter_0000010",
        "iter_0000015",
    ]

    wrong = run(*command, "--num-layers", "3")
    assert wrong.returncode != 0
    assert "error: --num-layers 3 contradicts the model's 4" in wrong.stderr

    part = next((saves / "iter_0000015").glob("*.distcp"))
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    refused = run(*command)
    assert refused.returncode != 0
    advice = f"other content than when it was saved; tools/repair_checkpoints.py {saves} sets it"
    assert f"error: {part}: {advice} aside" in refused.stderr
    mended = run(TOOLS / "repair_checkpoints.py", saves)
    assert mended.stdout.splitlines()[-1] == f"{saves}: training resumes with iteration 11"
    assert (saves / TRACKER).read_text() == "10"
    assert run(TOOLS / "repair_checkpoints.py", tmp_path / "nowhere").returncode == 2
    assert run(*command).returncode == 0
    again = (tmp_path / "metrics.jsonl").read_text().splitlines()[len(steps) :]
    assert [json.loads(line)["loss"] for line in again] == [line["loss"] for line in lines[10:]]
