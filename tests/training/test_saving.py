"""Which saves are interim ones, and the process that writes them."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import psutil
import pytest

from megatron_dasd.training.saving import is_interim


@pytest.mark.parametrize(
    ("iteration", "exit_every", "expected"),
    [
        (50, None, True),
        (100, None, False),  # the last
        (70, None, False),  # a limit of time asked for it
        (50, 25, False),  # the run ends here
        (50, 40, True),
    ],
)
def test_training_goes_on_behind_an_interim_save(
    iteration: int, exit_every: int | None, expected: bool
) -> None:
    assert is_interim(iteration, last=100, every=50, exit_every=exit_every) == expected


def _rank(pids: Connection) -> None:
    """One that has a process which writes checkpoints."""
    from megatron_dasd.device import cpu_adapter

    cpu_adapter.install()
    from megatron.core.dist_checkpointing.strategies.async_utils import PersistentAsyncCaller

    from megatron_dasd.training.save_worker import bound_to_this_rank

    with bound_to_this_rank():
        pids.send(PersistentAsyncCaller._get_process(0, "fork").pid)
        time.sleep(600)


def test_what_writes_checkpoints_lives_as_long_as_its_rank() -> None:
    """A signal to stop, which all processes of a job get, does not end it; its rank's end does."""
    ours, theirs = multiprocessing.Pipe()
    rank = multiprocessing.get_context("fork").Process(target=_rank, args=(theirs,))
    rank.start()
    try:
        assert ours.poll(120)
        writer = psutil.Process(ours.recv())
        time.sleep(0.5)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(writer.pid, number)
        time.sleep(0.5)
        assert writer.is_running()
        assert writer.status() != psutil.STATUS_ZOMBIE
    finally:
        rank.kill()
        rank.join()
    until = time.monotonic() + 20
    while writer.is_running() and writer.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.05)
