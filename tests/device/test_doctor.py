import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.device import doctor

TOOL = Path(__file__).parents[2] / "tools" / "doctor.py"


def run_tool(*options: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the tool, with a folder put first on the Python path."""
    paths = [str(path)] if path else []
    paths += [str(TOOL.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": ":".join(filter(None, paths)), "COLUMNS": "200"}
    command = [sys.executable, str(TOOL), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in json.loads(done.stdout)}


def write_module(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_says_what_is_here_and_what_is_not() -> None:
    done = run_tool("--json")
    found = findings(done)
    assert list(found) == [
        "Python",
        "cores",
        "memory",
        "disk",
        "container",
        "torch",
        "Megatron-Core",
        "GPU",
        "NCCL",
        "Transformer Engine",
        "apex",
        "linear attention",
        "DALI",
        "MPI",
        "Slurm",
        "containment",
        "attention",
    ]
    assert found["Python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cores"]["found"] == str(len(os.sched_getaffinity(0)))
    assert found["torch"]["state"] == found["Megatron-Core"]["state"] == "on"
    assert found["Megatron-Core"]["found"].startswith("0.19.")
    assert done.returncode == int(any(f["state"] == "broken" for f in found.values()))
    assert all(finding["meaning"] for finding in found.values())


def test_what_breaks_is_told_and_sets_the_exit_status(tmp_path: Path) -> None:
    write_module(tmp_path, "apex/views.py", "")
    write_module(tmp_path, "transformer_engine/__init__.py", "")
    write_module(tmp_path, "transformer_engine/pytorch.py", "raise OSError('no libcudart.so.13')")
    write_module(tmp_path, "mpi4py/__init__.py", "")
    write_module(tmp_path, "mpi4py/MPI.py", "import os; os.abort()")
    done = run_tool("--json", path=tmp_path)
    found = findings(done)
    assert done.returncode == 1
    assert {name for name, finding in found.items() if finding["state"] == "broken"} >= {
        "apex",
        "Transformer Engine",
        "MPI",
    }
    assert "is not NVIDIA's apex" in found["apex"]["meaning"]
    assert "no libcudart.so.13" in found["Transformer Engine"]["meaning"]
    assert "ends the process (-6)" in found["MPI"]["meaning"]


def test_the_table_shows_names_of_extras_whole() -> None:
    text = run_tool().stdout
    assert "Megatron-Core" in text
    for extra, finding in (("te", "Transformer Engine"), ("dali", "DALI")):
        if not doctor.is_installed({"te": "transformer_engine", "dali": "nvidia.dali"}[extra]):
            assert f"pip install 'megatron_dasd[{extra}]'" in text, finding


@pytest.mark.parametrize(
    ("torch", "state", "words"),
    [
        (doctor._Torch(), "off", "FP8 emulated"),
        (doctor._Torch(gpus=[("A100", 8, 0, 80 * 2**30)]), "on", "8.0: bf16, no FP8"),
        (doctor._Torch(gpus=[("H100", 9, 0, 80 * 2**30)]), "on", "9.0: bf16, FP8"),
    ],
)
def test_gpus_by_what_they_can_compute(torch: doctor._Torch, state: str, words: str) -> None:
    finding = doctor._gpu(torch)
    assert finding.state == state
    assert words in finding.meaning


def test_what_transformer_engine_would_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "is_installed", lambda module: False)
    torch = doctor._Torch(gpus=[("H100", 9, 0, 80 * 2**30)])
    on_gpu = doctor._transformer_engine(torch)
    assert on_gpu.state == "off"
    assert "Megatron's own layers train here" in on_gpu.meaning
    assert "builds it with nvcc" in on_gpu.meaning
    assert "train here" not in doctor._transformer_engine(doctor._Torch()).meaning
