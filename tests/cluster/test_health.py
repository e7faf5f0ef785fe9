"""What a node says of itself; the driver's program is made up where there is none."""

from pathlib import Path

import pytest

from megatron_dasd.cluster.health import what_is_wrong


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("DASD_HEALTH_COMMAND", raising=False)


def test_a_node_without_gpus_is_well() -> None:
    assert what_is_wrong() == ""


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("true", ""),
        ("echo the disk is full; exit 1", "the disk is full"),
        ("exit 3", "DASD_HEALTH_COMMAND ends with status 3"),
    ],
)
def test_the_check_of_the_site(command: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASD_HEALTH_COMMAND", command)
    assert what_is_wrong() == wrong


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        ("printf '0, 0\\n1, 0\\n'", ""),
        ("printf '0, [N/A]\\n1, [N/A]\\n'", ""),
        ("printf '0, 0\\n'", "1 GPUs answer, 2 are given"),
        ("printf '0, 0\\n1, 4\\n'", "uncorrected memory errors of GPU 1"),
        ("echo Unable to determine the device handle; exit 15", "nvidia-smi: Unable to determine"),
    ],
)
def test_what_the_driver_says(
    script: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert what_is_wrong().startswith(wrong)
    assert bool(what_is_wrong()) == bool(wrong)
