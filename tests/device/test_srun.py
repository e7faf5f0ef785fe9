"""Steps asked for; that they run is tested with a real Slurm (tests/slurm)."""

import signal
import threading
import time
from pathlib import Path

import pytest

from megatron_dasd.device.srun import run_step, step_request, steps_folder
from megatron_dasd.errors import UserError


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_JOB_ID", "17")


def test_the_request_is_a_line_each(tmp_path: Path) -> None:
    payload, logs = tmp_path / "payload.json", tmp_path / "logs"
    text = step_request("some.module", payload, 16, logs, {"A": "1", "B": "x y"})
    assert text.splitlines() == [
        *("2", "16", "8", f"{logs}/rank-%t.log", "some.module", str(payload)),
        *("A=1", "B=x y"),
    ]


def test_ranks_that_do_not_divide(tmp_path: Path) -> None:
    told = r"3 ranks \(launch.num_ranks\) do not divide among the 2 nodes of job 17"
    with pytest.raises(UserError, match=told):
        step_request("m", tmp_path, 3, tmp_path, {})


def test_whether_anybody_runs_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DASD_STEPS", raising=False)
    assert steps_folder() is None
    monkeypatch.setenv("DASD_STEPS", str(tmp_path))
    assert steps_folder() == tmp_path
    monkeypatch.setenv("DASD_STEPS", str(tmp_path / "gone"))
    with pytest.raises(UserError, match="gone: no such folder"):
        steps_folder()


def test_the_step_is_told_once_for_each_signal_and_its_status_comes_back(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("9")  # of a step before
    stops: list[signal.Signals] = []
    seen: list[str] = []

    def script() -> None:
        for name in ("request", "stop", "stop"):
            while not (tmp_path / name).exists():
                time.sleep(0.01)
            seen.append((tmp_path / name).read_text())
            (tmp_path / name).unlink()
            stops.append(signal.SIGTERM)
            if name == "stop":
                stops.append(signal.SIGUSR1)
        (tmp_path / "status").write_text("3")

    thread = threading.Thread(target=script)
    thread.start()
    assert run_step(tmp_path, "what to run", stops, lambda: None) == 3
    thread.join()
    assert seen == ["what to run", "", ""]
