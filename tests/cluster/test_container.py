"""The container's installer says what it would do."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

INSTALLER = Path(__file__).parents[2] / "slurm" / "container" / "install.py"


def test_what_the_image_was_built_with_is_pinned_and_not_asked_for() -> None:
    command = [sys.executable, str(INSTALLER), "--dry-run"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kept, pip = told.splitlines()
    assert f" torch=={version('torch')} " in f"{kept} "
    words = pip.split()
    assert words[:3] == ["pip", "install", "--constraint"]
    assert not any(word.startswith(("torch>", "torch=", "triton")) for word in words)
    assert any(word.startswith("transformers>=") for word in words)
    assert any(word.startswith("megatron-core") for word in words)
