"""The worker's process: started again when it ends, and ended with the training."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from megatron_dasd.config.on_policy import OnPolicy
from megatron_dasd.pipeline.runner import ROLLOUT_WORKER
from megatron_dasd.training.exchange import WorkerPayload
from megatron_dasd.training.worker_process import WorkerProcess
from tests.config.test_on_policy import STAGES


def wait_for(what: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def running(logs: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        line = " ".join(process.cmdline()) if process.status() != psutil.STATUS_ZOMBIE else ""
        if ROLLOUT_WORKER in line and str(logs) in line:
            found.append(process)
    return found


def test_one_that_ends_is_told_of_and_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It cannot do anything with this payload, which names no model."""
    payload = WorkerPayload(
        stage=tmp_path,
        model=tmp_path / "nowhere",
        start=tmp_path,
        settings=OnPolicy.model_validate({"stages": STAGES}),
        seed=1,
        places={},
    )
    with WorkerProcess(ROLLOUT_WORKER, payload, tmp_path) as worker:
        (first,) = running(tmp_path)
        told: list[str] = []

        def hears() -> bool:
            worker.poll()
            told.append(capsys.readouterr().out)
            return bool(told[-1])

        wait_for(hears)
        assert told[-1] == (
            f"    the rollout worker ended with status 2: error: {tmp_path}/nowhere: no "
            f"Hugging Face model here (no config.json) (log: {tmp_path}/"
            "rollout_worker.log); training goes on, and it is started again in 1 s\n"
        )
        worker.poll()
        assert not running(tmp_path)  # not at once
        time.sleep(1.1)
        worker.poll()
        (second,) = running(tmp_path)
        assert second.pid != first.pid
    assert not running(tmp_path)
