"""Workers from the host's side: started, replaced, ended with the host."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from megatron_dasd.containment.pool import Pool, WorkerError
from megatron_dasd.containment.probe import TASK
from megatron_dasd.containment.protocol import Failure, Limits
from megatron_dasd.containment.walls import Walls, limits_only
from tests.containment.walls import WALLS, walls_here


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return process.children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=20)[1]


def test_results_come_in_the_order_of_the_requests(pool: Pool) -> None:
    codes = [f"import time; time.sleep({(9 - n) / 100}); result = {n}" for n in range(10)]
    with Pool(TASK, pool.walls, size=3) as several:
        outcomes = several.run([("", code.encode()) for code in codes])
    assert outcomes == [str(n).encode() for n in range(10)]


@pytest.mark.parametrize("name", WALLS)
def test_a_worker_that_is_killed_is_replaced(name: str) -> None:
    with Pool(TASK, walls_here(name), size=1) as pool:
        before = set(workers_of(psutil.Process()))
        assert pool.run([("", b"result = 1")]) == [b"1"]
        [*mine] = set(workers_of(psutil.Process())) - before
        os.kill(max(mine, key=lambda process: process.create_time()).pid, signal.SIGKILL)
        assert gone(mine)
        assert pool.run([("", b"result = 2")]) == [b"2"]


@pytest.mark.parametrize("name", WALLS)
def test_a_worker_that_is_stopped_is_replaced(name: str) -> None:
    with Pool(TASK, walls_here(name), Limits(seconds=3.0), size=1) as pool:
        before = set(workers_of(psutil.Process()))
        assert pool.run([("", b"result = 1")]) == [b"1"]
        for process in set(workers_of(psutil.Process())) - before:
            process.suspend()
        first, second = pool.run([("", b"result = 2"), ("", b"result = 3")])
        assert isinstance(first, Failure)
        assert first.kind == "timeout"
        assert second == b"3"


@pytest.mark.parametrize("name", WALLS)
def test_workers_end_with_their_host(name: str) -> None:
    walls_here(name)
    program = (
        "from megatron_dasd.containment import pool, probe, walls\n"
        f"pool = pool.Pool(probe.TASK, walls.{name}(), size=2)\n"
        "pool.run([('', b'result = 1')] * 2)\n"
        "print('ready', flush=True)\n"
        "pool.run([('', b'while True: pass')] * 2)\n"
    )
    host = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert host.stdout
    with host:
        assert host.stdout.readline() == b"ready\n"
        time.sleep(0.5)  # until the endless requests run
        workers = workers_of(psutil.Process(host.pid))
        assert len(workers) >= 2
        host.kill()
    assert gone(workers)


def test_an_interrupted_pool_starts_anew(pool: Pool) -> None:
    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            pool.run([("", b"while True: pass")] * 20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert pool.run([("", b"result = 42")]) == [b"42"]


def test_a_task_that_is_not_there() -> None:
    with (
        Pool("megatron_dasd.containment.nowhere:prepare", limits_only()) as pool,
        pytest.raises(WorkerError, match="behind limits only: ModuleNotFoundError: .*nowhere"),
    ):
        pool.run([("", b"")])


def test_walls_that_cannot_be_put_up() -> None:
    walls = Walls("a wall", True, ("/nowhere/wall",), b"", None, False)
    with (
        Pool(TASK, walls) as pool,
        pytest.raises(WorkerError, match="no worker starts behind a wall: .*/nowhere/wall"),
    ):
        pool.run([("", b"")])


def test_a_worker_that_does_not_start_in_time() -> None:
    walls = Walls("a wall", True, ("/bin/sleep", "60"), b"", None, False)
    with (
        Pool(TASK, walls, Limits(prepare_seconds=0.3)) as pool,
        pytest.raises(WorkerError, match="no worker starts behind a wall"),
    ):
        pool.run([("", b"")])


def test_nothing_to_do_starts_nothing() -> None:
    walls = Walls("a wall", True, ("/nowhere/wall",), b"", None, False)
    with Pool(TASK, walls) as pool:
        assert pool.run([]) == []
