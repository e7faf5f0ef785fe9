"""Servers as processes of a job: announced, started again with other weights, ended with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from megatron_dasd.config.base import Server
from megatron_dasd.engines.base import Generation
from megatron_dasd.engines.server_engine import ServerEngine
from megatron_dasd.engines.services import SERVICES, announced_urls
from megatron_dasd.engines.weights import Weights
from tests.engines.test_server_engine import Seen, request

ROOT = Path(__file__).parents[2]


def wait_for(what: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts the program for a service ``student`` whose server is the stub."""
    monkeypatch.setenv(SERVICES, str(tmp_path / "services"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SLURMD_NODENAME", "127.0.0.1")

    def serve(*words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.slurm.speaker", "{port}", *words]
        server = {"command": command, "health": "/v1/models", "start_seconds": 30}
        stage = {"kind": "import_hf", "model": "."}
        file = {"name": "x", "run_dir": str(tmp_path / "run"), "stages": {"a": stage}}
        path = tmp_path / "pipeline.yaml"
        path.write_text(yaml.safe_dump(file | {"cluster": {"servers": {"student": server}}}))
        program = [sys.executable, "-m", "megatron_dasd.cluster.serve", str(path), "student"]
        return subprocess.Popen(
            program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return serve


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_stage_that_brings_weights_has_the_server_started_again(
    start: Start, model_dir: Path
) -> None:
    serving = start("{name}", "{model}")
    try:
        wait_for(lambda: announced_urls("student"))
        (first,) = announced_urls("student")
        server = Server(service="student", reload="restart", probe=False, patience_seconds=30)
        engine = ServerEngine(server, model_dir)
        ((_, answers),) = engine.generate([(0, [request(1), request(2)])], Seen())
        assert all(isinstance(answer, Generation) for answer in answers)
        assert (
            engine.name == Weights.from_folder(model_dir).version
        )  # as the server calls its model
        (second,) = announced_urls("student")
        assert second != first
    finally:
        children = Path(f"/proc/{serving.pid}/task/{serving.pid}/children").read_text().split()
        serving.send_signal(signal.SIGTERM)
        told, _ = serving.communicate(timeout=30)
    assert serving.returncode == 75
    assert announced_urls("student") == []
    assert children
    assert not any(is_alive(int(pid)) for pid in children)
    version = Weights.from_folder(model_dir).version
    assert [line.split(" at ")[0] for line in told.splitlines()] == [
        "student: serving student",
        f"student: serving {version}",
    ]


def test_a_command_without_places_for_weights_is_told_what_it_lacks(
    start: Start, model_dir: Path
) -> None:
    serving = start()
    wait_for(lambda: announced_urls("student"))
    server = Server(service="student", reload="restart", probe=False, patience_seconds=1)
    with pytest.raises(Exception, match="no server answers"):
        list(ServerEngine(server, model_dir).generate([(0, [request(1)])], Seen()))
    told, _ = serving.communicate(timeout=30)
    assert serving.returncode == 2
    assert "to be started with other weights it needs {model} and, for the name" in told


def test_a_server_that_ends_ends_the_job_with_its_status(
    start: Start,
) -> None:
    serving = start()
    wait_for(lambda: announced_urls("student"))
    (child,) = Path(f"/proc/{serving.pid}/task/{serving.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    serving.communicate(timeout=30)
    assert serving.returncode != 0
    assert announced_urls("student") == []
