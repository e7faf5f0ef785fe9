"""Megatron's process that writes checkpoints, so that it lives as long as its rank and no longer.

As Megatron starts it, it outlives a rank that is killed: it would go on writing into a folder that
the next run removes and writes again.  And a scheduler's signal to stop, which reaches all
processes of a job, would end it in the middle of a save that its rank waits for.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from megatron.core.dist_checkpointing.strategies.async_utils import PersistentAsyncCaller

from megatron_dasd.device.launch import STOP_SIGNALS, die_with_launcher

_loop = PersistentAsyncCaller.async_loop


def loop(*args: object) -> None:
    """Body of the process: Megatron's own, until the rank ends.

    Args:
        args: as Megatron gives them.
    """
    threading.Thread(target=die_with_launcher, daemon=True).start()
    for number in (*STOP_SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _loop(*args)


@contextmanager
def bound_to_this_rank() -> Iterator[None]:
    """Start such processes with :func:`loop`; at the end, none is left."""
    PersistentAsyncCaller.async_loop = staticmethod(loop)
    try:
        yield
    finally:
        process = PersistentAsyncCaller._persistent_process
        if process is not None:  # Megatron has not closed it: this rank ends by an error
            process.kill()
