"""Worker processes on this machine, or the ranks of an MPI job on several.

Under ``mpiexec -n N python -m mpi4py.futures PROGRAM`` rank 0 runs the program and the others wait
for work.  Elsewhere workers are forked from this process and share what it has loaded: a tokenizer
takes seconds to load.  They are forked before any thread runs that could hold a lock.
"""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess

from megatron_dasd.device.launch import die_with_launcher
from megatron_dasd.errors import UserError

_FORK = multiprocessing.get_context("fork")


def run_all[Task, Result](
    work: Callable[[Task], Result], jobs: Iterable[Task], num_workers: int | None
) -> Iterator[Result]:
    """Do jobs in any order; yields their results as they complete.

    Args:
        work: a module-level function, so that other processes can import it.
        jobs: its arguments; each is pickled to a process.
        num_workers: processes on this machine; 1: this process alone; None: one per core.
            Ignored under MPI, where all ranks but this one work.

    Raises:
        UserError: a process was killed.
    """
    waiting = list(jobs)
    num_workers = min(num_workers or len(os.sched_getaffinity(0)), len(waiting))
    if _under_mpi() and waiting:
        from mpi4py.futures import MPIPoolExecutor

        return _results(MPIPoolExecutor(), work, waiting)
    if num_workers > 1:
        return _results(ProcessPoolExecutor(num_workers, _FORK, _begin), work, waiting)
    return map(work, waiting)


def _results[Task, Result](
    pool: Executor, work: Callable[[Task], Result], jobs: list[Task]
) -> Iterator[Result]:
    others = set(multiprocessing.active_children())
    with warnings.catch_warnings():
        # other threads of this process wait for work, in libraries that are prepared for a fork
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        futures = [pool.submit(work, job) for job in jobs]
    return _collected(pool, futures, others)


def _collected[Result](
    pool: Executor, futures: list[Future[Result]], others: set[BaseProcess]
) -> Iterator[Result]:
    try:
        for future in as_completed(futures):
            yield future.result()
        pool.shutdown()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was ended from outside (out of memory?); "
            "the same command goes on from here, num_workers: 1 needs least"
        ) from None
    finally:
        # after an error nothing is waited for: unfinished work is done again by the next run
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.kill()


def _begin() -> None:
    """Set up a worker: it ends with its parent, which alone handles Ctrl-C."""
    threading.Thread(target=die_with_launcher, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _under_mpi() -> bool:
    """Whether this is rank 0 of several ranks under ``mpi4py.futures``."""
    if "mpi4py.futures" not in sys.modules:
        return False
    from mpi4py import MPI

    return bool(MPI.COMM_WORLD.Get_size() > 1)
