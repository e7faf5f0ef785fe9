import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_dasd.device.launch import launch
from megatron_dasd.errors import Stopped, UserError

PROGRAM = "tests.device.programs"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_ranks_meet(tmp_path: Path) -> None:
    polls: list[int] = []
    launch(
        PROGRAM, {"do": "all_reduce", "out": str(tmp_path)}, 2, tmp_path, lambda: polls.append(1)
    )
    assert [(tmp_path / f"sum-{rank}").read_text() for rank in range(2)] == ["3", "3"]
    assert "rank 1 of 2" in (tmp_path / "rank-1.log").read_text()
    assert polls


def test_a_users_mistake_on_one_rank_is_told_and_ends_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^field lr: is not a number$"):
        launch(PROGRAM, {"do": "complain", "rank": 1, "out": str(tmp_path)}, 2, tmp_path)
    for file in tmp_path.glob("pid-*"):
        assert not is_alive(int(file.read_text()))


def test_a_crash_names_rank_reason_and_log(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        launch(PROGRAM, {"do": "crash", "rank": 0, "out": str(tmp_path)}, 2, tmp_path)
    assert "rank 0 ended with status 70: unexpected RuntimeError: no such tensor" in str(
        error.value
    )
    assert str(tmp_path / "rank-0.log") in str(error.value)


def test_ranks_end_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from megatron_dasd.device.launch import launch;"
        f"p = Path({str(tmp_path)!r});"
        f"launch({PROGRAM!r}, {{'do': 'wait', 'out': str(p)}}, 2, p)"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    try:
        wait_until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
        pids = [int(file.read_text()) for file in tmp_path.glob("pid-*")]
        assert all(is_alive(pid) for pid in pids)
    finally:
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in pids), seconds=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_told_to_stop_the_ranks_end_in_their_own_time(
    number: signal.Signals, tmp_path: Path
) -> None:
    def when_they_wait() -> None:
        if len(list(tmp_path.glob("pid-*"))) == 2 and not (tmp_path / "told").exists():
            (tmp_path / "told").touch()
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"^stopped on {number.name}$"):
        launch(PROGRAM, {"do": "save", "out": str(tmp_path)}, 2, tmp_path, when_they_wait)
    assert [(tmp_path / f"saved-{rank}").read_text() for rank in range(2)] == ["all", "all"]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_a_rank_that_is_starting(number: signal.Signals, tmp_path: Path) -> None:
    def when_it_is_imported() -> None:
        file = tmp_path / "pid"
        if file.exists() and file.read_text():
            os.kill(int(file.read_text()), number)
            file.unlink()

    with pytest.raises(Stopped, match="^rank 0 was stopped by a signal$"):
        launch("tests.device.slow_program", {}, 1, tmp_path, when_it_is_imported)
    assert f"stopped on {number.name}; the same" in (tmp_path / "rank-0.log").read_text()


def test_ranks_that_have_nothing_to_save_end_at_once(tmp_path: Path) -> None:
    def when_they_wait() -> None:
        if len(list(tmp_path.glob("pid-*"))) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="^stopped on SIGTERM$"):
        launch(PROGRAM, {"do": "wait", "out": str(tmp_path)}, 2, tmp_path, when_they_wait)
    assert not any(is_alive(int(file.read_text())) for file in tmp_path.glob("pid-*"))


def test_a_signal_to_the_whole_process_group(tmp_path: Path) -> None:
    """As Slurm sends it: ranks hear it too, and what started them must outlive their saving."""
    code = (
        "import sys; from pathlib import Path; from megatron_dasd.device.launch import launch\n"
        "from megatron_dasd.errors import Stopped\n"
        f"p = Path({str(tmp_path)!r})\n"
        f"try: launch({PROGRAM!r}, {{'do': 'save', 'out': str(p)}}, 2, p)\n"
        "except Stopped: sys.exit(75)"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
        os.killpg(launcher.pid, signal.SIGTERM)
        assert launcher.wait(60) == 75
    finally:
        launcher.kill()
    assert [(tmp_path / f"saved-{rank}").read_text() for rank in range(2)] == ["all", "all"]


KILLED = """
import multiprocessing, os, signal, threading
from multiprocessing import forkserver
from megatron_dasd.device.launch import _start
from megatron_dasd.errors import UserError

context = multiprocessing.get_context("forkserver")
forkserver.ensure_running()
server = forkserver._forkserver._forkserver_pid
os.kill(server, signal.SIGSTOP)  # it takes the request, and is killed before it answers
threading.Timer(0.3, os.kill, (server, signal.SIGKILL)).start()
try:
    _start(context.Process(target=print), "train", 3)
except UserError as error:
    print(error)
"""


def test_a_fork_server_that_is_killed_at_a_ranks_start_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith(
        "train: rank 3 did not start, the process that forks the ranks has ended ("
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
